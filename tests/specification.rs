//! SPECIFICATION.md names tests that are there.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

#[test]
fn every_test_that_the_specification_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("SPECIFICATION.md")).unwrap();
    let mut named = 0;
    // What stands between backticks is every second part.
    for reference in text.split('`').skip(1).step_by(2) {
        let Some((file, name)) = reference.split_once("::") else { continue };
        if name == "NAME" {
            continue;
        }
        let path: PathBuf = match file.ends_with(".rs") {
            true => root.join("crates").join(file),
            false => root.join("tests").join(file).with_extension("rs"),
        };
        let source =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(source.contains(&format!("fn {name}(")), "{reference} is named, but not there");
        named += 1;
    }
    assert!(named > 100, "only {named} tests are named");
}
