//! The answer of `who` where there are several sessions.

use crate::bridge_taps;
use crate::explain::{Explanation, summary};
use crate::fold::fold;
use crate::sessions::sessions;
use crate::style::TimeFormat;
use crate::unauthenticated::UNAUTHENTICATED_FOOTNOTE;
use crate::{Columns, Session, Style};

/// A row for each session, and a summary line.
pub(crate) fn answer(explanation: &Explanation, columns: &Columns, style: &Style) -> String {
    let mut text = explanation.readings().map_or_else(String::new, |readings| format!("{readings}\n\n"));
    let style = Style { at: explanation.filter.at, ..*style };
    let report = &explanation.report;
    let all = Session::group(&report.holdings);
    let summary = summary(explanation, &all);
    let unauthenticated = all.iter().any(Session::is_unauthenticated);
    if !all.is_empty() {
        text.push_str(&sessions(report, all, columns, true, &TimeFormat::new(&style), &style));
    }
    if !report.bridge_taps.is_empty() {
        if !report.holdings.is_empty() {
            text.push('\n');
        }
        text.push_str(&bridge_taps::block(&report.bridge_taps, true, &style));
    }
    text.push('\n');
    for line in fold(&summary, style.width.map_or(usize::MAX, usize::from)) {
        text.push_str(line);
        text.push('\n');
    }
    if unauthenticated {
        text.push_str(UNAUTHENTICATED_FOOTNOTE);
    }
    text.push_str("With --explain, each is told with its records and findings\n");
    text
}
