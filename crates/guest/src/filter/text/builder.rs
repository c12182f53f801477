//! One filter in the making, from words of either format.

use std::ops::Range;

use super::super::attribute::{Attribute, Protocol, why_not};
use super::super::definition::{
    Action, ChainName, Definition, Direction, FilterRule, RULE_PRIORITY, Reference, Setting, State, Term,
    is_filter_name, is_variable,
};
use super::{Fault, FilterTextProblem, MAX_ENTRIES, Word};
use crate::spec::{closest, quoted};

/// A rule's words, each with its place.
#[derive(Default)]
pub(super) struct RuleWords<'t> {
    pub(super) direction: Option<Word<'t>>,
    pub(super) action: Option<Word<'t>>,
    pub(super) priority: Option<Word<'t>>,
    pub(super) state_match: Option<Word<'t>>,
    pub(super) protocol: Option<Word<'t>>,
    /// The protocol's attributes: names and values.
    pub(super) attributes: Vec<(Word<'t>, Word<'t>)>,
}

pub(super) struct Builder(Definition);

impl Builder {
    pub(super) fn new(
        name: Word<'_>,
        chain: Option<Word<'_>>,
        priority: Option<Word<'_>>,
    ) -> Result<Self, Fault> {
        let chain = match chain {
            None => ChainName::root(),
            Some((text, span)) => {
                text.parse().map_err(|()| Fault::new(span, FilterTextProblem::Chain(quoted(text))))?
            }
        };
        let priority = match priority {
            None => chain.default_priority(),
            Some(word) => self::priority(word)?,
        };
        let name = self::name(name)?;
        Ok(Self(Definition { name, chain, priority, references: Vec::new(), rules: Vec::new() }))
    }

    pub(super) fn refer(
        &mut self,
        filter: Word<'_>,
        parameters: Vec<(Word<'_>, Word<'_>)>,
    ) -> Result<(), Fault> {
        if self.0.references.len() >= MAX_ENTRIES {
            let problem = FilterTextProblem::TooMany { what: "references in a filter", limit: MAX_ENTRIES };
            return Err(Fault::new(filter.1, problem));
        }
        let mut reference = Reference { filter: name(filter)?, parameters: Vec::new() };
        for ((name, span), (value, _)) in parameters {
            if !is_variable(name) {
                return Err(Fault::new(span, FilterTextProblem::Variable(quoted(name))));
            }
            reference.parameters.push((name.to_owned(), value.to_owned()));
        }
        self.0.references.push(reference);
        Ok(())
    }

    /// Adds a rule; `span` is where to point when something is missing.
    pub(super) fn rule(&mut self, words: RuleWords<'_>, span: Range<usize>) -> Result<(), Fault> {
        if self.0.rules.len() >= MAX_ENTRIES {
            let problem = FilterTextProblem::TooMany { what: "rules in a filter", limit: MAX_ENTRIES };
            return Err(Fault::new(span, problem));
        }
        let direction = choose("direction", words.direction, &Direction::WORDS, &span)?;
        let action = choose("action", words.action, &Action::WORDS, &span)?;
        let mut rule = FilterRule {
            direction,
            action,
            priority: words.priority.map_or(Ok(RULE_PRIORITY), priority)?,
            protocol: None,
            state: State::Default,
            settings: Vec::new(),
        };
        if let Some(word) = words.state_match {
            let words = [("true", true), ("1", true), ("false", false), ("0", false)];
            if !choose("statematch", Some(word), &words, &span)? {
                rule.state = State::Ignored;
            }
        }
        if let Some((text, span)) = words.protocol {
            let Ok(protocol) = text.parse::<Protocol>() else {
                let problem = FilterTextProblem::Unknown {
                    what: "Protocol",
                    name: quoted(text),
                    place: "in a rule".into(),
                };
                let fault = Fault::new(span, problem);
                return Err(match closest(text, Protocol::names()) {
                    Some(meant) => fault.help(format!("did you mean '{meant}'?")),
                    None => fault,
                });
            };
            rule.protocol = Some(protocol);
            settings(&mut rule, protocol, text, words.attributes)?;
        }
        self.0.rules.push(rule);
        Ok(())
    }

    pub(super) fn finish(self) -> Definition {
        self.0
    }
}

fn settings(
    rule: &mut FilterRule,
    protocol: Protocol,
    title: &str,
    attributes: Vec<(Word<'_>, Word<'_>)>,
) -> Result<(), Fault> {
    let mut negated = false;
    let mut seen: Vec<&str> = Vec::new();
    for ((name, span), (value, value_span)) in attributes {
        if seen.contains(&name) {
            return Err(Fault::new(span, FilterTextProblem::Repeated(quoted(name))));
        }
        seen.push(name);
        match name {
            "match" => {
                let words = [("yes", false), ("true", false), ("no", true), ("false", true)];
                negated = choose("match", Some((value, value_span)), &words, &span)?;
                continue;
            }
            "comment" => continue,
            "state" if matches!(protocol, Protocol::Transport(_)) => {
                if value != "NONE" {
                    let reason =
                        "interfaces have no connection tracking in nftables (family netdev); NONE is taken";
                    let problem = FilterTextProblem::Attribute { name: name.to_owned(), reason };
                    return Err(Fault::new(value_span, problem));
                }
                rule.state = State::OneWay;
                continue;
            }
            _ => {}
        }
        let Some(attribute) = Attribute::find(protocol, name) else {
            if let Some(reason) = why_not(name) {
                let problem = FilterTextProblem::Attribute { name: name.to_owned(), reason };
                return Err(Fault::new(span, problem));
            }
            let problem = FilterTextProblem::Unknown {
                what: "Attribute",
                name: quoted(name),
                place: format!("in '{}'", quoted(title)),
            };
            let fault = Fault::new(span, problem);
            return Err(match closest(name, Attribute::all(protocol)) {
                Some(meant) => fault.help(format!("did you mean '{meant}'?")),
                None => fault,
            });
        };
        let term: Term = value
            .parse()
            .map_err(|()| Fault::new(value_span.clone(), FilterTextProblem::Variable(quoted(value))))?;
        if let Term::Literal(text) = &term {
            attribute
                .check(text)
                .map_err(|problem| Fault::new(value_span, FilterTextProblem::Value(problem)))?;
        }
        rule.settings.push(Setting { attribute, negated: false, term });
    }
    // `match` is the whole element's, wherever it stands.
    rule.settings.iter_mut().for_each(|setting| setting.negated = negated);
    Ok(())
}

fn name((text, span): Word<'_>) -> Result<String, Fault> {
    if is_filter_name(text) {
        Ok(text.to_owned())
    } else {
        Err(Fault::new(span, FilterTextProblem::Name(quoted(text))))
    }
}

fn priority((text, span): Word<'_>) -> Result<i32, Fault> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| is_number && (-1000..=1000).contains(number))
        .ok_or_else(|| Fault::new(span, FilterTextProblem::Priority(quoted(text))))
}

fn choose<T: Copy>(
    name: &'static str,
    word: Option<Word<'_>>,
    choices: &[(&'static str, T)],
    whole: &Range<usize>,
) -> Result<T, Fault> {
    let Some((text, span)) = word else {
        return Err(Fault::new(whole.clone(), FilterTextProblem::Missing(name)));
    };
    choices.iter().find_map(|(word, value)| (*word == text).then_some(*value)).ok_or_else(|| {
        let choices = choices.iter().map(|(word, _)| *word).collect();
        Fault::new(span, FilterTextProblem::Choice { name, text: quoted(text), choices })
    })
}
