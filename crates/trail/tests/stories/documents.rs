//! The documents cover each kind of finding.

use std::collections::BTreeSet;

use taptrail_trail::FindingKind;

// Shows 10.13.
#[test]
fn each_kind_of_finding_is_explained_and_nothing_else() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/findings.md");
    let text = std::fs::read_to_string(path).unwrap();
    let sections: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let kinds: BTreeSet<_> = FindingKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(sections, kinds);
}
