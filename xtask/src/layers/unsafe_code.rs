//! Finds attributes that lift the ban on unsafe code.
//!
//! The compiler enforces `deny`, but an attribute can overrule `deny`; this scan is what makes the
//! ban hold. It reads text, not syntax: what it must find are attributes, and `cargo fmt` keeps
//! those in plain sight.

/// Lint levels that let unsafe code through.
const LIFTING: &[&str] = &["allow", "expect", "warn"];

/// Lines, counted from one, of the attributes in `source` that lift the ban.
pub(crate) fn lifted_bans(source: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, _) in source.match_indices('#') {
        let Some(body) = attribute_body(&source[at..]) else { continue };
        let line_start = source[..at].rfind('\n').map_or(0, |newline| newline + 1);
        if !source[line_start..at].contains("//") && lifts(body) {
            lines.push(source[..at].matches('\n').count() + 1);
        }
    }
    lines
}

/// What stands between the brackets of the attribute that `text` begins with.
fn attribute_body(text: &str) -> Option<&str> {
    let after_hash = text.strip_prefix('#')?.trim_start();
    let opened = after_hash.strip_prefix('!').unwrap_or(after_hash).trim_start();
    balanced(opened, '[', ']')
}

/// The inside of the bracket that `text` begins with, up to the one that closes it.
fn balanced(text: &str, open: char, close: char) -> Option<&str> {
    let inside = text.strip_prefix(open)?;
    let mut depth = 1_usize;
    for (at, letter) in inside.char_indices() {
        if letter == open {
            depth += 1;
        } else if letter == close {
            depth -= 1;
            if depth == 0 {
                return Some(&inside[..at]);
            }
        }
    }
    None
}

fn lifts(body: &str) -> bool {
    LIFTING.iter().any(|level| {
        body.match_indices(level).any(|(at, _)| {
            let rest = body[at + level.len()..].trim_start();
            balanced(rest, '(', ')').is_some_and(names_unsafe_code)
        })
    })
}

fn names_unsafe_code(lints: &str) -> bool {
    lints.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == "unsafe_code")
}

#[cfg(test)]
mod tests {
    use super::lifted_bans;

    // Attributes are put together at run time: this file must pass its own scan.
    fn attribute(body: &str) -> String {
        format!("#[{body}]\nfn f() {{}}\n")
    }

    #[test]
    fn every_way_to_lift_the_ban_is_found() {
        for body in [
            "allow(unsafe_code)",
            "expect(unsafe_code, reason = \"quick\")",
            "warn(unsafe_code)",
            "allow(\n    clippy::pedantic,\n    unsafe_code,\n)",
            "cfg_attr(all(test, unix), allow(unsafe_code))",
            "allow (unsafe_code)",
        ] {
            assert_eq!(lifted_bans(&attribute(body)), [1], "{body}");
        }
        assert_eq!(lifted_bans(&format!("//! Docs.\n\n#!{}", &attribute("allow(unsafe_code)")[1..])), [3]);
        assert_eq!(lifted_bans(&format!("fn f() {{ {} }}", attribute("allow(unsafe_code)"))), [1]);
    }

    #[test]
    fn what_keeps_the_ban_is_left_alone() {
        for body in ["deny(unsafe_code)", "forbid(unsafe_code)", "allow(unsafe_op_in_unsafe_fn)", "test"] {
            assert_eq!(lifted_bans(&attribute(body)), [0; 0], "{body}");
        }
        assert_eq!(lifted_bans(&format!("/// Write {}", attribute("allow(unsafe_code)"))), [0; 0]);
        assert_eq!(lifted_bans("let unsafe_code = allow(1); # [unclosed"), [0; 0]);
    }
}
