//! Whether the logs cover what an answer is about, in sentences.

use jiff::Timestamp;
use taptrail_trail::{Coverage, Input};

use super::page::names;
use crate::Session;
use crate::style::{Clock as _, TimeFormat};
use crate::text::escape_name;
use crate::trail::count;

/// Whether the logs of a session's host cover the time asked for, or else the session.
pub(super) fn of_session(session: &Session<'_>, input: &Input, clock: &TimeFormat) -> String {
    let host = escape_name(session.host());
    let Some(coverage) = input.coverage.iter().find(|of| *of.host == *session.host()) else {
        return format!("unknown: no log of {host} has a time");
    };
    if let Some(asked) = &input.asked {
        let is_unknown = asked.unknown_on.iter().any(|host| **host == *session.host());
        return match is_unknown {
            true => format!("not all of the time asked for is covered on {host}: {}", spans(coverage, clock)),
            false => format!("the logs of {host} cover the time asked for, and no gap shows"),
        };
    }
    let (from, to) = session.range();
    let last = coverage.spans.last().map_or(Timestamp::MAX, |last| last.until);
    match coverage.covers(from, to.min(last).max(from)) {
        true => format!("the logs of {host} cover it, and no gap shows: {}", spans(coverage, clock)),
        false => format!("the logs of {host} do not cover all of it: {}", spans(coverage, clock)),
    }
}

/// What is not known of other hosts, in a sentence.
pub(super) fn elsewhere(input: &Input, hosts: &[&str]) -> Option<String> {
    let asked = input.asked.as_ref()?;
    let unknown: Vec<&str> =
        asked.unknown_on.iter().map(|host| &**host).filter(|host| !hosts.contains(host)).collect();
    (!unknown.is_empty()).then(|| format!("unknown on {}", names(unknown.into_iter())))
}

fn spans(coverage: &Coverage, clock: &TimeFormat) -> String {
    let (Some(first), Some(last)) = (coverage.spans.first(), coverage.spans.last()) else {
        return "they have no times".to_owned();
    };
    let from = clock.full(first.from);
    let until = clock.after(Some(first.from), Some(last.until));
    let gaps = match coverage.gaps.len() {
        0 => String::new(),
        gaps => format!(", with {}", count(gaps as u64, "gap")),
    };
    format!("they are from {from} to {until}{gaps}")
}
