//! `documents`: the documents as packages have them. Of the links between them those stay whose
//! target is in the package, too; the others lead to the repository.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::cli::DocumentsArguments;

/// Documents outside of `docs`.
const ABOVE: [&str; 3] = ["README.md", "SECURITY.md", "SPECIFICATION.md"];
const DOCS: &str = "docs";
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");

/// Writes the documents into a directory.
pub(crate) fn write(arguments: &DocumentsArguments) -> Result<ExitCode> {
    let root = root();
    let shipped = shipped(&root)?;
    for path in &shipped {
        let (from, to) = (root.join(path), arguments.dir.join(path));
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("Directory {} can't be made", directory.display()))?;
        }
        let written = match path.extension().is_some_and(|extension| extension == "md") {
            true => {
                let text =
                    fs::read_to_string(&from).with_context(|| format!("{} can't be read", from.display()))?;
                fs::write(&to, rewritten(&text, path, &shipped, &root)?)
            }
            false => fs::copy(&from, &to).map(drop),
        };
        written.with_context(|| format!("{} can't be written", to.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files, relative to the repository: documents, and the pictures in them.
fn shipped(root: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = ABOVE.iter().map(PathBuf::from).collect();
    let docs = root.join(DOCS);
    let entries = fs::read_dir(&docs).with_context(|| format!("{} can't be read", docs.display()))?;
    for entry in entries {
        let path = Path::new(DOCS).join(entry?.file_name());
        if path.extension().is_some_and(|extension| extension == "md" || extension == "png") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// The text of a document with its links as the package needs them.
fn rewritten(text: &str, document: &Path, shipped: &[PathBuf], root: &Path) -> Result<String> {
    let mut parts = Vec::new();
    // Every second part is a fenced block.
    for (number, part) in text.split("```").enumerate() {
        parts.push(if number % 2 == 0 { prose(part, document, shipped, root)? } else { part.to_owned() });
    }
    Ok(parts.join("```"))
}

fn prose(text: &str, document: &Path, shipped: &[PathBuf], root: &Path) -> Result<String> {
    const BEFORE: &str = "](";
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEFORE) {
        let (before, after) = rest.split_at(at + BEFORE.len());
        written.push_str(before);
        let end = after.find(')').unwrap_or(after.len());
        let (target, behind) = after.split_at(end);
        written.push_str(&link(target, document, shipped, root)?);
        rest = behind;
    }
    written.push_str(rest);
    Ok(written)
}

/// The target of a link.
fn link(target: &str, document: &Path, shipped: &[PathBuf], root: &Path) -> Result<String> {
    if target.starts_with('#') || target.contains("://") || target.starts_with("mailto:") {
        return Ok(target.to_owned());
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = within(&document.parent().unwrap_or(Path::new("")).join(path));
    let Some(path) = path.filter(|path| root.join(path).exists()) else {
        bail!("{} links to {target}, and there is no such file", document.display());
    };
    if shipped.contains(&path) {
        return Ok(target.to_owned());
    }
    let kind = if root.join(&path).is_dir() { "tree" } else { "blob" };
    let heading = if heading.is_empty() { String::new() } else { format!("#{heading}") };
    Ok(format!("{REPOSITORY}/{kind}/HEAD/{}{heading}", path.display()))
}

/// A path relative to the repository without `.` and `..`; none if it leads out of it.
fn within(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::ParentDir if found.pop() => {}
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_the_package_leads_to_the_repository() {
        let root = root();
        let shipped = shipped(&root).unwrap();
        let of = |target: &str| link(target, Path::new("docs/packages.md"), &shipped, &root);
        for same in ["watch.md#alerts", "../README.md", "#build", "https://example.org/x", "report-light.png"]
        {
            assert_eq!(of(same).unwrap(), same);
        }
        for (target, expected) in [
            ("../ARCHITECTURE.md#crates", "blob/HEAD/ARCHITECTURE.md#crates"),
            ("../tests/data/libvirt", "tree/HEAD/tests/data/libvirt"),
            ("./../Makefile", "blob/HEAD/Makefile"),
        ] {
            assert_eq!(of(target).unwrap(), format!("{REPOSITORY}/{expected}"));
        }
        assert!(of("nowhere.md").is_err() && of("../../etc/passwd").is_err());
        let text = "[a](../Makefile)\n```sh\n[b](../Makefile)\n```\n[c](watch.md)";
        let expected =
            format!("[a]({REPOSITORY}/blob/HEAD/Makefile)\n```sh\n[b](../Makefile)\n```\n[c](watch.md)");
        assert_eq!(rewritten(text, Path::new("docs/x.md"), &shipped, &root).unwrap(), expected);
    }

    #[test]
    fn no_packaged_document_links_to_a_file_that_the_package_lacks() {
        let directory = tempfile::tempdir().unwrap();
        write(&DocumentsArguments { dir: directory.path().to_owned() }).unwrap();
        let (mut links, mut away) = (0, 0);
        for path in shipped(&root()).unwrap() {
            if path.extension().is_some_and(|extension| extension == "png") {
                assert!(directory.path().join(&path).exists());
                continue;
            }
            let text = fs::read_to_string(directory.path().join(&path)).unwrap();
            for prose in text.split("```").step_by(2) {
                for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                    away += usize::from(target.starts_with(REPOSITORY));
                    if target.contains("://") || target.starts_with('#') || target.starts_with("mailto:") {
                        continue;
                    }
                    links += 1;
                    let target = target.split('#').next().unwrap();
                    let target = directory.path().join(path.parent().unwrap()).join(target);
                    assert!(target.exists(), "{}: {}", path.display(), target.display());
                }
            }
        }
        assert!(links > 100 && away > 20, "{links} links stay, {away} lead to the repository");
    }
}
