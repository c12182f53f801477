//! Filters in TOML: `[[filter]]` tables with rules, as `shipped.toml` has them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::builder::RuleWords;
use super::{Builder, Fault, FilterTextProblem, MAX_DEFINITIONS, MalformedText, Named, Word};
use crate::spec::quoted;

pub(super) fn read(text: &str) -> Result<Vec<Named>, Fault> {
    let table = DeTable::parse(text).map_err(|error| {
        let why = error.message().lines().collect::<Vec<_>>().join(" ");
        let problem = FilterTextProblem::Malformed { format: "TOML", source: MalformedText(why) };
        Fault::new(error.span().unwrap_or(0..0), problem)
    })?;
    let mut found = Vec::new();
    for (key, value) in entries(table.get_ref()) {
        if key.0 != "filter" {
            return Err(unknown(key, "here; [[filter]] is"));
        }
        for filter in array("filter", value)? {
            if found.len() >= MAX_DEFINITIONS {
                let problem = FilterTextProblem::TooMany { what: "filters", limit: MAX_DEFINITIONS };
                return Err(Fault::new(filter.span(), problem));
            }
            found.push(definition(filter)?);
        }
    }
    if found.is_empty() {
        return Err(Fault::new(0..0, FilterTextProblem::Missing("[[filter]]")));
    }
    Ok(found)
}

fn definition(value: &Spanned<DeValue<'_>>) -> Result<Named, Fault> {
    let (mut name, mut chain, mut priority) = (None, None, None);
    let (mut references, mut rules) = (None, None);
    for (key, value) in entries(table("filter", value)?) {
        match key.0 {
            "name" => name = Some(word(key.0, value)?),
            "chain" => chain = Some(word(key.0, value)?),
            "priority" => priority = Some(word(key.0, value)?),
            "filters" => references = Some(array("filters", value)?),
            "rules" => rules = Some(array("rules", value)?),
            _ => return Err(unknown(key, "in a filter")),
        }
    }
    let Some(name) = name else {
        return Err(Fault::new(value.span(), FilterTextProblem::Missing("name")));
    };
    let place = name.1.clone();
    let mut builder = Builder::new(name, chain, priority)?;
    for value in references.into_iter().flatten() {
        if let DeValue::Table(_) = value.get_ref() {
            let mut entries = entries(table("filters", value)?);
            let Some(at) = entries.iter().position(|(key, _)| key.0 == "filter") else {
                return Err(Fault::new(value.span(), FilterTextProblem::Missing("filter")));
            };
            let (_, filter) = entries.remove(at);
            let mut parameters = Vec::new();
            for (key, value) in entries {
                match value.get_ref() {
                    DeValue::Array(values) => {
                        for value in values {
                            parameters.push((key.clone(), word(key.0, value)?));
                        }
                    }
                    _ => parameters.push((key.clone(), word(key.0, value)?)),
                }
            }
            builder.refer(word("filter", filter)?, parameters)?;
        } else {
            builder.refer(word("filters", value)?, Vec::new())?;
        }
    }
    for value in rules.into_iter().flatten() {
        let mut words = RuleWords::default();
        for (key, value) in entries(table("rules", value)?) {
            match key.0 {
                "direction" => words.direction = Some(word(key.0, value)?),
                "action" => words.action = Some(word(key.0, value)?),
                "priority" => words.priority = Some(word(key.0, value)?),
                "statematch" => words.state_match = Some(word(key.0, value)?),
                _ => {
                    if let Some(first) = &words.protocol {
                        let fault = Fault::new(key.1, FilterTextProblem::Repeated("protocol".to_owned()));
                        return Err(fault.beside(first.1.clone()));
                    }
                    for (name, value) in entries(table(key.0, value)?) {
                        words.attributes.push((name.clone(), word(name.0, value)?));
                    }
                    words.protocol = Some(key);
                }
            }
        }
        builder.rule(words, value.span())?;
    }
    Ok((builder.finish(), place))
}

/// A table's entries in the order of the text.
fn entries<'t>(table: &'t DeTable<'_>) -> Vec<(Word<'t>, &'t Spanned<DeValue<'t>>)> {
    let mut entries: Vec<_> =
        table.iter().map(|(key, value)| ((key.get_ref().as_ref(), key.span()), value)).collect();
    entries.sort_by_key(|((_, span), _)| span.start);
    entries
}

fn unknown((name, span): Word<'_>, place: &str) -> Fault {
    Fault::new(span, FilterTextProblem::Unknown { what: "Key", name: quoted(name), place: place.to_owned() })
}

fn kind(name: &str, span: Range<usize>, needed: &'static str) -> Fault {
    Fault::new(span, FilterTextProblem::Kind { name: quoted(name), needed })
}

fn table<'v>(name: &str, value: &'v Spanned<DeValue<'v>>) -> Result<&'v DeTable<'v>, Fault> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(table),
        _ => Err(kind(name, value.span(), "a table")),
    }
}

fn array<'v>(name: &str, value: &'v Spanned<DeValue<'v>>) -> Result<&'v [Spanned<DeValue<'v>>], Fault> {
    match value.get_ref() {
        DeValue::Array(values) => Ok(values),
        _ => Err(kind(name, value.span(), "an array")),
    }
}

/// Text, a number or a truth, as it is written.
fn word<'v>(name: &str, value: &'v Spanned<DeValue<'v>>) -> Result<Word<'v>, Fault> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.as_ref(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        _ => return Err(kind(name, value.span(), "text or a decimal number")),
    };
    if text.chars().any(char::is_control) {
        return Err(kind(name, value.span(), "text without control characters"));
    }
    Ok((text, value.span()))
}
