//! The project's documents: links lead somewhere, the source files that they name exist, and indices
//! have all.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_heading() {
    let root = root();
    let mut documents = Vec::new();
    find_documents(&root, &mut documents);
    let mut links = 0;
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        for link in links_of(&text) {
            links += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            let name = format!("{} links to {link}", document.strip_prefix(&root).unwrap().display());
            assert!(target.exists(), "{name}, and there is no such file");
            if !heading.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
                let headings = headings_of(&fs::read_to_string(&target).unwrap());
                assert!(headings.iter().any(|one| one == heading), "{name}, and there are only {headings:?}");
            }
        }
    }
    assert!(links > 100, "only {links} links are in {} documents", documents.len());
}

#[test]
fn every_source_file_that_a_document_names_exists() {
    let root = root();
    let mut documents = Vec::new();
    find_documents(&root, &mut documents);
    let mut named = 0;
    for document in &documents {
        // An old entry names files as they were.
        if document.ends_with("CHANGELOG.md") {
            continue;
        }
        let text = fs::read_to_string(document).unwrap();
        for code in text.split('`').skip(1).step_by(2) {
            let file = code.split("::").next().unwrap();
            let is_path = file.ends_with(".rs") && (file.contains("/src/") || file.contains("/tests/"));
            if is_path && !file.contains([' ', '*', '<']) {
                let there =
                    [root.join("crates").join(file), root.join(file)].iter().any(|path| path.exists());
                assert!(there, "{} names {file}, and there is no such file", document.display());
                named += 1;
            }
        }
    }
    assert!(named > 50, "only {named} source files are named");
}

#[test]
fn each_document_and_each_file_of_tests_is_in_its_index() {
    for (directory, extension, index, form) in
        [("docs", "md", "docs/README.md", ["(", ")"]), ("tests/e2e", "rs", "tests/README.md", ["`", "`"])]
    {
        let text = fs::read_to_string(root().join(index)).unwrap();
        let files = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
        let names = files.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        let names: Vec<_> = names.filter(|name| name != "README.md" && name != "main.rs").collect();
        assert!(names.len() > 20, "only {} files are in {directory}", names.len());
        for name in names {
            assert!(text.contains(&format!("{}{name}{}", form[0], form[1])), "{index} lacks {name}");
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Finds all Markdown files, except in hidden directories and `target`.
fn find_documents(directory: &Path, documents: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            find_documents(&path, documents);
        } else if name.ends_with(".md") {
            documents.push(path);
        }
    }
}

/// The targets of inline links to files of this project, outside of code blocks.
fn links_of(text: &str) -> impl Iterator<Item = &str> {
    // Every second part is a fenced block.
    text.split("```").step_by(2).flat_map(|prose| {
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
    })
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings_of(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        in_code ^= line.starts_with("```");
        let heading = line.trim_start_matches('#');
        if in_code || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        anchors.push(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect());
    }
    anchors
}
