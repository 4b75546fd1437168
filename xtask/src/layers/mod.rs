//! Checks the shape of the workspace: [`rule`] says who may use whom, [`unsafe_code`] finds
//! attributes that lift the ban, and this file reads the workspace for both.

mod rule;
mod unsafe_code;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Package};
use toml_edit::DocumentMut;

use crate::{builds, sources};
use rule::Edge;

/// Fails with every breach found, so that one run shows them all.
pub(crate) fn check(root: &Path) -> Result<()> {
    let metadata = builds::workspace(root)?;
    let members = metadata.workspace_packages();
    let names: Vec<&str> = members.iter().map(|package| package.name.as_str()).collect();
    let edges = edges(&members);
    let mut breaches: Vec<String> =
        rule::violations(&names, &edges).iter().map(ToString::to_string).collect();
    breaches.extend(lint_breaches(root, &members)?);
    breaches.extend(unsafe_breaches(root, &members)?);
    if breaches.is_empty() {
        println!("layers: {} crates and {} edges are in order", names.len(), edges.len());
        return Ok(());
    }
    bail!("the layers of the workspace are broken:\n  {}", breaches.join("\n  "));
}

fn edges(members: &[&Package]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for package in members {
        for dependency in &package.dependencies {
            let is_member = members.iter().any(|member| member.name.as_str() == dependency.name);
            if is_member && dependency.path.is_some() {
                let kind = match dependency.kind {
                    DependencyKind::Development => "dev-dependency",
                    DependencyKind::Build => "build-dependency",
                    _ => "dependency",
                };
                edges.push(Edge { from: package.name.to_string(), to: dependency.name.clone(), kind });
            }
        }
    }
    edges
}

fn lint_breaches(root: &Path, members: &[&Package]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let workspace = read_manifest(&root.join("Cargo.toml"))?;
    let level = lint_level(&workspace, "unsafe_code");
    if !matches!(level.as_deref(), Some("deny" | "forbid")) {
        let given = level.as_deref().unwrap_or("not set");
        breaches.push(format!(
            "Cargo.toml: [workspace.lints.rust] unsafe_code is {given}; it must be \"deny\" or \"forbid\""
        ));
    }
    for package in members {
        if !inherits_lints(&read_manifest(package.manifest_path.as_std_path())?) {
            breaches.push(format!(
                "{}: it does not inherit the lints; add `[lints]` with `workspace = true` to its Cargo.toml",
                package.name
            ));
        }
    }
    Ok(breaches)
}

fn unsafe_breaches(root: &Path, members: &[&Package]) -> Result<Vec<String>> {
    let root = root.canonicalize()?;
    let files = sources::list_files(&root)?;
    let mut breaches = Vec::new();
    for package in members.iter().filter(|package| !rule::may_be_unsafe(&package.name)) {
        let folder = package.manifest_path.parent().context("a manifest lies in a folder")?.as_std_path();
        for file in files.iter().filter(|file| sources::has_extension(file, "rs")) {
            let path = root.join(file);
            if !path.starts_with(folder) {
                continue;
            }
            for line in unsafe_code::lifted_bans(&fs::read_to_string(&path)?) {
                breaches.push(format!(
                    "{file}:{line}: lifts the ban on unsafe code, which belongs to {} alone",
                    rule::UNSAFE_CRATES.join(" and ")
                ));
            }
        }
    }
    Ok(breaches)
}

fn read_manifest(path: &Path) -> Result<DocumentMut> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.parse().with_context(|| format!("{} is not TOML", path.display()))
}

fn inherits_lints(manifest: &DocumentMut) -> bool {
    let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    inherits.and_then(toml_edit::Item::as_bool) == Some(true)
}

fn lint_level(manifest: &DocumentMut, lint: &str) -> Option<String> {
    let lint = manifest.get("workspace")?.get("lints")?.get("rust")?.get(lint)?;
    let level = lint.as_str().or_else(|| lint.get("level")?.as_str());
    level.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::write_file;

    /// A throw-away workspace of two real layers; `contract_extra` ends the lower one's manifest.
    fn workspace(contract_extra: &str, contract_source: &str) -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        write_file(
            &root.join("Cargo.toml"),
            "[workspace]\nresolver = \"3\"\nmembers = [\"contract\", \"reference\"]\n\
             [workspace.lints.rust]\nunsafe_code = \"deny\"\n",
        )?;
        let manifest =
            |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
        write_file(&root.join("contract/Cargo.toml"), &(manifest("theria-contract") + contract_extra))?;
        write_file(&root.join("contract/src/lib.rs"), contract_source)?;
        write_file(
            &root.join("reference/Cargo.toml"),
            &(manifest("theria-reference")
                + "[lints]\nworkspace = true\n[dependencies]\ntheria-contract = { path = \"../contract\" }\n"),
        )?;
        write_file(&root.join("reference/src/lib.rs"), "")?;
        Ok(folder)
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn a_workspace_in_order_passes() -> Result<()> {
        check(workspace(LINTS, "#![forbid(unsafe_code)]\n")?.path())
    }

    #[test]
    fn a_wrong_edge_fails_and_is_named() -> Result<()> {
        for (table, kind) in [
            ("dependencies", "dependency"),
            ("dev-dependencies", "dev-dependency"),
            ("build-dependencies", "build-dependency"),
            ("target.'cfg(windows)'.dependencies", "dependency"),
        ] {
            // A renamed dependency must not slip through either.
            let wrong = "under = { package = \"theria-reference\", path = \"../reference\" }";
            let folder = workspace(&format!("{LINTS}[{table}]\n{wrong}\n"), "")?;
            let error = check(folder.path()).expect_err("a lower layer used a higher one").to_string();
            let edge = format!("theria-contract -> theria-reference ({kind})");
            assert!(error.contains(&edge), "{table}: {error}");
        }
        Ok(())
    }

    #[test]
    fn a_crate_that_sets_its_own_lints_fails() -> Result<()> {
        let folder = workspace("[lints.rust]\nunsafe_code = \"allow\"\n", "")?;
        let error = check(folder.path()).expect_err("the lints are not inherited").to_string();
        assert!(error.contains("theria-contract: it does not inherit the lints"), "{error}");
        Ok(())
    }

    #[test]
    fn a_workspace_that_allows_unsafe_code_fails() -> Result<()> {
        let folder = workspace(LINTS, "")?;
        let manifest = folder.path().join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        write_file(&manifest, &text.replace("\"deny\"", "{ level = \"allow\" }"))?;
        let error = check(folder.path()).expect_err("unsafe code is allowed").to_string();
        assert!(error.contains("unsafe_code is allow"), "{error}");
        Ok(())
    }

    #[test]
    fn a_source_that_lifts_the_ban_fails_and_is_named() -> Result<()> {
        let source = concat!("//! Docs.\n", "#![", "allow(unsafe_code)]\n");
        let error = check(workspace(LINTS, source)?.path()).expect_err("the ban is lifted").to_string();
        assert!(error.contains("contract/src/lib.rs:2: lifts the ban"), "{error}");
        Ok(())
    }
}
