//! The matrix of SPECIFICATION.md's promises and the tests that show them: `docs/promises.md`.
//!
//! A test names its promises in a comment above it: `// Shows 1.4, 2.1.`. A promise without a test
//! says why, in italics: `*Untested: …*`, `*Tried: …*`, `*Measured: …*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};

/// Where the matrix is, from the project's root.
const MATRIX: &str = "docs/promises.md";
/// How a promise says that no test shows it.
const REASONS: [&str; 3] = ["*Untested: ", "*Tried: ", "*Measured: "];

/// A section of the specification.
struct Section {
    heading: String,
    promises: Vec<Promise>,
}

struct Promise {
    number: String,
    text: String,
}

/// Writes the matrix, or compares it with the one that is there.
///
/// # Errors
/// When a promise has neither a test nor a reason, a test names a promise that is not there, or,
/// with `check`, the matrix is out of date.
pub(crate) fn run(check: bool) -> anyhow::Result<ExitCode> {
    let root = &Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let specification = fs::read_to_string(root.join("SPECIFICATION.md"))?;
    let sections = sections(&specification);
    let mut numbers = BTreeSet::new();
    for Promise { number, .. } in sections.iter().flat_map(|section| &section.promises) {
        ensure!(numbers.insert(number), "SPECIFICATION.md has promise {number} twice");
    }
    let mut tests = BTreeMap::new();
    for directory in ["tests", "crates"] {
        collect(root, &root.join(directory), &mut tests)?;
    }
    let matrix = render(&sections, &mut tests)?;
    if let Some((number, tests)) = tests.first_key_value() {
        bail!("{}: shows {number}, which SPECIFICATION.md has not", tests.join(", "));
    }
    let path = root.join(MATRIX);
    if check {
        let found = fs::read_to_string(&path).unwrap_or_default();
        ensure!(found == matrix, "{MATRIX} is out of date: `cargo xtask promises` writes it");
        return Ok(ExitCode::SUCCESS);
    }
    fs::write(&path, matrix).with_context(|| path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn sections(specification: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in specification.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push(Section { heading: heading.to_owned(), promises: Vec::new() });
        }
        let Some(section) = sections.last_mut() else { continue };
        if let Some((number, text)) = line.strip_prefix("- **").and_then(|rest| rest.split_once("** ")) {
            section.promises.push(Promise { number: number.to_owned(), text: text.to_owned() });
        } else if let (Some(more), Some(promise)) = (line.strip_prefix("  "), section.promises.last_mut()) {
            promise.text.push(' ');
            promise.text.push_str(more);
        }
    }
    sections
}

/// Adds the tests below a directory to the promises that they name.
fn collect(root: &Path, directory: &Path, tests: &mut BTreeMap<String, Vec<String>>) -> anyhow::Result<()> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root)?.display().to_string();
            marks(&file, &fs::read_to_string(&path)?, tests)?;
        }
    }
    Ok(())
}

fn marks(file: &str, source: &str, tests: &mut BTreeMap<String, Vec<String>>) -> anyhow::Result<()> {
    let mut mark = String::new();
    for line in source.lines().map(str::trim) {
        if let Some(numbers) = line.strip_prefix("// Shows ") {
            mark = numbers.to_owned();
        } else if let Some(more) =
            line.strip_prefix("// ").filter(|_| !mark.is_empty() && !mark.ends_with('.'))
        {
            mark.push(' ');
            mark.push_str(more);
        } else if !mark.is_empty()
            && let Some((_, rest)) = line.split_once("fn ")
        {
            let name = rest.split('(').next().unwrap_or_default();
            let numbers = std::mem::take(&mut mark);
            let numbers =
                numbers.strip_suffix('.').with_context(|| format!("{file}: {numbers}: no full stop"))?;
            for number in numbers.split(", ") {
                tests.entry(number.to_owned()).or_default().push(format!("`{file}::{name}`"));
            }
        }
    }
    ensure!(mark.is_empty(), "{file}: no test follows \"Shows {mark}\"");
    Ok(())
}

/// Takes each promise's tests out of `tests`.
fn render(sections: &[Section], tests: &mut BTreeMap<String, Vec<String>>) -> anyhow::Result<String> {
    let mut matrix = String::from(
        "# Which test shows which promise\n\n\
         Written by `cargo xtask promises` from [SPECIFICATION.md](../SPECIFICATION.md) and the tests' comments; \
         `make lint`\nchecks that it is up to date.\n",
    );
    for Section { heading, promises } in sections {
        write!(matrix, "\n## {heading}\n\n| Promise | Shown by |\n|---|---|\n")?;
        for Promise { number, text } in promises {
            let reason = REASONS.iter().find_map(|reason| text.find(reason));
            let shown = match (tests.remove(number), reason) {
                (Some(tests), _) => tests.join("<br>"),
                // Its links are from the root.
                (None, Some(reason)) => text[reason..].replace("](docs/", "]("),
                (None, None) => bail!("no test shows promise {number}, and it says no reason"),
            };
            writeln!(matrix, "| {number} | {shown} |")?;
        }
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn promises_have_tests_or_reasons() {
        let specification =
            "# S\n\n## 1. One\n\n- **1.1** A thing\n  holds.\n- **1.2** More. *Untested: no way.*\n";
        let sections = sections(specification);
        assert_eq!(sections[0].promises[0].text, "A thing holds.");
        let mut tests = BTreeMap::new();
        marks("a.rs", "// Shows 1.1,\n// 1.2.\n#[test]\nfn it_does() {}\n", &mut tests).unwrap();
        let matrix = render(&sections, &mut tests.clone()).unwrap();
        assert!(matrix.contains("| 1.1 | `a.rs::it_does` |\n"), "{matrix}");
        tests.remove("1.2");
        let matrix = render(&sections, &mut tests).unwrap();
        assert!(matrix.contains("| 1.2 | *Untested: no way.* |\n"), "{matrix}");
        let error = render(&sections, &mut tests).unwrap_err().to_string();
        assert!(error.contains("promise 1.1"), "{error}");
        assert!(marks("a.rs", "// Shows 1.1.\n", &mut tests).is_err());
    }
}
