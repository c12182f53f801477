//! Holdings and findings as CSV (RFC 4180).
//!
//! Times are RFC 3339, UTC, milliseconds; what is not told is empty. Two things are not as they were
//! told, because a spreadsheet or terminal would act on them; JSON has them exactly:
//!
//! - A name from outside that begins with `=`, `+`, `-`, `@` or `'` has one more `'` before it, so that it
//!   is no formula. A `'` at the beginning is always such a one.
//! - A control character in it is shown by its number (`\u{1b}`).

use std::borrow::Cow;
use std::io::{self, Write};

use csv::{ErrorKind, Terminator, Writer, WriterBuilder};
use jiff::Timestamp;
use taptrail_record::Device;
use taptrail_trail::{Finding, Holding, Proof};

use crate::findings::place;
use crate::text::whole;

/// Writes holdings.
#[derive(Debug)]
pub(crate) struct HoldingRows<W: Write>(Writer<W>);

impl<W: Write> HoldingRows<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let header = [
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
            "state",
            "ended_by",
            "certainty",
            "pid",
            "proof",
        ];
        begun(out, &header).map(Self)
    }

    pub(crate) fn row(&mut self, holding: &Holding) -> io::Result<()> {
        let [kind, path, dev, rdev] = device(Some(&holding.device));
        let row = [
            outside(&holding.host),
            outside(&holding.guest.name),
            holding.guest.uuid.to_string().into(),
            holding.mac.to_string().into(),
            kind,
            path,
            dev,
            rdev,
            holding.queues.to_string().into(),
            time(holding.opened),
            time(holding.granted),
            time(holding.released),
            holding.state.as_str().into(),
            holding.ended_by.map_or("", |by| by.as_str()).into(),
            holding.certainty.as_str().into(),
            holding.pid.map_or(String::new(), |pid| pid.to_string()).into(),
            proof(&holding.proof),
        ];
        write(&mut self.0, &row)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes findings.
#[derive(Debug)]
pub(crate) struct FindingRows<W: Write>(Writer<W>);

impl<W: Write> FindingRows<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let header = [
            "time", "finding", "host", "guest", "uuid", "mac", "kind", "path", "dev", "rdev", "text", "proof",
        ];
        begun(out, &header).map(Self)
    }

    pub(crate) fn row(&mut self, finding: &Finding) -> io::Result<()> {
        let guest = finding.guest.as_ref();
        let [kind, path, dev, rdev] = device(finding.device.as_ref());
        let row = [
            time(Some(finding.time)),
            finding.kind.as_str().into(),
            outside(&finding.host),
            guest.map_or("".into(), |guest| outside(&guest.name)),
            guest.map_or(String::new(), |guest| guest.uuid.to_string()).into(),
            finding.mac.map_or(String::new(), |mac| mac.to_string()).into(),
            kind,
            path,
            dev,
            rdev,
            outside(&finding.text),
            proof(&finding.proof),
        ];
        write(&mut self.0, &row)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn begun<W: Write>(out: W, header: &[&str]) -> io::Result<Writer<W>> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
    writer.write_record(header).map_err(plain)?;
    Ok(writer)
}

fn write<W: Write>(writer: &mut Writer<W>, row: &[Cow<'_, str>]) -> io::Result<()> {
    writer.write_record(row.iter().map(|field| field.as_bytes())).map_err(plain)
}

/// The output's own error, so that a reader who has gone is known as one.
fn plain(error: csv::Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// A text from outside, without power over spreadsheets and terminals.
fn outside(text: &str) -> Cow<'_, str> {
    let begins = text.starts_with(['=', '+', '-', '@', '\'']);
    let harmless = text.bytes().all(|b| (0x20..0x7F).contains(&b));
    match (begins, harmless) {
        (false, true) => text.into(),
        (false, false) => whole(text).into_string().into(),
        (true, _) => format!("'{}", whole(text)).into(),
    }
}

fn device(device: Option<&Device>) -> [Cow<'_, str>; 4] {
    let Some(device) = device else { return [const { Cow::Borrowed("") }; 4] };
    [
        device.kind.as_str().into(),
        outside(&device.path),
        device.dev.as_deref().map_or("".into(), outside),
        device.rdev.map_or(String::new(), |rdev| rdev.to_string()).into(),
    ]
}

fn time(time: Option<Timestamp>) -> Cow<'static, str> {
    time.map_or(String::new(), |time| format!("{time:.3}")).into()
}

/// Where the records are, one after the other.
fn proof(proof: &[Proof]) -> Cow<'_, str> {
    let places: Vec<String> = proof.iter().map(place).collect();
    outside(&places.join("; ")).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

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
