//! The documents cover each kind of finding.

use std::collections::{BTreeMap, BTreeSet};

use taptrail_trail::{FindingKind, Severity};

use crate::libvirt_data;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/findings.md");
    std::fs::read_to_string(path).unwrap()
}

/// The paragraphs of each kind's section, each on one line.
fn sections(document: &str) -> BTreeMap<&str, Vec<String>> {
    let sections = document.split("\n### ").skip(1).map(|section| {
        let (kind, text) = section.split_once('\n').unwrap();
        let text = text.split("\n## ").next().unwrap();
        (kind, text.split("\n\n").map(|paragraph| paragraph.trim().replace('\n', " ")).collect())
    });
    sections.collect()
}

// Shows 10.13.
#[test]
fn each_kind_of_finding_is_explained_and_nothing_else() {
    let text = document();
    let sections: BTreeSet<_> = sections(&text).into_keys().collect();
    let kinds: BTreeSet<_> = FindingKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(sections, kinds);
}

#[test]
fn each_kind_has_its_severity_and_says_what_to_do() {
    let text = document();
    for (kind, paragraphs) in sections(&text) {
        let has = |begin: &str| paragraphs.iter().filter(|paragraph| paragraph.starts_with(begin)).count();
        for part in ["*Severity:* ", "*Shown by:* ", "*What to do:* ", "*Example:* "] {
            assert_eq!(has(part), 1, "{kind} {part}");
        }
        let severity = FindingKind::from_word(kind).unwrap().severity().as_str();
        let given = paragraphs[0].strip_prefix("*Severity:* ").unwrap();
        assert_eq!(given.split(['.', ':']).next(), Some(severity), "{kind}");
    }
    for severity in Severity::ALL {
        assert!(text.contains(&format!("\n| {} | ", severity.as_str())), "{severity:?}");
    }
}

#[test]
fn the_examples_are_sentences_of_recorded_logs_where_these_have_the_kind() {
    let mut recorded: BTreeMap<FindingKind, BTreeSet<String>> = BTreeMap::new();
    for folder in libvirt_data::folders() {
        for finding in libvirt_data::report(&folder).findings {
            recorded.entry(finding.kind).or_default().insert(finding.text);
        }
    }
    let text = document();
    let sections = sections(&text);
    for (kind, sentences) in &recorded {
        let example = sections[kind.as_str()].iter().find_map(|text| text.strip_prefix("*Example:* "));
        assert!(example.is_some_and(|example| sentences.contains(example)), "{kind:?}: {example:?}");
    }
    assert!(recorded.len() >= 12, "{:?}", recorded.keys());
}
