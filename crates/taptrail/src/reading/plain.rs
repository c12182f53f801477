use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use taptrail_record::{Line, ParseError, Stamp};
use taptrail_trail::{Content, Entry};

use super::{Read, Taker};

/// More than any line that auditd writes; what is longer is cut, and then unreadable.
const LONGEST: u64 = 16 * 1024 + 2;

/// Reads one raw audit log, or standard input when it is `-`.
pub(super) fn read(
    file: &Path,
    host: &Arc<str>,
    read: &mut Read,
    take: &mut Taker<'_>,
) -> io::Result<ControlFlow<()>> {
    let source: Arc<str> = file.display().to_string().into();
    let input: Box<dyn io::Read> =
        if file == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(file)?) };
    let mut input = BufReader::with_capacity(64 * 1024, input);
    read.input.files += 1;
    let mut number = 0;
    let mut line = Vec::new();
    while next(&mut input, &mut line, &mut read.input.bytes)? {
        number += 1;
        read.input.lines += 1;
        match entry(&line, host, &source, number) {
            Ok(Some(entry)) => {
                read.input.records += 1;
                if take(&entry).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(None) => {}
            Err(error) => read.unreadable(&source, number, error),
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads the next line, of a too long one the front.
pub(super) fn next(input: &mut impl BufRead, line: &mut Vec<u8>, bytes: &mut u64) -> io::Result<bool> {
    line.clear();
    *bytes += input.take(LONGEST).read_until(b'\n', line)? as u64;
    if line.last() != Some(&b'\n') && line.len() as u64 == LONGEST {
        *bytes += input.skip_until(b'\n')? as u64;
    }
    Ok(!line.is_empty())
}

fn entry(line: &[u8], host: &Arc<str>, source: &Arc<str>, number: u64) -> Result<Option<Entry>, ParseError> {
    let line = Line::parse(line)?;
    let Some(record) = line.record()? else { return Ok(None) };
    let node = line.node.map(|node| String::from_utf8_lossy(node).into());
    Ok(Some(Entry {
        host: node.unwrap_or_else(|| Arc::clone(host)),
        time: time(line.stamp).ok_or(ParseError::Stamp)?,
        serial: Some(line.stamp.serial),
        source: Arc::clone(source),
        line: number,
        writer: line.pid,
        content: Content::Record(record),
    }))
}

fn time(stamp: Stamp) -> Option<Timestamp> {
    let nanos = i32::from(stamp.millis) * 1_000_000;
    Timestamp::new(i64::try_from(stamp.seconds).ok()?, nanos).ok()
}
