//! The page: one file, which loads nothing.
//!
//! A browser runs its own two scripts, by their hashes, and nothing that a log's text could bring
//! in: no other script or style, and no request (Content Security Policy). The data is JSON in an
//! element that is not run, and the page shows each text of it as text.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use taptrail_record::is_visible;

use super::collect;
use super::evidence::Evidence;
use super::picture::Picture;
use crate::explain::LineReader;
use crate::style::Style;

const TEMPLATE: &str = include_str!("../../assets/report/page.html");
const D3: &str = include_str!("../../assets/vendor/d3.min.js");

/// The page's style, in parts.
const STYLES: [&str; 5] = [
    include_str!("../../assets/report/theme.css"),
    include_str!("../../assets/report/page.css"),
    include_str!("../../assets/report/table.css"),
    include_str!("../../assets/report/story.css"),
    include_str!("../../assets/report/paper.css"),
];

/// The page's own script, in parts.
const SCRIPT: [&str; 10] = [
    include_str!("../../assets/report/data.js"),
    include_str!("../../assets/report/times.js"),
    include_str!("../../assets/report/filter.js"),
    include_str!("../../assets/report/glyphs.js"),
    include_str!("../../assets/report/timeline.js"),
    include_str!("../../assets/report/gestures.js"),
    include_str!("../../assets/report/table.js"),
    include_str!("../../assets/report/story.js"),
    include_str!("../../assets/report/evidence.js"),
    include_str!("../../assets/report/main.js"),
];

/// The part with which a page is kept up to date.
const LIVE: &str = include_str!("../../assets/report/live.js");

pub(super) fn write(
    picture: &Picture<'_>,
    evidence: &Evidence,
    style: &Style,
    lines: &LineReader<'_>,
    generation: Option<u64>,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let (data, left_out) = collect::collect(picture, evidence, style, lines);
    let (script, css) = (script(generation), STYLES.join("\n"));
    // A page that is no server's asks nobody anything.
    let connect = if generation.is_some() { "; connect-src 'self'" } else { "" };
    let policy = policy(&script, &css, connect);
    let mut rest = TEMPLATE;
    // The template's marks are in double braces.
    while let Some((before, after)) = rest.split_once("{{") {
        out.write_all(before.as_bytes())?;
        let (mark, after) = after.split_once("}}").unwrap_or((after, ""));
        match mark {
            "policy" => out.write_all(policy.as_bytes())?,
            "css" => out.write_all(css.as_bytes())?,
            "d3" => out.write_all(D3.as_bytes())?,
            "script" => out.write_all(script.as_bytes())?,
            "data" => write_data(out, &data)?,
            "generation" => write!(out, "{}", generation.unwrap_or_default())?,
            _ => {}
        }
        rest = after;
    }
    out.write_all(rest.as_bytes())?;
    Ok(left_out)
}

/// The parts share a scope, and put nothing into the page's own.
fn script(generation: Option<u64>) -> String {
    let live = if generation.is_some() { LIVE } else { "" };
    format!("\"use strict\";\n(() => {{\n{}\n{live}}})();\n", SCRIPT.join("\n"))
}

fn policy(script: &str, css: &str, connect: &str) -> String {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    format!(
        "default-src 'none'; script-src {} {}; style-src {}; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'{connect}",
        hash(D3),
        hash(script),
        hash(css)
    )
}

/// JSON that can't end its element, whatever is in its strings.
fn write_data(out: &mut impl Write, data: &impl Serialize) -> io::Result<()> {
    data.serialize(&mut Serializer::with_formatter(out, InElement(CompactFormatter)))
        .map_err(io::Error::other)
}

/// Escapes what could end a script element or begin a comment in it, and what can't be seen: a
/// JSON parser gets the original string.
struct InElement(CompactFormatter);

impl Formatter for InElement {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, c)) =
            rest.char_indices().find(|(_, c)| matches!(c, '<' | '>' | '&') || !is_visible(*c))
        {
            out.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_string_fragment(out, rest)
    }
}

#[cfg(test)]
mod tests {
    use taptrail_trail::Report;

    use super::*;
    use crate::page::{FileEvidence, Hash};
    use crate::sample::{at, finding, holding};

    const HOSTILE: &str =
        "</script><script>alert(1)</script><!--\u{2028}\u{2029}\u{202e}\u{1b}[31m'\"&{{data}}";

    fn evidence() -> Evidence {
        Evidence {
            program: "taptrail 0.1.0".to_owned(),
            command: vec!["taptrail".to_owned(), "report".to_owned(), HOSTILE.to_owned()],
            generated: at(1000),
            files: vec![FileEvidence { path: HOSTILE.to_owned(), hash: Hash::None(HOSTILE.to_owned()) }],
            warnings: vec![HOSTILE.to_owned()],
        }
    }

    fn hostile_report() -> Report {
        let mut holding = holding(HOSTILE, 1, 10, Some(20));
        holding.host = HOSTILE.into();
        holding.device.path = HOSTILE.into();
        holding.device.dev = Some(HOSTILE.into());
        holding.proof.iter_mut().for_each(|proof| proof.source = HOSTILE.into());
        let mut finding = finding(Some(HOSTILE), Some(1), 12);
        finding.host = HOSTILE.into();
        finding.text = HOSTILE.to_owned();
        Report { holdings: vec![holding], findings: vec![finding], ..Report::default() }
    }

    fn page(report: &Report, line: &LineReader<'_>) -> (String, Vec<String>) {
        let mut out = Vec::new();
        let style = Style { utc: true, ..Style::default() };
        let left_out = write(&Picture::of(report), &evidence(), &style, line, None, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), left_out)
    }

    fn element<'a>(page: &'a str, begin: &str, end: &str) -> &'a str {
        page.split_once(begin).unwrap().1.split_once(end).unwrap().0
    }

    #[test]
    fn hostile_text_stays_within_its_element() {
        let (page, _) = page(&hostile_report(), &|_| Some(HOSTILE.to_owned()));
        let data = element(&page, "<script type=\"application/json\" id=\"data\">", "</script>");
        assert!(!data.contains(['<', '>', '&']));
        assert!(data.chars().all(is_visible), "what can't be seen is escaped");
        // As often as in the template, and not one more.
        assert_eq!(page.matches("<script").count() - D3.matches("<script").count(), 3);
        let read: serde_json::Value = serde_json::from_str(data).unwrap();
        let guest = read["guests"][0][0].as_str().unwrap();
        assert!(guest.starts_with("</script><script>alert(1)</script><!--\\u{2028}"), "{guest}");
        for raw in read["lines"]["raw"].as_array().unwrap() {
            assert!(raw.as_str().unwrap().contains("\\u{202e}\\u{1b}[31m"));
        }
    }

    #[test]
    fn the_policy_names_the_scripts_and_the_style_that_are_there() {
        let (page, _) = page(&Report::default(), &|_| None);
        let policy = element(&page, "http-equiv=\"Content-Security-Policy\" content=\"", "\"");
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'));
        for text in [
            element(&page, "<script id=\"library\">", "</script>"),
            element(&page, "<script id=\"program\">", "</script>"),
            element(&page, "<style>", "</style>"),
        ] {
            let hash = STANDARD.encode(digest(&SHA256, text.as_bytes()));
            assert!(policy.contains(&format!("'sha256-{hash}'")), "{policy}");
        }
        // No attribute of a style or handler, which the policy would refuse, and nothing from
        // elsewhere.
        for refused in [" style=\"", " onclick", " src=", " href=\"http", "url("] {
            assert!(!TEMPLATE.contains(refused) && !STYLES.join("").contains(refused), "{refused}");
        }
        assert!(page.contains("http-equiv") && page.find("http-equiv") < page.find("<style>"));
    }

    #[test]
    fn the_library_is_as_it_was_published() {
        let hash: String =
            digest(&SHA256, D3.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "f2094bbf6141b359722c4fe454eb6c4b0f0e42cc10cc7af921fc158fceb86539");
        assert!(include_str!("../../assets/vendor/README.md").contains(&hash));
    }

    #[test]
    fn no_script_makes_elements_of_text() {
        for part in SCRIPT.into_iter().chain([LIVE]) {
            for refused in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", ".html("]
            {
                assert!(!part.contains(refused), "{refused}");
            }
            assert!(!part.contains("</script") && !part.contains("<!--"));
        }
        assert!(!D3.contains("</script"));
    }

    #[test]
    fn lines_beyond_the_limit_are_left_out_and_said() {
        let holdings = (0..40).map(|nth| holding("web1", 1, 100 * nth, Some(100 * nth + 50))).collect();
        let report = Report { holdings, ..Report::default() };
        let long = "x".repeat(16 * 1024);
        let (all, nothing) = page(&report, &|_| Some(long.clone()));
        assert!(nothing.is_empty() && all.contains(&long));
        let holdings = (0..1000).map(|nth| holding("web1", 1, 100 * nth, Some(100 * nth + 50))).collect();
        let report = Report { holdings, ..Report::default() };
        let (some, left_out) = page(&report, &|_| Some(long.clone()));
        assert!(some.len() < 34 * 1024 * 1024, "{}", some.len());
        assert!(left_out[0].starts_with("The text of 952 lines"), "{left_out:?}");
        let data = element(&some, "id=\"data\">", "</script>");
        let read: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(read["evidence"]["left_out"][0], left_out[0]);
        assert_eq!(read["lines"]["line"].as_array().unwrap().len(), 3000);
        let (_, left_out) = page(&report, &|_| None);
        assert!(left_out[0].starts_with("The text of 3000 lines, which can't be read again"), "{left_out:?}");
    }
}
