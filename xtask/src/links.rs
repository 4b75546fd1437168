//! Finds relative links in Markdown that lead nowhere. Addresses on the web are left alone: a
//! check must not depend on a network.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sources;

/// Fails with every dead link found.
pub(crate) fn check(root: &Path) -> Result<()> {
    let files = sources::list_files(root)?;
    let pages: Vec<&String> = files.iter().filter(|file| sources::has_extension(file, "md")).collect();
    let mut dead = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        for (line, target) in targets(&text) {
            if !leads_somewhere(root, page, &target) {
                dead.push(format!("{page}:{line}: {target}"));
            }
        }
    }
    if dead.is_empty() {
        println!("links: {} pages have no dead relative link", pages.len());
        return Ok(());
    }
    bail!("links to files that do not exist:\n  {}", dead.join("\n  "));
}

fn leads_somewhere(root: &Path, page: &str, target: &str) -> bool {
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    let Some(path) = resolve(folder, &target.replace("%20", " ")) else { return false };
    root.join(path).exists()
}

/// The path that a link from `folder` means; none when it leaves the project, where a reader of
/// a copy has nothing.
fn resolve(folder: &Path, target: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in folder.join(target).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Relative targets with their lines: `[text](target)` and `[label]: target`, outside of code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
            (None, None) => {
                let prose = without_code(line);
                let targets = inline_targets(&prose).into_iter().chain(definition_target(&prose));
                found.extend(targets.filter_map(relative).map(|target| (index + 1, target)));
            }
        }
    }
    found
}

/// The line without `code`, in which brackets mean nothing.
fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    // An unpaired backtick is a letter: what follows it is prose.
    let paired = parts.len() - 1 - (parts.len() - 1) % 2;
    let prose = parts.iter().enumerate().filter(|(index, _)| index % 2 == 0 || *index > paired);
    prose.map(|(_, part)| *part).collect::<Vec<_>>().join(" ")
}

fn inline_targets(prose: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (at, opening) in prose.match_indices("](") {
        let rest = &prose[at + opening.len()..];
        let mut depth = 1_usize;
        for (end, letter) in rest.char_indices() {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                targets.push(&rest[..end]);
                break;
            }
        }
    }
    targets
}

fn definition_target(prose: &str) -> Option<&str> {
    let (_, target) = prose.strip_prefix('[')?.split_once("]:")?;
    Some(target.trim())
}

/// The file part of a target, unless it is an address, an anchor on the same page, or nothing.
fn relative(target: &str) -> Option<String> {
    let target = match target.trim().strip_prefix('<') {
        Some(bracketed) => bracketed.split('>').next()?,
        None => target.split_whitespace().next()?, // what follows is a title
    };
    let scheme = target.split([':', '/']).next().unwrap_or_default();
    let is_address = target[scheme.len()..].starts_with(':');
    let file = target.split('#').next()?;
    (!is_address && !file.is_empty()).then(|| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::write_file;

    fn found(text: &str) -> Vec<String> {
        targets(text).into_iter().map(|(_, target)| target).collect()
    }

    #[test]
    fn links_are_found_in_every_form() {
        assert_eq!(
            found("see [a](a.md), [b](../b.md#part) and [c](c.md \"title\")"),
            ["a.md", "../b.md", "c.md"]
        );
        assert_eq!(found("[label]: folder/d.md"), ["folder/d.md"]);
        assert_eq!(found("![image](e_(1).svg) [f](<g h.md>)"), ["e_(1).svg", "g h.md"]);
        assert_eq!(targets("\n\n[a](a.md)"), [(3, "a.md".to_owned())]);
    }

    #[test]
    fn addresses_anchors_and_code_are_left_alone() {
        for text in [
            "[a](https://example.org/a.md)",
            "[a](mailto:a@example.org)",
            "[a](#part)",
            "`[a](a.md)`",
            "```\n[a](a.md)\n```",
            "~~~text\n```\n[a](a.md)\n~~~",
            "f[i](x",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
        assert_eq!(found("```\ncode\n```\n[a](a.md)"), ["a.md"], "prose after code counts");
        assert_eq!(found("a lone ` and [a](a.md)"), ["a.md"], "an unpaired backtick opens no code");
    }

    #[test]
    fn a_dead_link_fails_and_is_named_with_its_line() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        write_file(&root.join("docs/a.md"), "# A\n[root](../README.md) [folder](.) [b](b.md)\n")?;
        write_file(&root.join("README.md"), "[a](docs/a.md)\n")?;
        let error = check(root).expect_err("b.md does not exist").to_string();
        assert!(error.contains("docs/a.md:2: b.md"), "{error}");
        assert_eq!(error.lines().count(), 2, "one dead link: {error}");
        write_file(&root.join("docs/b.md"), "[outside](../../elsewhere.md)\n")?;
        let error = check(root).expect_err("a link may not leave the project").to_string();
        assert!(error.contains("docs/b.md:1"), "{error}");
        write_file(&root.join("docs/b.md"), "")?;
        check(root)
    }
}
