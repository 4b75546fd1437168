//! A page in Markdown, with numbered tables.

use std::fmt::{Display, Write as _};

/// A page under construction.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    tables: usize,
}

impl Page {
    fn add(&mut self, text: impl Display) {
        // A text takes whatever is written to it.
        let _ = write!(self.text, "{text}");
    }

    pub(super) fn title(&mut self, words: &str) {
        self.add(format_args!(
            "# {words}\n\n<!-- made by `theria experiment phase10 --report`: change the rows, not this page -->\n"
        ));
    }

    pub(super) fn section(&mut self, words: &str) {
        self.add(format_args!("\n## {words}\n"));
    }

    pub(super) fn paragraph(&mut self, words: &str) {
        self.add(format_args!("\n{words}\n"));
    }

    /// A picture beside the page.
    pub(super) fn picture(&mut self, words: &str, file: &str) {
        self.add(format_args!("\n![{words}]({file})\n"));
    }

    /// A table and what it shows.
    pub(super) fn table<H: AsRef<str>>(
        &mut self,
        caption: &str,
        header: &[H],
        lines: impl IntoIterator<Item = Vec<String>>,
    ) {
        self.tables += 1;
        let number = self.tables;
        self.add(format_args!("\n**Table {number}.** {caption}\n\n"));
        let header: Vec<&str> = header.iter().map(AsRef::as_ref).collect();
        self.line(header.iter().copied());
        self.line(header.iter().map(|_| "---"));
        for line in lines {
            self.line(line.iter().map(String::as_str));
        }
    }

    fn line<'a>(&mut self, cells: impl Iterator<Item = &'a str>) {
        let cells: Vec<String> = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        self.add(format_args!("| {} |\n", cells.join(" | ")));
    }

    pub(super) fn text(self) -> String {
        self.text
    }
}

/// A name as it is: code, in which nothing is a sign of Markdown.
pub(super) fn escaped(name: &str) -> String {
    format!("`{}`", name.replace('`', "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_numbered_and_no_cell_breaks_out_of_its_line() {
        let mut page = Page::default();
        page.table("One.", &["a", "b"], [vec!["1|2".into(), "x\ny".into()]]);
        page.table("Two.", &["a"], []);
        let text = page.text();
        assert!(text.contains("**Table 1.** One.") && text.contains("**Table 2.** Two."), "{text}");
        assert!(text.contains("| 1\\|2 | x y |\n"), "{text}");
    }
}
