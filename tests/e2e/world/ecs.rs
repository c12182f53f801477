//! Documents against the fields of the Elastic Common Schema.

use std::collections::BTreeSet;

use serde_json::Value;

/// The rows of `generated/csv/fields.csv` of ECS 8.17.0 whose fields taptrail uses: field, type,
/// normalization.
const FIELDS: &str = include_str!("../../../crates/report/schema/ecs-8.17.0.csv");

/// Words that ECS allows, of those that taptrail uses.
const KINDS: [&str; 2] = ["alert", "event"];
const OUTCOMES: [&str; 3] = ["failure", "success", "unknown"];
/// The types that ECS expects of `event.category: network`.
const NETWORK_TYPES: [&str; 8] =
    ["access", "allowed", "connection", "denied", "end", "info", "protocol", "start"];

/// A field of ECS.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    kind: &'static str,
    is_array: bool,
}

/// The fields that taptrail uses.
pub(crate) fn listed() -> impl Iterator<Item = Field> {
    FIELDS.lines().skip(1).map(|line| {
        let mut cells = line.split(',');
        let mut cell = || cells.next().unwrap_or_default();
        Field { name: cell(), kind: cell(), is_array: cell() == "array" }
    })
}

/// The fields of a document, with dots, without those below `taptrail`.
pub(crate) fn of(document: &Value) -> BTreeSet<String> {
    let mut all = Vec::new();
    flatten(document, "", &mut all);
    all.into_iter().map(|(name, _)| name).collect()
}

/// What a document has against ECS, a line for each fault.
pub(crate) fn faults(document: &Value) -> Vec<String> {
    let mut all = Vec::new();
    flatten(document, "", &mut all);
    let mut faults: Vec<String> =
        all.iter().filter_map(|(name, value)| Some(format!("{name}: {}", fault(name, value)?))).collect();
    for required in ["/@timestamp", "/ecs/version", "/event/kind", "/taptrail/type"] {
        if document.pointer(required).is_none() {
            faults.push(format!("{required} is missing"));
        }
    }
    faults
}

fn fault(name: &str, value: &Value) -> Option<String> {
    let Some(field) = listed().find(|field| field.name == name) else {
        return Some("not among the fields of ECS that are listed".to_owned());
    };
    let values = match value {
        Value::Array(values) if field.is_array => values.as_slice(),
        _ if field.is_array => return Some("not an array".to_owned()),
        one => std::slice::from_ref(one),
    };
    let fits = |value: &Value| match field.kind {
        "date" => value.as_str().is_some_and(|text| text.ends_with('Z') && text.contains('T')),
        "long" => value.is_i64() || value.is_u64(),
        _ => value.is_string(),
    };
    if !values.iter().all(fits) {
        return Some(format!("not of type {}: {value}", field.kind));
    }
    let allowed: &[&str] = match name {
        "event.kind" => &KINDS,
        "event.outcome" => &OUTCOMES,
        "event.category" => &["network"],
        "event.type" => &NETWORK_TYPES,
        _ => return None,
    };
    let is_allowed = |value: &Value| value.as_str().is_some_and(|word| allowed.contains(&word));
    (!values.iter().all(is_allowed)).then(|| format!("not one of {allowed:?}: {value}"))
}

fn flatten<'a>(value: &'a Value, name: &str, all: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members.iter().filter(|(key, _)| !name.is_empty() || *key != "taptrail") {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(member, &format!("{name}{dot}{key}"), all);
            }
        }
        value => all.push((name.to_owned(), value)),
    }
}
