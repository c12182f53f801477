//! Outputs of taptrail against their JSON Schemas.

#![allow(clippy::expect_used)]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::error::{ValidationError, ValidationErrorKind};
use serde_json::Value;
use taptrail_report::Schema;

static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<jsonschema::Validator>>>> =
    LazyLock::new(Mutex::default);

/// What an output has against the schema of this name, a line for each fault.
pub(crate) fn faults(name: &str, output: &Value) -> Vec<String> {
    let validator = {
        let mut all = VALIDATORS.lock().expect("no other test has panicked here");
        let new = || {
            let schema = Schema::named(name).expect("a schema of this name");
            let schema = schema.standalone().expect("JSON");
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            Arc::new(options.build(&schema).expect("a valid schema"))
        };
        Arc::clone(all.entry(name.to_owned()).or_insert_with(new))
    };
    let mut faults = Vec::new();
    validator.iter_errors(output).for_each(|error| describe(name, &error, &mut faults));
    faults
}

/// Panics if an output has anything against the schema of this name.
#[track_caller]
pub(crate) fn assert_valid(name: &str, output: &Value) {
    let faults = faults(name, output);
    assert!(faults.is_empty(), "{}\nin {output:#}", faults.join("\n"));
}

fn describe(name: &str, error: &ValidationError<'_>, faults: &mut Vec<String>) {
    let place = error.instance_path();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => faults.push(format!(
            "{name}: {place} has the fields {unexpected:?}, which the schema lacks: describe each in \
             crates/report/schema/{name}.json, or in defs.json"
        )),
        // Of several alternatives, the one that fits best is meant.
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let fit = |errors: &&Vec<ValidationError<'static>>| {
                let deepest = errors.iter().map(|error| error.instance_path().as_str().len()).min();
                let mistaken = |error: &ValidationError<'_>| {
                    use ValidationErrorKind::{Constant, Required, Type};
                    matches!(error.kind(), Constant { .. } | Type { .. } | Required { .. })
                };
                let mistakes = errors.iter().filter(|error| mistaken(error)).count();
                (std::cmp::Reverse(mistakes), deepest)
            };
            match context.iter().max_by_key(fit) {
                Some(errors) => errors.iter().for_each(|error| describe(name, error, faults)),
                None => faults.push(format!("{name}: {place}: {error}")),
            }
        }
        _ => faults.push(format!("{name}: {place}: {error}")),
    }
}

/// Outputs that differ from a valid one in one place, each with that place. The schema must refuse
/// each of them.
pub(crate) fn mutations(output: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    mutate(output, String::new(), &|changed| changed, &mut all);
    all
}

/// Adds to `all` what becomes of the whole output when a part of it is changed; `rebuild` puts the
/// part back into the whole.
fn mutate(part: &Value, place: String, rebuild: &dyn Fn(Value) -> Value, all: &mut Vec<(String, Value)>) {
    match part {
        Value::Object(members) => {
            let mut more = members.clone();
            more.insert("undocumented".to_owned(), Value::from(1));
            all.push((format!("{place}/undocumented"), rebuild(Value::Object(more))));
            for (key, member) in members {
                let whole = |changed: Value| {
                    let mut members = members.clone();
                    members.insert(key.clone(), changed);
                    rebuild(Value::Object(members))
                };
                mutate(member, format!("{place}/{key}"), &whole, all);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let whole = |changed: Value| {
                    let mut items = items.clone();
                    items[at] = changed;
                    rebuild(Value::Array(items))
                };
                mutate(item, format!("{place}/{at}"), &whole, all);
            }
            all.push((place, rebuild(Value::from("not a list"))));
        }
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {
            // No field may be an object or a list where it is a word, a number or nothing.
            all.push((place, rebuild(Value::from(vec![Value::from(1.5)]))));
        }
    }
}
