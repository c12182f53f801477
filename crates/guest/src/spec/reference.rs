//! Compares the reference for users with the parser.

use std::fs;
use std::path::Path;

use super::{Key, NicSpec};
use crate::xml;

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/nic-spec.md");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of each fenced block in `language`.
fn blocks<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let opening = format!("\n```{language}\n");
    text.split(opening.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap_or(rest)).collect()
}

#[test]
fn every_example_in_the_reference_is_taken() {
    let text = reference();
    let specs: Vec<NicSpec> = blocks(&text, "spec")
        .iter()
        .flat_map(|block| block.lines())
        .map(|line| line.parse().unwrap_or_else(|error| panic!("{error}")))
        .collect();
    assert!(specs.len() >= 6);
    // The XML example and the SPEC after it are said to be one and the same.
    let interface =
        xml::parse(blocks(&text, "xml")[0], "docs/nic-spec.md", &xml::Networks::default()).unwrap();
    assert_eq!(Some(&interface.nic), specs.last());
}

// Shows 5.12.
#[test]
fn every_key_has_its_row_in_the_references_tables_in_canonical_order() {
    let text = reference();
    let rows: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key))
        .filter(|key| !key.starts_with('<'))
        .collect();
    assert_eq!(rows, Key::all().map(Key::as_str).collect::<Vec<_>>());
}

#[test]
fn an_error_in_the_reference_looks_as_it_does() {
    let text = reference();
    let pictures = blocks(&text, "text");
    let error = "bridge=br0,quues=4".parse::<NicSpec>().expect_err("a slip");
    assert_eq!(pictures[0], error.render(false));
    let xml =
        "<interface type='bridge'>\n  <source bridge='br0'/>\n  <backenddomain name='net'/>\n</interface>";
    assert_eq!(
        pictures[1],
        xml::parse(xml, "web1.xml", &xml::Networks::default()).expect_err("backenddomain").render(false)
    );
}
