//! The differences between taptrail's arguments and libvirt's that docs/libvirt-inputs.md gives a reason
//! for. There may be no other.

use std::cell::Cell;
use std::path::Path;

use super::arguments::Properties;

/// A row of the document's table.
#[derive(Debug)]
struct Row {
    property: String,
    libvirt: Side,
    taptrail: Side,
    used: Cell<usize>,
}

#[derive(Debug)]
enum Side {
    /// Without the property.
    Absent,
    Any,
    Value(String),
}

impl Side {
    fn read(cell: &str) -> Self {
        match cell.trim() {
            "none" => Self::Absent,
            "any" => Self::Any,
            value => Self::Value(value.trim_matches('`').to_owned()),
        }
    }

    fn is(&self, value: Option<&String>) -> bool {
        match self {
            Self::Absent => value.is_none(),
            Self::Any => value.is_some(),
            Self::Value(own) => value == Some(own),
        }
    }
}

/// The table of differences.
#[derive(Debug)]
pub(crate) struct Differences(Vec<Row>);

impl Differences {
    pub(crate) fn of_the_document() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/libvirt-inputs.md");
        let text = std::fs::read_to_string(path).unwrap();
        let table = text.lines().skip_while(|line| !line.starts_with("| Property ")).skip(2);
        let row = |line: &str| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let property = cells[0].trim_matches('`').to_owned();
            assert!(cells.len() == 4 && !cells[3].is_empty(), "{line}");
            Row {
                property,
                libvirt: Side::read(cells[1]),
                taptrail: Side::read(cells[2]),
                used: Cell::new(0),
            }
        };
        Self(table.take_while(|line| line.starts_with('|')).map(row).collect())
    }

    /// What differs and is in no row: property, libvirt's, taptrail's.
    pub(crate) fn unexplained(&self, libvirt: &Properties, taptrail: &Properties) -> Vec<String> {
        let mut names: Vec<&String> = libvirt.keys().chain(taptrail.keys()).collect();
        names.sort();
        names.dedup();
        let mut found = Vec::new();
        for name in names {
            let (theirs, ours) = (libvirt.get(name), taptrail.get(name));
            let is_it = |row: &&Row| &row.property == name && row.libvirt.is(theirs) && row.taptrail.is(ours);
            match self.0.iter().find(is_it) {
                _ if theirs == ours => {}
                Some(row) => row.used.set(row.used.get() + 1),
                None => found.push(format!("{name}: libvirt {theirs:?}, taptrail {ours:?}")),
            }
        }
        found
    }

    /// Shows how often each occurred, and fails at a row that none needs.
    pub(crate) fn report(&self) {
        for row in &self.0 {
            println!(
                "{} times {}: libvirt {:?}, taptrail {:?}",
                row.used.get(),
                row.property,
                row.libvirt,
                row.taptrail
            );
        }
        let unused: Vec<&Row> = self.0.iter().filter(|row| row.used.get() == 0).collect();
        assert!(unused.is_empty(), "no interface differs in {unused:?}");
    }
}
