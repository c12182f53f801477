//! What is not known of what was asked for: times that no input covers, guests that ran before.

use std::sync::Arc;

use jiff::Timestamp;
use taptrail_report::Filter;
use taptrail_trail::Coverage;

use super::tell::Whole;

/// Notes what is not known of what was asked for. Whether there is such. `none` is given where no holding is told:
/// how many may be meant, of which the records don't tell it.
pub(super) fn note_unknown(answer: &mut Whole, asked: &Filter, none: Option<u64>) -> bool {
    let coverage = &answer.stats.input.coverage;
    let is_empty = coverage.is_empty();
    let host = asked.host.as_ref().filter(|host| !coverage.iter().any(|of| *of.host == ***host));
    let mut lines: Vec<String> =
        host.iter().map(|host| format!("No input has records of host '{host}'; if its lines name no host, --assume-host {host} says whose they are")).collect();
    if is_empty {
        lines.push("No input has a record with a time".to_owned());
    }
    if let Some(perhaps @ 1..) = none {
        let devices = if perhaps == 1 {
            "1 device that was".to_owned()
        } else {
            format!("{perhaps} devices that were")
        };
        lines.push(format!(
            "{devices} held may be what is asked for: the records don't have its interface, number or path. Ask for its \
             kind (tun), or a MAC"
        ));
    }
    let any = !lines.is_empty();
    answer.note(lines);
    note_times(answer, asked, none.is_some()) || any
}

/// The same of the time that was asked for.
fn note_times(answer: &mut Whole, asked: &Filter, none: bool) -> bool {
    let (from, until) = match (asked.at, asked.start, asked.end) {
        (Some(at), ..) => (Some(at.from), Some(at.to)),
        (None, None, None) => return false,
        (None, start, end) => (start, end),
    };
    let input = &mut answer.stats.input;
    // Without an end, all that is there is asked for.
    let span = |of: &Coverage| {
        let all = of.spans.first().zip(of.spans.last()).map(|(first, last)| (first.from, last.until));
        (from.or(all.map(|(first, _)| first)), until.or(all.map(|(_, last)| last)))
    };
    let is = |of: &Coverage, is: fn(&Coverage, Timestamp, Timestamp) -> bool| {
        let (from, until) = span(of);
        from.zip(until).is_some_and(|(from, until)| is(of, from, until))
    };
    let hosts =
        || input.coverage.iter().filter(|of| asked.host.as_ref().is_none_or(|host| **host == *of.host));
    let unknown: Vec<&Coverage> = hosts().filter(|of| !is(of, Coverage::covers)).collect();
    let no_start: Vec<&Coverage> =
        hosts().filter(|of| none && is(of, Coverage::covers) && !is(of, Coverage::knows_all)).collect();
    let names = |of: &[&Coverage]| of.iter().map(|of| Arc::clone(&of.host)).collect();
    let told = taptrail_trail::QueriedTime {
        from,
        until,
        unknown_on: names(&unknown),
        no_start_on: names(&no_start),
    };
    let mut lines: Vec<String> = unknown.iter().take(SHOWN).map(|of| not_covered(of)).collect();
    lines.extend(more(unknown.len(), "the time asked for is not covered"));
    lines.extend(no_start.iter().take(SHOWN).map(|of| no_start_before(of)));
    lines
        .extend(more(no_start.len(), "guests may have run since before their records begin, or since a gap"));
    let any = !lines.is_empty();
    input.asked = Some(told);
    answer.note(lines);
    any
}

/// How many hosts are named of which what is asked for is not known.
const SHOWN: usize = 8;

fn more(all: usize, what: &str) -> Option<String> {
    let more = all.saturating_sub(SHOWN);
    (more > 0).then(|| format!("{more} more hosts: {what}"))
}

fn not_covered(coverage: &Coverage) -> String {
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
    format!("Host {host}: what was held is not known of all the time asked for: {covered}{gaps}")
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
