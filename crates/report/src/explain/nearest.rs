//! What is nearest to a query that nothing matches: guests with similar names, and what was held
//! before and after the time in question. It is never an answer.

use std::collections::HashSet;

use compact_str::CompactString;
use strsim::damerau_levenshtein;
use taptrail_trail::{Holding, State};

use crate::Filter;
use crate::span::QueryRange;
use crate::style::{Clock as _, TimeFormat};
use crate::text::escape_name;

/// Names that are compared; a trail may have any number.
const MAX_NAMES_COMPARED: usize = 10_000;

/// The longest name that is compared, in bytes: the work grows with the square.
const MAX_NAME_BYTES: usize = 64;

/// Similar names that are shown.
const MAX_SIMILAR_NAMES: usize = 3;

/// The holdings and names that are nearest to a query.
#[derive(Debug, Default)]
pub(super) struct Nearest {
    /// The holding of the subject that ended last before the time in question.
    before: Option<Holding>,
    /// The holding of the subject that began first after it.
    after: Option<Holding>,
    /// Of the subject: what was opened or tried last and never held, where only what was held is
    /// asked for, at any time.
    never_held: Option<Holding>,
    compared: HashSet<CompactString>,
    /// Similar names, with their distances.
    similar: Vec<(usize, CompactString)>,
}

impl Nearest {
    /// Takes a holding that the filter does not select.
    pub(super) fn add(&mut self, holding: &Holding, filter: &Filter) {
        if let Some(name) = filter.subject.as_ref().and_then(|subject| subject.guest_name()) {
            self.compare(&holding.guest.name, name);
        }
        let is_never_held = matches!(holding.state, State::OpenFailed | State::NeverGranted);
        let ever = Filter { granted: false, ..filter.clone() };
        if filter.granted && filter.at.is_none() && is_never_held && ever.matches_at_any_time(holding) {
            let is_later = self
                .never_held
                .as_ref()
                .is_none_or(|last| QueryRange::of(last).from <= QueryRange::of(holding).from);
            if is_later {
                self.never_held = Some(holding.clone());
            }
        }
        let Some(at) = filter.at else { return };
        let had = matches!(holding.state, State::Held | State::Released);
        if !had || !filter.matches_at_any_time(holding) {
            return;
        }
        let span = QueryRange::of(holding);
        if span.from >= at.to.max(at.from) {
            if self.after.as_ref().is_none_or(|after| span.from < QueryRange::of(after).from) {
                self.after = Some(holding.clone());
            }
        } else if span.to <= at.from
            && self.before.as_ref().is_none_or(|before| span.to > QueryRange::of(before).to)
        {
            self.before = Some(holding.clone());
        }
    }

    fn compare(&mut self, name: &CompactString, asked: &str) {
        let is_long = |name: &str| name.len() > MAX_NAME_BYTES;
        if is_long(name) || is_long(asked) || self.compared.len() >= MAX_NAMES_COMPARED {
            return;
        }
        if self.compared.contains(name) {
            return;
        }
        self.compared.insert(name.clone());
        let distance = damerau_levenshtein(&name.to_lowercase(), &asked.to_lowercase());
        // A name of four characters may have one other, one of ten three; or part of a name is asked
        // for, or its blanks and dashes were left out.
        let is_near = distance <= asked.chars().count().div_ceil(4).min(3);
        if name == asked || !(is_near || contains(name, asked)) {
            return;
        }
        let at = self.similar.partition_point(|(other, known)| (*other, known) <= (distance, name));
        self.similar.insert(at, (distance, name.clone()));
        self.similar.truncate(MAX_SIMILAR_NAMES);
    }

    /// A sentence for each.
    pub(super) fn sentences(&self, clock: &TimeFormat) -> Vec<String> {
        let mut sentences = Vec::new();
        let names: Vec<_> = self.similar.iter().map(|(_, name)| escape_name(name)).collect();
        match &names[..] {
            [] => {}
            [name] => sentences.push(format!("A guest with a similar name: {name}")),
            names => sentences.push(format!("Guests with similar names: {}", names.join(", "))),
        }
        let of = |holding: &Holding| {
            let guest = escape_name(&holding.guest.name);
            format!("{guest} on {}, {}", escape_name(&holding.host), holding.mac)
        };
        if let Some(never) = &self.never_held {
            let path = escape_name(&never.device.path);
            let opened = clock.optional(never.opened);
            let what = match never.state {
                State::OpenFailed => format!("the open of {path} failed at {opened}"),
                _ => format!("{path} was opened at {opened}, and QEMU never got it"),
            };
            sentences.push(format!("Tried and never held: {}: {what} (`taptrail explain`)", of(never)));
        }
        if let Some(before) = &self.before {
            let from = clock.optional(before.granted.or(before.opened));
            let to = clock.after(before.granted.or(before.opened), before.released);
            sentences.push(format!("The last before that time: {}, from {from} to {to}", of(before)));
        }
        if let Some(after) = &self.after {
            let from = clock.optional(after.granted.or(after.opened));
            sentences.push(format!("The first after that time: {}, from {from} on", of(after)));
        }
        sentences
    }
}

/// Whether a name has the letters and digits asked for in a row, in either case, and whatever stands
/// between them; of less than three, many have.
fn contains(name: &str, asked: &str) -> bool {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let asked = plain(asked);
    asked.chars().count() >= 3 && plain(name).contains(&asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Style;
    use crate::sample::{at, holding};

    fn nearest(asked: &str, time: Option<i64>, holdings: &[Holding]) -> Vec<String> {
        let filter = Filter {
            subject: asked.parse().ok(),
            at: time.map(|time| QueryRange::at(at(time))),
            ..Filter::default()
        };
        let mut nearest = Nearest::default();
        for holding in holdings.iter().filter(|of| !filter.matches_holding(of)) {
            nearest.add(holding, &filter);
        }
        nearest.sentences(&TimeFormat::new(&Style { utc: true, ..Style::default() }))
    }

    #[test]
    fn similar_names_are_shown_the_nearest_first() {
        let names = ["web1", "web12", "Web2", "db", "wbe1", "web1"];
        let all: Vec<_> = names.iter().map(|name| holding(name, 1, 10, None)).collect();
        assert_eq!(nearest("web3", None, &all), ["Guests with similar names: Web2, web1"]);
        assert_eq!(nearest("dB", None, &all), ["A guest with a similar name: db"]);
        assert_eq!(nearest("mail", None, &all), [] as [&str; 0]);
        // Part of a name, or the name with other blanks and dashes.
        let shop = [holding("Web Shop db-3", 1, 10, None)];
        for asked in ["webshop", "db3", "web-shop-DB", "shop"] {
            assert_eq!(
                nearest(asked, None, &shop),
                ["A guest with a similar name: Web Shop db-3"],
                "{asked}"
            );
        }
        assert_eq!(nearest("b3", None, &shop), [] as [&str; 0]);
        // A MAC has no similar name.
        assert_eq!(nearest("52:54:00:00:00:09", None, &all), [] as [&str; 0]);
        let hostile = [holding(&"x".repeat(5000), 1, 10, None), holding("web\x1b3", 1, 10, None)];
        assert_eq!(nearest("web3", None, &hostile), ["A guest with a similar name: web\\u{1b}3"]);
    }

    #[test]
    fn what_was_tried_and_never_held_is_shown_where_only_what_was_held_is_asked_for() {
        let never = |state, mac, from| Holding { state, granted: None, ..holding("web1", mac, from, None) };
        let all = [
            never(State::OpenFailed, 1, 10),
            never(State::NeverGranted, 2, 20),
            Holding { guest: holding("web2", 1, 1, None).guest, ..never(State::OpenFailed, 1, 30) },
        ];
        let granted = Filter { subject: "web1".parse().ok(), granted: true, ..Filter::default() };
        let sentences = |filter: &Filter| {
            let mut nearest = Nearest::default();
            all.iter().for_each(|of| nearest.add(of, filter));
            nearest.sentences(&TimeFormat::new(&Style { utc: true, ..Style::default() }))
        };
        let found = sentences(&granted);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].starts_with("Tried and never held: web1 on h1, 52:54:00:00:00:02: "), "{found:?}");
        assert!(found[1].ends_with(" and QEMU never got it (`taptrail explain`)"), "{found:?}");
        let mac = Filter { subject: "52:54:00:00:00:01".parse().ok(), ..granted.clone() };
        assert!(sentences(&mac)[0].starts_with("Tried and never held: web2 on h1"), "the last one");
        assert!(sentences(&mac)[0].contains("the open of /dev/net/tun failed at "));
        assert_eq!(sentences(&Filter { granted: false, ..granted }).len(), 1, "it is an answer there");
    }

    #[test]
    fn what_was_held_just_before_and_just_after_is_shown() {
        let all = [
            holding("old", 1, 10, Some(12)),
            holding("web1", 1, 20, Some(30)),
            holding("web2", 1, 40, Some(50)),
            holding("new", 1, 60, Some(70)),
            holding("other", 2, 34, Some(36)),
        ];
        let near = nearest("52:54:00:00:00:01", Some(35), &all);
        assert_eq!(near.len(), 2);
        assert!(near[0].starts_with("The last before that time: web1 on h1, 52:54:00:00:00:01, from"));
        assert!(near[0].ends_with("to 00:00:30.000"), "{}", near[0]);
        assert!(near[1].starts_with("The first after that time: web2"), "{}", near[1]);
        assert_eq!(nearest("52:54:00:00:00:01", None, &all), [] as [&str; 0]);
        assert_eq!(nearest("52:54:00:00:00:01", Some(80), &all).len(), 1);
    }
}
