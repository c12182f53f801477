//! The JSON Schemas (draft 2020-12) of everything that taptrail prints as JSON.
//!
//! The files in `schema/` are written by hand: they are the contract, and outputs are tested
//! against them. Definitions that several of them share are in `defs.json`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The beginning of a reference to a shared definition.
const SHARED: &str = "urn:taptrail:schema:1:defs#/$defs/";

const DEFS: &str = include_str!("../schema/defs.json");

/// The schema of one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Its name: the last part of its `$id`.
    pub name: &'static str,
    text: &'static str,
}

macro_rules! schemas {
    ($($name:literal,)+) => {
        &[$(Schema { name: $name, text: include_str!(concat!("../schema/", $name, ".json")) },)+]
    };
}

impl Schema {
    /// All of them, in the order of `taptrail --help`.
    pub const ALL: &'static [Self] = schemas![
        "summary",
        "trail",
        "trail-lines",
        "guests",
        "guests-lines",
        "guest-events",
        "findings",
        "explain",
        "verify",
        "watch",
        "check",
        "nic",
        "nics",
        "list",
        "events",
        "recover",
        "doctor",
        "archive",
        "ledger-check",
        "ledger-checkpoint",
        "ledger-prune",
        "lake-compact",
        "lake-findings",
        "lake-prune",
        "lake-check",
        "lake-sql",
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|schema| schema.name == name)
    }

    /// The commands and formats whose output it describes.
    ///
    /// # Errors
    ///
    /// None: the text is part of the program.
    pub fn title(self) -> Result<String, serde_json::Error> {
        let schema: Value = serde_json::from_str(self.text)?;
        Ok(schema["title"].as_str().unwrap_or_default().to_owned())
    }

    /// The schema on its own: the shared definitions that it refers to are among its `$defs`.
    ///
    /// # Errors
    ///
    /// None: the text is part of the program.
    pub fn standalone(self) -> Result<Value, serde_json::Error> {
        let mut schema: Value = serde_json::from_str(self.text)?;
        let mut shared: Value = serde_json::from_str(DEFS)?;
        let shared = shared["$defs"].take();
        let mut left = BTreeSet::new();
        localize(&mut schema, &mut left);
        let mut own = match schema["$defs"].take() {
            Value::Object(own) => own,
            _ => Map::new(),
        };
        while let Some(name) = left.pop_first() {
            if own.contains_key(&name) {
                continue;
            }
            let mut definition = shared[name.as_str()].clone();
            localize(&mut definition, &mut left);
            own.insert(name, definition);
        }
        if let Some(members) = schema.as_object_mut() {
            members.shift_remove("$defs");
            if !own.is_empty() {
                members.insert("$defs".to_owned(), Value::Object(own));
            }
        }
        Ok(schema)
    }
}

/// Makes references to shared definitions references to definitions beside them, and collects their
/// names.
fn localize(schema: &mut Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get_mut("$ref")
                && let Some(name) = target.strip_prefix(SHARED)
            {
                names.insert(name.to_owned());
                *target = format!("#/$defs/{name}");
            }
            members.values_mut().for_each(|member| localize(member, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| localize(item, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `each` for every schema within a schema, with its place.
    fn walk(schema: &Value, place: &str, each: &mut impl FnMut(&Value, &str)) {
        each(schema, place);
        for (key, member) in schema.as_object().unwrap() {
            let place = format!("{place}/{key}");
            match key.as_str() {
                "properties" | "$defs" => {
                    for (name, schema) in member.as_object().unwrap() {
                        walk(schema, &format!("{place}/{name}"), each);
                    }
                }
                "items" | "propertyNames" => walk(member, &place, each),
                "additionalProperties" if member.is_object() => walk(member, &place, each),
                "anyOf" | "oneOf" => {
                    for schema in member.as_array().unwrap() {
                        walk(schema, &place, each);
                    }
                }
                "$schema"
                | "$id"
                | "title"
                | "description"
                | "type"
                | "enum"
                | "const"
                | "pattern"
                | "format"
                | "minimum"
                | "minItems"
                | "maxItems"
                | "required"
                | "$ref"
                | "additionalProperties" => {}
                other => panic!("{place}: {other} is not looked into by this test"),
            }
        }
    }

    fn each_schema(mut each: impl FnMut(&Value, &str)) {
        let files = Schema::ALL.iter().map(|schema| (schema.name, schema.text)).chain([("defs", DEFS)]);
        for (name, text) in files {
            walk(&serde_json::from_str(text).unwrap(), name, &mut each);
        }
    }

    #[test]
    fn each_field_is_described_and_no_object_has_others() {
        each_schema(|schema, place| {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                assert_eq!(schema["additionalProperties"], false, "{place}");
                for (name, property) in properties {
                    let text = property["description"].as_str().unwrap_or_default();
                    assert!(text.ends_with('.'), "{place}: '{name}' has no description in sentences");
                }
                for name in schema["required"].as_array().unwrap() {
                    assert!(properties.contains_key(name.as_str().unwrap()), "{place}: {name}");
                }
            } else if schema["type"] == "object" {
                assert!(schema["additionalProperties"].is_object(), "{place}: no map, and no fields");
            }
        });
    }

    #[test]
    fn a_schema_is_known_by_its_name_and_version() {
        for schema in Schema::ALL {
            let text: Value = serde_json::from_str(schema.text).unwrap();
            assert_eq!(text["$schema"], "https://json-schema.org/draft/2020-12/schema");
            assert_eq!(text["$id"], format!("urn:taptrail:schema:1:{}", schema.name));
            assert!(schema.title().unwrap().starts_with("taptrail "), "{schema:?}");
            assert_eq!(Schema::named(schema.name), Some(*schema));
        }
        assert_eq!(Schema::named("defs"), None);
    }

    #[test]
    fn no_schema_has_a_definition_of_a_shared_ones_name() {
        let shared: Value = serde_json::from_str(DEFS).unwrap();
        for schema in Schema::ALL {
            let text: Value = serde_json::from_str(schema.text).unwrap();
            for name in text["$defs"].as_object().iter().flat_map(|own| own.keys()) {
                assert!(shared["$defs"].get(name).is_none(), "{}: {name}", schema.name);
            }
        }
    }

    #[test]
    fn a_schema_on_its_own_refers_to_nothing_outside_and_has_no_unused_definition() {
        for schema in Schema::ALL {
            let whole = schema.standalone().unwrap();
            assert!(jsonschema::meta::is_valid(&whole), "{}", schema.name);
            let mut used = BTreeSet::new();
            walk(&whole, schema.name, &mut |schema, place| {
                let Some(target) = schema.get("$ref").and_then(Value::as_str) else { return };
                let name = target.strip_prefix("#/$defs/").expect(place);
                assert!(whole["$defs"][name].is_object(), "{place}: {name}");
                used.insert(name.to_owned());
            });
            let has = whole["$defs"].as_object().map_or(0, Map::len);
            assert_eq!(used.len(), has, "{}", schema.name);
        }
    }

    #[test]
    fn the_words_of_a_trail_are_those_of_the_program() {
        use taptrail_record::CloseDoubt;
        use taptrail_trail::FindingKind;
        let words = |name: &str, member: Option<&str>| -> BTreeSet<String> {
            let defs: Value = serde_json::from_str(DEFS).unwrap();
            let schema = &defs["$defs"][name];
            let schema = member.map_or(schema, |member| &schema["properties"][member]);
            schema["enum"].as_array().unwrap().iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let kinds = FindingKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
        assert_eq!(words("finding-kind", None), kinds);
        let doubts = CloseDoubt::ALL.iter().map(|doubt| doubt.as_str().to_owned()).collect();
        assert_eq!(words("holding", Some("end_doubt")), doubts);
    }
}
