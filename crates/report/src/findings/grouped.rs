//! Findings by kind: a row for each kind of incident, with the last of them below it.

use std::collections::BTreeMap;

use compact_str::{CompactString, format_compact};
use jiff::Timestamp;
use taptrail_trail::{Finding, FindingKind, Report, Severity};

use super::incident::{IncidentFindings, incidents};
use super::{add_detail, add_sentence, severity_cell, short_name};
use crate::Style;
use crate::style::{Clock as _, TimeFormat};
use crate::table::{Table, cell, number};
use crate::trail::{hosts, thousands};

/// How many guests or hosts of a kind are named.
const MAX_NAMED: usize = 3;

/// The incidents of one severity whose lead is of one kind.
#[derive(Debug)]
struct KindGroup<'a> {
    kind: FindingKind,
    severity: Severity,
    incidents: Vec<IncidentFindings<'a>>,
    first: Timestamp,
    last: Timestamp,
}

impl<'a> KindGroup<'a> {
    fn new(kind: FindingKind, severity: Severity, incidents: Vec<IncidentFindings<'a>>) -> Self {
        let times = || incidents.iter().flat_map(IncidentFindings::findings).map(|finding| finding.time);
        let (first, last) = (times().min().unwrap_or_default(), times().max().unwrap_or_default());
        Self { kind, severity, incidents, first, last }
    }

    /// The newest lead.
    fn example(&self) -> Option<&'a Finding> {
        self.incidents.iter().map(|incident| incident.lead).max_by_key(|lead| lead.time)
    }

    /// How many findings of each kind follow from the leads.
    fn followers(&self) -> Vec<String> {
        let mut counts: BTreeMap<FindingKind, u64> = BTreeMap::new();
        for follower in self.incidents.iter().flat_map(|incident| &incident.followers) {
            *counts.entry(follower.kind).or_default() += 1;
        }
        let last = counts.len().saturating_sub(1);
        let name = |(at, (kind, count)): (usize, (FindingKind, u64))| {
            let more = if kind == self.kind { " more" } else { "" };
            let severity = kind.severity();
            let word = if severity > self.kind.severity() {
                format!(" ({})", severity.as_str())
            } else {
                String::new()
            };
            let comma = if at < last { "," } else { "" };
            format!("{}{more} {}{word}{comma}", thousands(count), kind.as_str())
        };
        counts.into_iter().enumerate().map(name).collect()
    }

    /// The names, those of the newest findings first.
    fn names(&self, name: impl Fn(&'a Finding) -> Option<&'a str>) -> Names<'a> {
        let mut latest: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for finding in self.incidents.iter().flat_map(IncidentFindings::findings) {
            if let Some(name) = name(finding) {
                let time = latest.entry(name).or_insert(finding.time);
                *time = finding.time.max(*time);
            }
        }
        let mut names: Vec<_> = latest.into_iter().collect();
        // Those of one time are in the order of their names.
        names.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        Names(names.into_iter().map(|(name, _)| name).collect())
    }
}

/// Names of guests or hosts.
#[derive(Debug)]
struct Names<'a>(Vec<&'a str>);

impl Names<'_> {
    /// Some of them, each with a comma where one follows, and how many more there are.
    fn pieces(&self, style: &Style) -> Vec<CompactString> {
        let mut pieces: Vec<_> = self.0.iter().take(MAX_NAMED).map(|name| short_name(name, style)).collect();
        let more = self.0.len() - pieces.len();
        let last = pieces.len().saturating_sub(1);
        pieces.iter_mut().take(last).for_each(|piece| piece.push(','));
        if more > 0 {
            pieces.push(format_compact!("and {more} more"));
        }
        pieces
    }

    fn text(&self, style: &Style) -> String {
        self.pieces(style).join(" ")
    }

    /// The same after the word for them.
    fn named_pieces(&self, one: &str, style: &Style) -> Vec<CompactString> {
        match self.0.len() {
            0 => Vec::new(),
            1 => std::iter::once(one.into()).chain(self.pieces(style)).collect(),
            _ => std::iter::once(format_compact!("{one}s")).chain(self.pieces(style)).collect(),
        }
    }
}

/// What a row shows beside severity, kind, count and last time; what it does not stands below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Columns {
    Last,
    FirstAndLast,
    Guests,
}

/// The groups, gravest first, and of one severity the most recent first.
fn groups(findings: &[Finding]) -> Vec<KindGroup<'_>> {
    let mut kinds: BTreeMap<(FindingKind, Severity), Vec<IncidentFindings<'_>>> = BTreeMap::new();
    for incident in incidents(findings) {
        kinds.entry((incident.lead.kind, incident.severity())).or_default().push(incident);
    }
    let group = |((kind, severity), incidents)| KindGroup::new(kind, severity, incidents);
    let mut groups: Vec<_> = kinds.into_iter().map(group).collect();
    groups.sort_by_key(|group| std::cmp::Reverse((group.severity, group.last)));
    groups
}

/// The findings that the table shows.
pub(super) fn examples(report: &Report) -> impl Iterator<Item = &Finding> {
    groups(&report.findings).into_iter().filter_map(|group| group.example())
}

/// A row for each kind of incident, and below it what follows from these incidents, and the newest.
pub(super) fn grouped_table(report: &Report, style: &Style) -> String {
    let (hosts, clock) = (hosts(report), TimeFormat::new(style));
    let groups = groups(&report.findings);
    let guest_names = |group: &KindGroup<'_>| {
        group.names(|finding| Some(finding.guest.as_ref()?.name.as_str())).text(style)
    };
    let host_names = |group: &KindGroup<'_>| group.names(|finding| Some(&finding.host)).text(style);
    let table = |columns: Columns| {
        let mut header = vec!["SEVERITY", "FINDING", "COUNT"];
        header.extend((columns >= Columns::FirstAndLast).then_some("FIRST"));
        header.push("LAST");
        if columns >= Columns::Guests {
            header.extend(std::iter::once("GUESTS").chain(hosts.then_some("HOSTS")));
        }
        let mut table = Table::new(style, &header);
        for group in &groups {
            let count = number(thousands(group.incidents.len() as u64));
            let mut row = vec![severity_cell(group.severity), cell(group.kind.as_str()), count];
            if columns >= Columns::FirstAndLast {
                row.push(cell(clock.full(group.first)));
                row.push(cell(clock.after(Some(group.first), Some(group.last))));
            } else {
                row.push(cell(clock.full(group.last)));
            }
            if columns >= Columns::Guests {
                row.push(cell(guest_names(group)));
                row.extend(hosts.then(|| cell(host_names(group))));
            }
            table.row(row);
        }
        table
    };
    let (columns, table) = [Columns::Guests, Columns::FirstAndLast]
        .map(|columns| (columns, table(columns)))
        .into_iter()
        .find(|(_, table)| table.fits(style))
        .unwrap_or_else(|| (Columns::Last, table(Columns::Last)));
    let mut rows = table.rows();
    let mut text = rows.next().unwrap_or_default();
    for (at, (row, group)) in rows.zip(&groups).enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&row);
        add_details(&mut text, group, columns, hosts, &clock, style);
    }
    text
}

fn add_details(
    text: &mut String,
    group: &KindGroup<'_>,
    columns: Columns,
    hosts: bool,
    clock: &TimeFormat,
    style: &Style,
) {
    let many = group.incidents.len() > 1;
    if columns < Columns::FirstAndLast && many {
        add_detail(text, [format!("First {}", clock.full(group.first)).as_str()], style);
    }
    if columns < Columns::Guests {
        let guests = group.names(|finding| Some(finding.guest.as_ref()?.name.as_str()));
        add_detail(text, guests.named_pieces("Guest", style).iter().map(CompactString::as_str), style);
        let hosts = hosts.then(|| group.names(|finding| Some(&finding.host)).named_pieces("Host", style));
        add_detail(text, hosts.iter().flatten().map(CompactString::as_str), style);
    }
    let followers = group.followers();
    if !followers.is_empty() {
        let pieces = std::iter::once("With").chain(followers.iter().map(String::as_str));
        add_detail(text, pieces, style);
    }
    if let Some(example) = group.example() {
        add_sentence(text, if many { "Last:" } else { "" }, example, style);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use taptrail_trail::Incident;

    use super::*;
    use crate::sample::finding;

    fn of(number: u64, kind: FindingKind, name: &str, time: i64) -> Finding {
        Finding { kind, incident: Incident { number, follows: false }, ..finding(Some(name), Some(1), time) }
    }

    fn text(findings: Vec<Finding>, style: Style) -> String {
        grouped_table(&Report { findings, ..Report::default() }, &Style { utc: true, ..style })
    }

    #[test]
    fn the_gravest_are_on_top_and_of_these_the_most_recent() {
        let findings = [
            of(1, FindingKind::LogGap, "web1", 1),
            of(2, FindingKind::OpenFailed, "web1", 9),
            of(3, FindingKind::CloseFailed, "web1", 2),
            of(4, FindingKind::DaemonRestarted, "web1", 30),
            of(5, FindingKind::LogGap, "web1", 1),
        ];
        let kinds: Vec<_> =
            groups(&findings).iter().map(|group| (group.kind, group.incidents.len())).collect();
        assert_eq!(
            kinds,
            [
                (FindingKind::CloseFailed, 1),
                (FindingKind::LogGap, 2),
                (FindingKind::OpenFailed, 1),
                (FindingKind::DaemonRestarted, 1)
            ]
        );
    }

    #[test]
    fn what_follows_is_counted_by_kind_and_a_graver_one_is_named_so() {
        let follower = |kind, time| Finding {
            incident: Incident { number: 1, follows: true },
            ..of(1, kind, "web1", time)
        };
        let findings = vec![
            of(1, FindingKind::FalseStart, "web1", 5),
            follower(FindingKind::FalseStart, 5),
            follower(FindingKind::OpenWithoutGrant, 5),
            follower(FindingKind::OpenWithoutGrant, 5),
            follower(FindingKind::GrantWithoutOpen, 4),
            of(2, FindingKind::FalseStart, "web2", 7),
        ];
        insta::assert_snapshot!(text(findings, Style::default()));
    }

    #[test]
    fn of_many_guests_and_hosts_the_newest_are_named() {
        let host = |at: i64| if at % 2 == 0 { "h1" } else { "h2" };
        let findings: Vec<_> = (1..=12)
            .map(|at| Finding {
                host: host(at).into(),
                ..of(at.unsigned_abs(), FindingKind::LogGap, &format!("web{at}\x1b"), at * 86_000)
            })
            .collect();
        let of_width = |width| text(findings.clone(), Style { width, ..Style::default() });
        insta::assert_snapshot!([None, Some(80), Some(0)].map(of_width).join("\n"));
    }

    proptest! {
        #[test]
        fn the_counts_add_up(all in prop::collection::vec((1..20_u64, 0..33_usize, any::<bool>(), 0..99_i64), 0..60)) {
            let findings: Vec<Finding> = all
                .iter()
                .map(|(number, kind, follows, time)| {
                    let incident = Incident { number: *number, follows: *follows };
                    Finding { incident, ..of(*number, FindingKind::ALL[*kind], "web1", *time) }
                })
                .collect();
            let groups = groups(&findings);
            let numbers: std::collections::BTreeSet<_> = all.iter().map(|(number, ..)| number).collect();
            prop_assert_eq!(groups.iter().map(|group| group.incidents.len()).sum::<usize>(), numbers.len());
            let of = |group: &KindGroup<'_>| group.incidents.iter().flat_map(IncidentFindings::findings).count();
            prop_assert_eq!(groups.iter().map(of).sum::<usize>(), findings.len());
            let named = |group: &KindGroup<'_>| -> usize {
                let followers = group.followers();
                followers.iter().map(|text| text.split(' ').next().unwrap().parse::<usize>().unwrap()).sum()
            };
            let leads: usize = groups.iter().map(|group| group.incidents.len()).sum();
            prop_assert_eq!(leads + groups.iter().map(named).sum::<usize>(), findings.len());
            for group in &groups {
                prop_assert!(group.first <= group.last);
                prop_assert!(group.incidents.iter().all(|incident| incident.severity() == group.severity));
            }
        }
    }
}
