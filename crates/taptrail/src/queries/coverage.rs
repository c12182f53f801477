//! What an answer does not cover: times without input, and guests that ran before the first record.

use std::sync::Arc;

use jiff::Timestamp;
use taptrail_report::{Count, Filter};
use taptrail_trail::Coverage;

use super::trail_reader::ReadSummary;

/// Adds notes about what the input does not cover of a query; returns whether there are any. `none`
/// is set if no holding matched: the number of holdings that might match, but whose records lack
/// the fields to decide.
pub(super) fn note_unknown(answer: &mut ReadSummary, query: &Filter, none: Option<u64>) -> bool {
    let coverage = &answer.stats.input.coverage;
    let is_empty = coverage.is_empty();
    let host = query.host.as_ref().filter(|host| !coverage.iter().any(|of| *of.host == ***host));
    let mut lines: Vec<String> = host.iter().map(|host| no_host(host, coverage)).collect();
    if is_empty {
        lines.push("No input has a record with a time".to_owned());
    }
    if let Some(perhaps @ 1..) = none {
        let devices = if perhaps == 1 { "1 device was" } else { &format!("{perhaps} devices were") };
        lines.push(format!(
            "{devices} held of which no record has the interface, number or path: one may be what is asked for. Ask for a \
             MAC or a kind (tun); `taptrail verify` names what this host's processes hold now"
        ));
    }
    let any = !lines.is_empty();
    answer.note(lines);
    note_times(answer, query, none.is_some()) || any
}

/// Adds a note about what matched, and has no row in the format.
pub(super) fn note_left_out(answer: &mut ReadSummary, count: &Count) {
    let taps = match count.bridge_taps_left_out {
        0 => return,
        1 => "1 tap of the bridge helper has",
        all => &format!("{all} taps of the bridge helper have"),
    };
    answer.note([format!("{taps} no row in CSV: see --format json, jsonl or ecs")]);
}

/// Adds notes about the time range of the query.
fn note_times(answer: &mut ReadSummary, query: &Filter, none: bool) -> bool {
    let (from, until) = match (query.at, query.start, query.end) {
        (Some(at), ..) => (Some(at.from), Some(at.to)),
        (None, None, None) => return false,
        (None, start, end) => (start, end),
    };
    let input = &answer.stats.input;
    // Without bounds, the range is that of the input.
    let span = |of: &Coverage| {
        let all = of.spans.first().zip(of.spans.last()).map(|(first, last)| (first.from, last.until));
        (from.or(all.map(|(first, _)| first)), until.or(all.map(|(_, last)| last)))
    };
    let is = |of: &Coverage, is: fn(&Coverage, Timestamp, Timestamp) -> bool| {
        let (from, until) = span(of);
        from.zip(until).is_some_and(|(from, until)| is(of, from, until))
    };
    let hosts = input.coverage.iter().filter(|of| query.host.as_ref().is_none_or(|host| **host == *of.host));
    // What was deleted may have been held at any time up to then.
    let pruned = |of: &Coverage| {
        let until = answer.pruned_until(&of.host)?;
        span(of).0.is_some_and(|from| from < until).then_some(until)
    };
    let (known, unknown): (Vec<&Coverage>, Vec<&Coverage>) =
        hosts.partition(|of| is(of, Coverage::covers) && pruned(of).is_none());
    let no_start: Vec<&Coverage> =
        known.into_iter().filter(|of| none && !is(of, Coverage::knows_all)).collect();
    let names = |of: &[&Coverage]| of.iter().map(|of| Arc::clone(&of.host)).collect();
    let asked = taptrail_trail::QueriedTime {
        from,
        until,
        unknown_on: names(&unknown),
        no_start_on: names(&no_start),
    };
    let mut lines: Vec<String> =
        unknown.iter().take(MAX_HOSTS_NAMED).map(|of| not_covered(of, pruned(of))).collect();
    lines.extend(more_hosts(unknown.len(), "the time asked for is not covered"));
    lines.extend(no_start.iter().take(MAX_HOSTS_NAMED).map(|of| no_start_before(of)));
    lines.extend(more_hosts(
        no_start.len(),
        "guests may have run since before their records begin, or since a gap",
    ));
    let any = !lines.is_empty();
    answer.stats.input.asked = Some(asked);
    answer.note(lines);
    any
}

/// Hosts that are named in notes; the others are counted.
pub(crate) const MAX_HOSTS_NAMED: usize = 8;

fn no_host(host: &str, coverage: &[Coverage]) -> String {
    let named: Vec<_> = coverage.iter().take(MAX_HOSTS_NAMED).map(|of| format!("'{}'", of.host)).collect();
    let more = coverage.len().saturating_sub(MAX_HOSTS_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let there = match coverage.len() {
        0 => String::new(),
        1 => format!(" There are records of {}.", named.concat()),
        _ => format!(" There are records of {}{more}.", named.join(", ")),
    };
    format!(
        "No input has records of host '{host}'.{there} If its lines name no host, --assume-host {host}=PATH says which \
         they are"
    )
}

/// A sentence about the hosts that are not named; none if all are.
pub(crate) fn more_hosts(all: usize, what: &str) -> Option<String> {
    let more = all.saturating_sub(MAX_HOSTS_NAMED);
    let hosts = if more == 1 { "host" } else { "hosts" };
    (more > 0).then(|| format!("{more} more {hosts}: {what}"))
}

/// `pruned`: up to when guests that had ended were deleted, where the time asked for is before that.
fn not_covered(coverage: &Coverage, pruned: Option<Timestamp>) -> String {
    let Coverage { host, spans, gaps, .. } = coverage;
    let covered = match (spans.first(), spans.last()) {
        (Some(first), Some(last)) => format!("its records are from {:.3} to {:.3}", first.from, last.until),
        _ => "it has no records".to_owned(),
    };
    let gaps = match gaps.len() {
        0 => String::new(),
        1 => ", with one gap".to_owned(),
        gaps => format!(", with {gaps} gaps"),
    };
    let pruned = pruned.map_or(String::new(), |until| {
        format!(", without the guests that had ended by {until:.3}, which were pruned")
    });
    format!("Host {host}: what was held is not known of all the time asked for: {covered}{gaps}{pruned}")
}

fn no_start_before(coverage: &Coverage) -> String {
    let Coverage { host, spans, gaps, .. } = coverage;
    let begin = spans.first().map_or_else(String::new, |first| format!(" ({:.3})", first.from));
    let gap = if gaps.is_empty() { "" } else { ", or since a gap in them" };
    format!(
        "Host {host}: no record says that anything was held then, but a guest may have run since before the \
         records begin{begin}{gap}. Add older logs, back to a boot of the host"
    )
}
