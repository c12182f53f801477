//! A figure for a document: the same rows as the page, on paper's white, that nothing moves in.
//!
//! Patterns and shapes tell what colours tell, too. Of a large report the first rows are drawn, and
//! the figure says how many are not.

mod axis;
mod element;
mod shapes;

use std::io::{self, Write};

use jiff::Timestamp;
use taptrail_trail::{Severity, State};

use self::axis::Axis;
use self::element::Svg;
use self::shapes::{
    CERTAINTIES, boot, certain, color, cross, ended, finding, held, legend, opening, possibly,
};
use super::bar::{Bar, begin};
use super::evidence::Evidence;
use super::picture::{Picture, Row};
use crate::style::{Clock as _, Style, TimeFormat};
use crate::text::{cut, escape_name};

/// How many rows a figure has at most.
const MAX_ROWS: usize = 60;

/// How many bars and marks a figure has at most.
const MAX_SHAPES: usize = 5000;

/// The figure's measures, in pixels.
const WIDTH: f64 = 1120.0;
const GUTTER: f64 = 250.0;
const RIGHT: f64 = 20.0;
/// What is free beside the first and the last time.
const PADDING: f64 = 10.0;
const TOP: f64 = 92.0;
const ROW: f64 = 22.0;
const HEAD_ROW: f64 = 26.0;
const BAR: f64 = 11.0;
const LEGEND: f64 = 92.0;

/// The longest name shown in the margin, in characters.
const MAX_NAME_CHARS: usize = 32;

const TEXT: &str = "#17202e";
const MUTED: &str = "#55617a";
const MONO: &str = "font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\"";
const LINE: &str = "#d5dce6";
const GRAVE: &str = "#b3261e";

pub(super) fn write(
    picture: &Picture<'_>,
    evidence: &Evidence,
    style: &Style,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let clock = TimeFormat::new(style);
    let mut figure = Figure {
        picture,
        axis: Axis::new(picture.from, picture.until, (GUTTER + PADDING, WIDTH - RIGHT - PADDING), &clock),
        tops: tops(&picture.rows),
        shapes: 0,
        shapes_left_out: 0,
        svg: Svg::default(),
    };
    let rows_left_out = picture.rows.len().saturating_sub(MAX_ROWS);
    let bottom = figure.bottom();
    figure.rows();
    let mut left_out = picture.left_out.clone();
    if rows_left_out > 0 {
        left_out.push(format!(
            "{rows_left_out} rows of {}: a figure has {MAX_ROWS} at most. Give a guest or a host, or use \
             --format html",
            picture.rows.len()
        ));
    }
    if figure.shapes_left_out > 0 {
        left_out.push(format!(
            "{} bars and marks: a figure has {MAX_SHAPES} at most. Give a shorter time, or use --format html",
            figure.shapes_left_out
        ));
    }
    let title = "Which guest held which device";
    let (hosts, guests, interfaces) = picture.counted_rows();
    let zone = super::zone::name(clock.zone());
    let range = if picture.rows.is_empty() {
        "No input has a record with a time".to_owned()
    } else {
        format!("{} to {}, {zone}", clock.full(picture.from), clock.full(picture.until))
    };
    let counts = picture.counts;
    let about = format!(
        "{range}. Hosts: {hosts}, guests: {guests}, interfaces: {interfaces}. Sessions: {}, of which QEMU held {} \
         and holds {} still, never granted: {}, not known: {}. Findings: {}, of which grave: {}. Made by {} at {}.",
        counts.sessions,
        counts.held,
        counts.still_held,
        counts.never,
        counts.unknown,
        counts.findings,
        counts.grave,
        cut(&evidence.program, 80),
        clock.full(evidence.generated),
    );
    let height = bottom + LEGEND + 18.0 * left_out.len() as f64;
    let mut svg = Svg::default();
    svg.open(WIDTH, height, title, &about);
    for certainty in CERTAINTIES {
        svg.hatching(&format!("open-{}", certainty.as_str()), color(certainty));
    }
    svg.text(20.0, 30.0, title, &format!("font-size=\"18\" font-weight=\"600\" fill=\"{TEXT}\""));
    svg.text(20.0, 50.0, &range, &format!("fill=\"{MUTED}\""));
    let summary = format!(
        "{} sessions: {} held, {} still held, {} never granted, {} not known. {} findings, {} grave.",
        counts.sessions,
        counts.held,
        counts.still_held,
        counts.never,
        counts.unknown,
        counts.findings,
        counts.grave
    );
    svg.end_text(WIDTH - RIGHT, 50.0, &summary, &format!("fill=\"{MUTED}\""));
    if !picture.rows.is_empty() {
        figure.axis.draw(&mut svg, TOP, bottom);
    }
    svg.append(figure.svg);
    legend(&mut svg, bottom + 22.0);
    for (at, sentence) in left_out.iter().enumerate() {
        let y = bottom + LEGEND + 18.0 * at as f64;
        svg.text(20.0, y, &format!("Left out: {sentence}."), &format!("fill=\"{GRAVE}\""));
    }
    svg.close();
    out.write_all(svg.as_bytes())?;
    Ok(left_out)
}

/// The top of each row that is drawn.
fn tops(rows: &[Row<'_>]) -> Vec<f64> {
    let mut y = TOP;
    let drawn = rows.iter().take(MAX_ROWS);
    let tops = drawn.map(|row| {
        let top = y;
        y += if row.mac.is_none() { HEAD_ROW } else { ROW };
        top
    });
    tops.collect()
}

struct Figure<'a> {
    picture: &'a Picture<'a>,
    axis: Axis,
    tops: Vec<f64>,
    shapes: usize,
    shapes_left_out: usize,
    svg: Svg,
}

impl Figure<'_> {
    fn bottom(&self) -> f64 {
        self.tops.last().map_or(TOP + ROW, |last| last + HEAD_ROW)
    }

    /// The middle of a row, if it is drawn.
    fn middle(&self, row: usize) -> Option<f64> {
        let height = if self.picture.rows[row].mac.is_none() { HEAD_ROW } else { ROW };
        self.tops.get(row).map(|top| top + height / 2.0)
    }

    /// Whether there is room for one more shape.
    fn has_room(&mut self) -> bool {
        if self.shapes == MAX_SHAPES {
            self.shapes_left_out += 1;
            return false;
        }
        self.shapes += 1;
        true
    }

    fn rows(&mut self) {
        for (at, row) in self.picture.rows.iter().enumerate().take(self.tops.len()) {
            self.label(at, row);
            if row.guest.is_none() {
                self.host(at, row.host);
            }
        }
        for bar in &self.picture.bars {
            if let Some(y) = self.middle(bar.row)
                && self.has_room()
            {
                self.bar(bar, y);
            }
        }
        for mark in &self.picture.marks {
            if let Some(y) = self.middle(mark.row)
                && self.has_room()
            {
                let y = if self.picture.rows[mark.row].mac.is_some() { y - BAR / 2.0 } else { y };
                finding(
                    &mut self.svg,
                    self.axis.x(mark.finding.time),
                    y,
                    mark.finding.kind.severity() == Severity::Grave,
                );
            }
        }
    }

    fn label(&mut self, at: usize, row: &Row<'_>) {
        let Some(y) = self.middle(at) else { return };
        let y = y + 4.0;
        match (row.guest, row.mac) {
            (_, Some(mac)) if row.lane == 0 => {
                self.svg.text(44.0, y, &mac.to_string(), &format!("{MONO} fill=\"{TEXT}\""));
            }
            (_, Some(_)) => {
                let text = format!("overlapping ({})", row.lane + 1);
                self.svg.text(44.0, y, &text, &format!("{MONO} fill=\"{MUTED}\""));
            }
            (Some(guest), None) => {
                let name = cut(&escape_name(&guest.name), MAX_NAME_CHARS - 4);
                self.svg.text(32.0, y, &name, &format!("font-weight=\"600\" fill=\"{TEXT}\""));
            }
            (None, None) => {
                let name = format!("Host {}", cut(&escape_name(row.host), MAX_NAME_CHARS - 5));
                self.svg.rect((0.0, y - 17.0), (WIDTH, HEAD_ROW), "fill=\"#f2f5f9\"");
                self.svg.text(20.0, y, &name, &format!("font-weight=\"600\" fill=\"{MUTED}\""));
            }
        }
    }

    /// A host's coverage in its row, and its gaps and boots through all of its rows.
    fn host(&mut self, at: usize, host: &str) {
        let (Some(coverage), Some(y)) = (self.picture.coverage(host), self.middle(at)) else { return };
        let last = (at..self.tops.len()).take_while(|row| self.picture.rows[*row].host == host).last();
        let top = self.tops[at];
        let bottom = last.map_or(top, |last| self.tops[last]) + ROW;
        for span in &coverage.spans {
            if self.has_room() {
                let (x, until) = (self.axis.x(span.from), self.axis.x(span.until));
                self.svg.rect((x, y + 5.0), ((until - x).max(1.0), 4.0), "fill=\"#7f93ad\"");
            }
        }
        for gap in &coverage.gaps {
            if self.has_room() {
                let (x, until) = (self.axis.x(gap.from), self.axis.x(gap.until));
                self.svg.rect((x, top), ((until - x).max(1.5), bottom - top), "fill=\"url(#taptrail-gap)\"");
            }
        }
        for start in &coverage.starts {
            if self.has_room() {
                boot(&mut self.svg, self.axis.x(*start), top, bottom);
            }
        }
    }

    fn bar(&mut self, bar: &Bar<'_>, y: f64) {
        let (session, top) = (&bar.session, y - BAR / 2.0);
        let word = bar.certainty();
        for (from, until, _) in &bar.weak {
            let x = from.map_or(GUTTER, |from| self.axis.x(from));
            let until = until.map_or(WIDTH - RIGHT, |until| self.axis.x(until));
            possibly(&mut self.svg, x, until, y, word);
        }
        if let Some((opened, granted)) = session.opened().zip(session.granted())
            && opened < granted
        {
            opening(&mut self.svg, self.axis.x(opened), self.axis.x(granted), top, word);
        }
        let until = bar.certain.map(|(from, until)| (from, until.unwrap_or(self.picture.until)));
        match until {
            Some((from, until)) => {
                certain(&mut self.svg, self.axis.x(from), self.axis.x(until), top, word);
            }
            None if session.state() != State::OpenFailed => {
                let x = self.axis.x(begin(session));
                self.svg.rect((x - 1.0, top), (2.0, BAR), &format!("fill=\"{}\"", color(word)));
            }
            None => {}
        }
        self.end(bar, y);
        let failed = session.holdings.iter().filter(|of| of.state == State::OpenFailed);
        let failed: Vec<Timestamp> = failed.filter_map(|of| of.opened).collect();
        for time in failed {
            cross(&mut self.svg, self.axis.x(time), y);
        }
    }

    fn end(&mut self, bar: &Bar<'_>, y: f64) {
        if bar.session.state() == State::Held {
            held(&mut self.svg, self.axis.x(self.picture.until), y);
        } else if let Some((at, by)) = bar.session.released().zip(bar.session.ended_by()) {
            ended(&mut self.svg, self.axis.x(at), y, by.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use taptrail_trail::Report;

    use super::*;
    use crate::sample::{at, finding, holding};

    fn figure(report: &Report) -> (String, Vec<String>) {
        let evidence = Evidence {
            program: "taptrail 0.1.0".to_owned(),
            command: Vec::new(),
            generated: at(1000),
            files: Vec::new(),
            warnings: Vec::new(),
        };
        let mut out = Vec::new();
        let style = Style { utc: true, ..Style::default() };
        let left_out = write(&Picture::of(report), &evidence, &style, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), left_out)
    }

    #[test]
    fn hostile_names_are_text() {
        let name = "</text><script>alert(1)</script>\"'&\u{202e}\u{1b}";
        let report = Report {
            holdings: vec![holding(name, 1, 10, Some(20))],
            findings: vec![finding(Some(name), Some(1), 12)],
            ..Report::default()
        };
        let (svg, _) = figure(&report);
        assert!(!svg.contains("<script") && svg.contains("&lt;/text&gt;&lt;script&gt;"), "{svg}");
        assert!(svg.chars().all(|c| c == '\n' || taptrail_record::is_visible(c)));
    }

    #[test]
    fn without_a_record_there_is_no_time() {
        let (svg, left_out) = figure(&Report::default());
        assert!(left_out.is_empty() && svg.contains("No input has a record with a time"));
        assert!(!svg.contains("1970-01-01 00:00:00"), "{svg}");
    }

    #[test]
    fn a_large_report_is_cut_and_says_so() {
        let holdings = (0..200).map(|mac| holding("web1", mac, 10, Some(500))).collect();
        let report = Report { holdings, ..Report::default() };
        let (svg, left_out) = figure(&report);
        assert!(left_out[0].starts_with("142 rows of 202: a figure has 60"), "{left_out:?}");
        assert!(svg.contains("Left out: 142 rows of 202"), "{svg}");
        assert!(svg.len() < 200_000);
        let holdings = (0..9000).map(|nth| holding("web1", 1, 10 * nth, Some(10 * nth + 5))).collect();
        let (svg, left_out) = figure(&Report { holdings, ..Report::default() });
        assert!(left_out[0].starts_with("4000 bars and marks"), "{left_out:?}");
        assert!(svg.len() < 3_000_000, "{}", svg.len());
    }
}
