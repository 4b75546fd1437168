"""Tables between the markers of a page: `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""


def insert(page, name, text):
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")
