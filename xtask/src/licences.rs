//! The licences of everything that is linked into the packaged programs, as one text.
//!
//! Cargo says what is linked: the graph of normal dependencies without procedural macros, for one
//! target. The texts are the files that each crate was published with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::cli::LicencesArguments;
use crate::programs::output_of;

/// The packages whose programs are packaged.
const PACKAGED: [&str; 2] = ["taptrail", "taptrail-bridge-helper"];
/// How the names of files with licences begin.
const NAMES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];
/// Folders of crates that have no part in a program.
const OTHER_FOLDERS: [&str; 7] = [".github", "benches", "build-aux", "ci", "examples", "resources", "tests"];
/// How deep below a crate's own folder the code of others lies: `zstd/lib`, `src/third_party/fiat`.
const MAX_DEPTH: usize = 4;

/// What `cargo metadata` prints, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<PathBuf>,
    source: Option<String>,
    #[serde(default)]
    authors: Vec<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// None of a normal dependency; `dev` or `build`.
    kind: Option<String>,
}

impl Package {
    fn is_macro(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "proc-macro"))
    }

    fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// Writes the licences' texts to the file.
///
/// # Errors
/// When a crate has neither a file with its licence nor one of the licences whose text is here.
pub(crate) fn write(arguments: &LicencesArguments) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&root).args(["metadata", "--locked", "--format-version", "1"]);
    command.args(["--filter-platform", &arguments.target]);
    let metadata: Metadata = serde_json::from_str(&output_of(&mut command)?)?;
    let text = render(&linked(&metadata)?, &root)?;
    fs::write(&arguments.file, text).with_context(|| arguments.file.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The packages of others that are linked into the programs, by name and version.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let packages: BTreeMap<_, _> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<_, _> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let is_packaged = |package: &&Package| PACKAGED.contains(&package.name.as_str());
    let mut waiting: Vec<_> =
        metadata.packages.iter().filter(is_packaged).map(|package| package.id.as_str()).collect();
    ensure!(waiting.len() == PACKAGED.len(), "the workspace has not each of {}", PACKAGED.join(", "));
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        for dependency in &nodes.get(id).with_context(|| format!("cargo resolved no {id}"))?.deps {
            let is_normal = dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
            let package = packages.get(dependency.pkg.as_str());
            if is_normal && package.is_some_and(|package| !package.is_macro()) {
                waiting.push(&dependency.pkg);
            }
        }
    }
    let mut linked: Vec<_> = seen.iter().filter_map(|id| packages.get(id).copied()).collect();
    linked.retain(|package| package.source.is_some());
    linked.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    Ok(linked)
}

/// The list of packages, and each text once, with the packages that it is of.
fn render(packages: &[&Package], root: &Path) -> Result<String> {
    let mut text = String::from(
        "Software of others in the programs of taptrail: what it is, and its licences.\n\n\
         The standard library of Rust, its compiler's part of the programs, is under MIT or Apache-2.0,\n\
         at your option, whose texts are below. SQLite, in libsqlite3-sys, is in the public domain. Of\n\
         XZ Utils, in liblzma-sys, only liblzma is linked, which is under 0BSD. The pages of `taptrail\n\
         report` have D3 in them, with its licence (ISC).\n\n",
    );
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        let folder = package.manifest_path.parent().context("a manifest is in no folder")?;
        let licence = package.license.as_deref().unwrap_or("see its file");
        let from = package.repository.as_deref().unwrap_or("https://crates.io");
        writeln!(text, "{}: {licence}. {from}", package.title())?;
        let mut files = Vec::new();
        collect(folder, 0, &mut files)?;
        files.extend(package.license_file.as_ref().map(|file| folder.join(file)));
        files.sort();
        files.dedup();
        let has_own = files.iter().any(|file| file.parent() == Some(folder));
        for file in files {
            let read = fs::read(&file).with_context(|| file.display().to_string())?;
            let inner = file.strip_prefix(folder).unwrap_or(&file);
            let of = match inner.parent() {
                Some(part) if part != Path::new("") => format!("{} ({})", package.title(), part.display()),
                _ => package.title(),
            };
            texts.entry(tidy(&String::from_utf8_lossy(&read))).or_default().insert(of);
        }
        if !has_own {
            texts.entry(general(package, root)?).or_default().insert(package.title());
        }
    }
    let d3 = fs::read_to_string(root.join("crates/report/assets/vendor/d3-LICENSE"))?;
    texts.entry(tidy(&d3)).or_default().insert("D3".to_owned());
    // The texts of those that most have first.
    let mut texts: Vec<_> = texts.into_iter().collect();
    texts.sort_by_key(|(text, of)| (usize::MAX - of.len(), of.first().cloned(), text.clone()));
    for (licence, of) in texts {
        let of = of.into_iter().collect::<Vec<_>>().join(", ");
        write!(text, "\n{}\n{of}\n\n{licence}\n", "=".repeat(80))?;
    }
    Ok(text)
}

/// Files with licences in a folder and those below it.
fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_ascii_lowercase();
        let is_folder = entry.file_type()?.is_dir();
        if is_folder && depth < MAX_DEPTH && !OTHER_FOLDERS.contains(&name.as_str()) {
            collect(&entry.path(), depth + 1, files)?;
        }
        let is_code = [".rs", ".c", ".h", ".sh", ".py"].iter().any(|end| name.ends_with(end));
        // What the GPL covers of XZ Utils are its programs, which are not linked.
        if !is_folder
            && !is_code
            && NAMES.iter().any(|begin| name.starts_with(begin))
            && !name.contains("gpl")
        {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The text of a licence for a package that was published without its file.
fn general(package: &Package, root: &Path) -> Result<String> {
    let licence = package.license.as_deref().unwrap_or_default();
    let has = |name: &str| licence.split(' ').any(|word| word == name) && !licence.contains("AND");
    if has("MIT") {
        let own = fs::read_to_string(root.join("LICENSE-MIT"))?;
        let authors = match package.authors.as_slice() {
            [] => format!("the authors of {}", package.name),
            authors => authors.join(", "),
        };
        let lines = own.lines().map(|line| match line.starts_with("Copyright") {
            true => format!("Copyright (c) {authors}"),
            false => line.to_owned(),
        });
        return Ok(tidy(&lines.collect::<Vec<_>>().join("\n")));
    }
    if has("Apache-2.0") {
        return Ok(tidy(&fs::read_to_string(root.join("LICENSE-APACHE"))?));
    }
    bail!(
        "{} has no file with its licence ('{licence}'): add the licence's text to xtask/src/licences.rs",
        package.title()
    )
}

/// A text without what differs from copy to copy: ends of lines, and empty lines around it.
fn tidy(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, licence: &str) -> Package {
        serde_json::from_value(serde_json::json!({
            "id": name, "name": name, "version": "1.0.0", "license": licence, "license_file": null,
            "source": "registry", "authors": ["A. Uthor"], "repository": null,
            "manifest_path": format!("/nowhere/{name}/Cargo.toml"), "targets": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_package_without_a_file_gets_the_text_of_its_licence_or_is_named() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mit = general(&package("one", "MIT"), &root).unwrap();
        assert!(mit.contains("Copyright (c) A. Uthor") && mit.contains("WITHOUT WARRANTY"), "{mit}");
        assert!(!mit.contains("taptrail"), "{mit}");
        let apache = general(&package("two", "Apache-2.0"), &root).unwrap();
        assert!(apache.contains("Apache License"), "{apache}");
        for other in ["ISC", "MIT AND ISC", ""] {
            let refused = general(&package("three", other), &root).unwrap_err().to_string();
            assert!(refused.starts_with("three 1.0.0 has no file"), "{refused}");
        }
    }

    #[test]
    fn what_is_linked_is_neither_a_macro_nor_for_tests() {
        let node = |id: &str, deps: &[(&str, Option<&str>)]| {
            let deps =
                deps.iter().map(|(id, kind)| serde_json::json!({"pkg": id, "dep_kinds": [{"kind": kind}]}));
            serde_json::json!({"id": id, "deps": deps.collect::<Vec<_>>()})
        };
        let nodes = serde_json::json!({"nodes": [
            node("taptrail", &[("a", None), ("macro", None), ("dev", Some("dev"))]),
            node("taptrail-bridge-helper", &[("build", Some("build"))]),
            node("a", &[("b", None)]), node("b", &[]), node("macro", &[("c", None)]), node("c", &[]),
        ]});
        let names = ["taptrail", "taptrail-bridge-helper", "b", "a", "macro", "c", "dev", "build"];
        let mut packages: Vec<_> = names.iter().map(|name| package(name, "MIT")).collect();
        packages[0].source = None;
        packages[1].source = None;
        packages[4].targets = vec![Target { kind: vec!["proc-macro".to_owned()] }];
        let metadata = Metadata { packages, resolve: serde_json::from_value(nodes).unwrap() };
        let linked: Vec<_> = linked(&metadata).unwrap().iter().map(|package| package.title()).collect();
        assert_eq!(linked, ["a 1.0.0", "b 1.0.0"]);
    }
}
