//! Holdings and findings as CSV (RFC 4180).
//!
//! Times are RFC 3339, UTC, milliseconds; an unknown value is empty. Two kinds of names are
//! changed, because a spreadsheet or terminal would act on them; JSON has them exactly:
//!
//! - A name from outside that begins with `=`, `+`, `-`, `@` or `'` gets a `'` in front, so that it
//!   is no formula. A `'` at the beginning of a field was always added here.
//! - A control character is shown by its number (`\u{1b}`).

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

use csv::{ErrorKind, Terminator, Writer, WriterBuilder};
use jiff::Timestamp;
use taptrail_record::Device;
use taptrail_trail::{Finding, Holding, PossiblyHeld, Proof};

use crate::findings::location;
use crate::text::escape_text;

/// The columns of holdings, which docs/schema.md describes.
const HOLDING_COLUMNS: &[&str] = &[
    "host",
    "guest",
    "uuid",
    "mac",
    "kind",
    "path",
    "dev",
    "rdev",
    "queues",
    "opened",
    "granted",
    "released",
    "last_seen",
    "uncertain_since",
    "possibly_held",
    "state",
    "ended_by",
    "certainty",
    "pid",
    "proof",
    "end_doubt",
    "unauthenticated_source",
];

/// The columns of findings, which docs/schema.md describes.
const FINDING_COLUMNS: &[&str] = &[
    "time",
    "finding",
    "host",
    "guest",
    "uuid",
    "mac",
    "kind",
    "path",
    "dev",
    "rdev",
    "text",
    "proof",
    "unauthenticated_source",
    "severity",
    "incident",
    "follows",
];

/// Writes holdings.
#[derive(Debug)]
pub(crate) struct HoldingRows<W: Write>(Rows<W>);

impl<W: Write> HoldingRows<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        Rows::new(out, HOLDING_COLUMNS).map(Self)
    }

    pub(crate) fn row(&mut self, holding: &Holding) -> io::Result<()> {
        let row = &mut self.0;
        row.outside(&holding.host)?;
        row.outside(&holding.guest.name)?;
        row.value(Some(holding.guest.uuid))?;
        row.value(Some(holding.mac))?;
        row.device(Some(&holding.device))?;
        row.value(holding.queues)?;
        row.time(holding.opened)?;
        row.time(holding.granted)?;
        row.time(holding.released)?;
        row.time(holding.last_seen)?;
        row.time(holding.uncertain_since)?;
        row.possibly_held(&holding.possibly_held)?;
        row.word(holding.state.as_str())?;
        row.word(holding.ended_by.map_or("", |by| by.as_str()))?;
        row.word(holding.certainty.as_str())?;
        row.value(holding.pid)?;
        row.proof(&holding.proof)?;
        row.word(holding.end_doubt.map_or("", |doubt| doubt.as_str()))?;
        row.source(&holding.proof)?;
        row.end()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes findings.
#[derive(Debug)]
pub(crate) struct FindingRows<W: Write>(Rows<W>);

impl<W: Write> FindingRows<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        Rows::new(out, FINDING_COLUMNS).map(Self)
    }

    pub(crate) fn row(&mut self, finding: &Finding) -> io::Result<()> {
        let guest = finding.guest.as_ref();
        let row = &mut self.0;
        row.time(Some(finding.time))?;
        row.word(finding.kind.as_str())?;
        row.outside(&finding.host)?;
        row.outside(guest.map_or("", |guest| &guest.name))?;
        row.value(guest.map(|guest| guest.uuid))?;
        row.value(finding.mac)?;
        row.device(finding.device.as_ref())?;
        row.outside(&finding.text)?;
        row.proof(&finding.proof)?;
        row.source(&finding.proof)?;
        row.word(finding.kind.severity().as_str())?;
        row.value(Some(finding.incident.number))?;
        row.value(Some(finding.incident.follows))?;
        row.end()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes rows, field by field. There may be millions, so all fields are formatted in one buffer.
#[derive(Debug)]
pub(crate) struct Rows<W: Write> {
    writer: Writer<W>,
    buffer: String,
}

impl<W: Write> Rows<W> {
    pub(crate) fn new(out: W, header: &[&str]) -> io::Result<Self> {
        let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        writer.write_record(header).map_err(io_error)?;
        Ok(Self { writer, buffer: String::new() })
    }

    /// A word of our own.
    pub(crate) fn word(&mut self, word: &str) -> io::Result<()> {
        self.writer.write_field(word).map_err(io_error)
    }

    /// A value whose text needs no escaping; none is an empty field.
    pub(crate) fn value(&mut self, value: Option<impl Display>) -> io::Result<()> {
        self.buffer.clear();
        if let Some(value) = value {
            // Writing to a String can't fail.
            let _ = write!(self.buffer, "{value}");
        }
        self.writer.write_field(&self.buffer).map_err(io_error)
    }

    pub(crate) fn time(&mut self, time: Option<Timestamp>) -> io::Result<()> {
        self.value(time.map(|time| fmt::from_fn(move |f| write!(f, "{time:.3}"))))
    }

    /// A text from outside, without power over spreadsheets and terminals.
    pub(crate) fn outside(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_field(&*outside(text)).map_err(io_error)
    }

    pub(crate) fn device(&mut self, device: Option<&Device>) -> io::Result<()> {
        self.word(device.map_or("", |device| device.kind.as_str()))?;
        self.outside(device.map_or("", |device| &device.path))?;
        self.outside(device.and_then(|device| device.dev.as_deref()).unwrap_or_default())?;
        self.value(device.and_then(|device| device.rdev))
    }

    /// `FROM/UNTIL WHY; …`; an unknown end is empty.
    pub(crate) fn possibly_held(&mut self, stretches: &[PossiblyHeld]) -> io::Result<()> {
        self.buffer.clear();
        for (at, PossiblyHeld { from, until, why }) in stretches.iter().enumerate() {
            let time = |time: &Option<Timestamp>| time.map_or(String::new(), |time| format!("{time:.3}"));
            let gap = if at == 0 { "" } else { "; " };
            // Writing to a String can't fail.
            let _ = write!(self.buffer, "{gap}{}/{} {}", time(from), time(until), why.as_str());
        }
        self.writer.write_field(&self.buffer).map_err(io_error)
    }

    /// The locations of the records, separated by `; `.
    pub(crate) fn proof(&mut self, proof: &[Proof]) -> io::Result<()> {
        self.buffer.clear();
        for (at, proof) in proof.iter().enumerate() {
            // Writing to a String can't fail.
            let _ = write!(self.buffer, "{}{}", if at == 0 { "" } else { "; " }, location(proof));
        }
        self.writer.write_field(&*outside(&self.buffer)).map_err(io_error)
    }

    /// Whether one of the records is from a source that does not authenticate its writers.
    pub(crate) fn source(&mut self, proof: &[Proof]) -> io::Result<()> {
        self.word(if Proof::any_unauthenticated(proof) { "true" } else { "false" })
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.writer.write_record(None::<&[u8]>).map_err(io_error)
    }
}

/// The output's own error, so that callers recognise a broken pipe.
fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

fn outside(text: &str) -> Cow<'_, str> {
    let begins = text.starts_with(['=', '+', '-', '@', '\'']);
    let harmless = text.bytes().all(|b| (0x20..0x7F).contains(&b));
    match (begins, harmless) {
        (false, true) => text.into(),
        (false, false) => escape_text(text).into_string().into(),
        (true, _) => format!("'{}", escape_text(text)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first cells of the table below a heading of docs/schema.md.
    fn documented(heading: &str) -> Vec<&'static str> {
        let text = include_str!("../../../docs/schema.md");
        let section = text.split_once(&format!("\n### {heading}\n")).unwrap().1;
        let section = section.split("\n#").next().unwrap();
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
    }

    #[test]
    fn each_column_is_documented_in_its_place() {
        assert_eq!(documented("Columns of holdings"), HOLDING_COLUMNS);
        assert_eq!(documented("Columns of findings"), FINDING_COLUMNS);
        assert_eq!(documented("Columns of runs"), crate::runs::RUN_COLUMNS);
        assert_eq!(documented("Columns of events"), crate::events::EVENT_COLUMNS);
    }

    #[test]
    fn names_from_outside_are_no_formulas() {
        for (name, field) in [
            ("web1", "web1"),
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("'quoted", "''quoted"),
            ("\t=1+1", "\\t=1+1"),
            ("a\r\n\x1b[31m", "a\\r\\n\\u{1b}[31m"),
            ("é 名", "é 名"),
            ("", ""),
        ] {
            assert_eq!(outside(name), field);
        }
    }
}
