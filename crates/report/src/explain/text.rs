//! An explanation as text: the statement about each session, and its records.

use std::collections::HashSet;

use taptrail_trail::Proof;

use super::evidence::{CitedSources, Evident, of_bridge_tap, of_finding, of_session};
use super::of_session::FindingsOf;
use super::page::Page;
use super::statement::Teller;
use super::{Explanation, Records, coverage, records};
use crate::bridge_taps;
use crate::findings::sentence;
use crate::style::{Clock as _, TimeFormat};
use crate::text::escape_name;
use crate::trail::count;
use crate::{Session, Style};

/// All sessions, each with its records as `with` says.
pub(super) fn text<'a>(
    explanation: &'a Explanation,
    style: &Style,
    evidence: CitedSources<'_>,
    with: Records,
) -> String {
    let sessions = Session::group(&explanation.report.holdings);
    if explanation.is_empty() {
        return nothing(explanation, style);
    }
    let mut page = Page::new(style);
    let teller = Teller {
        clock: TimeFormat::new(style),
        style: *style,
        input: &explanation.report.input,
        at: explanation.filter.at,
        evidence,
    };
    if let Some(readings) = explanation.readings() {
        page.line(&readings);
    }
    let findings = FindingsOf::new(&sessions, &explanation.report.findings);
    let mut shown = HashSet::new();
    let mut print = |page: &mut Page, records: &[Evident<'a>]| match with {
        Records::None => {}
        Records::Decoded => {
            page.line("Records");
            records::decoded(page, records, &teller.clock, style);
        }
        Records::Raw => {
            page.line("Records");
            records::raw(page, records, &mut shown);
        }
    };
    for (session, findings) in sessions.iter().zip(&findings.sessions) {
        let more = findings.iter().flat_map(|finding| &finding.proof);
        let records = of_session(session, more, evidence);
        teller.tell(&mut page, session, &records, findings);
        print(&mut page, &records);
        let most = session.holdings.iter().map(|of| of.proof.len()).max().unwrap_or_default();
        if most >= Proof::MAX_PROOFS && with != Records::None {
            page.line("More records may show it: the first and the last are here");
        }
    }
    for tap in &explanation.report.bridge_taps {
        page.gap();
        page.head(&bridge_taps::heading(tap));
        for (label, text) in bridge_taps::statement(tap, &teller.clock) {
            page.row(label, &text);
        }
        print(&mut page, &of_bridge_tap(tap, evidence));
    }
    for finding in findings.rest {
        page.gap();
        let about = match (&finding.guest, finding.mac) {
            (Some(guest), Some(mac)) => format!("{mac} of {}", escape_name(&guest.name)),
            (Some(guest), None) => format!("the whole of {}", escape_name(&guest.name)),
            (None, Some(mac)) => mac.to_string(),
            (None, None) => format!("the whole of {}", escape_name(&finding.host)),
        };
        let (kind, at) = (finding.kind.as_str(), teller.clock.full(finding.time));
        page.head(&format!("Finding {kind} at {at}, {about}: {}", sentence(finding)));
        let records = of_finding(finding, evidence);
        print(&mut page, &records);
    }
    page.gap();
    page.line(&summary(explanation, &sessions));
    page.into_text()
}

/// The line below all sessions.
pub(crate) fn summary(explanation: &Explanation, sessions: &[Session<'_>]) -> String {
    let taps = explanation.report.bridge_taps.len() as u64;
    let mut parts = vec![count(sessions.len() as u64, "session")];
    parts.extend((taps > 0).then(|| format!("{} of the bridge helper", count(taps, "tap"))));
    parts.extend([
        count(explanation.report.findings.len() as u64, "finding"),
        format!("{} read", count(explanation.report.input.records, "record")),
    ]);
    let mut hosts: Vec<&str> = sessions.iter().map(Session::host).collect();
    hosts.extend(explanation.report.bridge_taps.iter().map(|tap| &*tap.host));
    hosts.dedup();
    parts.extend(coverage::elsewhere(&explanation.report.input, &hosts));
    parts.join("; ")
}

/// That nothing was found, and what is nearest.
pub(super) fn nothing(explanation: &Explanation, style: &Style) -> String {
    let mut page = Page::new(style);
    let asked = explanation.filter.subject.as_ref().map_or("what is asked for", |of| of.text());
    let then = if explanation.filter.at.is_some() { " at that time" } else { "" };
    let asked = escape_name(asked);
    page.head(&match explanation.filter.depends_on_holdings() {
        true => format!("No record shows that anybody held {asked}{then}"),
        false => format!("No record is about {asked}"),
    });
    let nearest = explanation.nearest.sentences(&TimeFormat::new(style));
    if !nearest.is_empty() {
        page.gap();
        page.line("Nearest, and no answer:");
        for sentence in nearest {
            page.folded(2, &sentence);
        }
    }
    page.gap();
    page.line(&summary(explanation, &[]));
    page.into_text()
}
