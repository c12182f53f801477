//! The logs of a real libvirtd, and the holdings and findings in them.

#![allow(clippy::unwrap_used, dead_code)] // Not every test uses all of it.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use taptrail_record::Line;
use taptrail_report::TrailConsumer;
use taptrail_trail::{Content, Coverage, Entry, Input, Span, Trail};

pub(crate) fn lines(folder: &str) -> Vec<Vec<u8>> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/libvirt");
    let log = fs::read(data.join(folder).join("audit.log")).unwrap();
    log.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// Feeds a folder's log to `to`, line by line.
pub(crate) fn feed_log(folder: &str, to: &mut impl TrailConsumer) -> Input {
    feed_logs(&[("h1", folder)], to)
}

/// The same for the logs of several hosts, one after another.
pub(crate) fn feed_logs(logs: &[(&str, &str)], to: &mut impl TrailConsumer) -> Input {
    let mut trail = Trail::new();
    let mut input = Input {
        files: vec![taptrail_trail::InputFile { path: "audit.log".into(), ..Default::default() }],
        ..Input::default()
    };
    let lines = logs.iter().flat_map(|(host, folder)| (1..).zip(lines(folder)).map(|line| (*host, line)));
    for (host, (number, bytes)) in lines {
        if bytes.is_empty() {
            continue;
        }
        input.lines += 1;
        input.bytes += bytes.len() as u64 + 1;
        let line = Line::parse(&bytes).unwrap();
        let Some(record) = line.record().unwrap() else { continue };
        let millis = line.stamp.seconds * 1000 + u64::from(line.stamp.millis);
        let time = Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
        match input.coverage.last_mut().filter(|of| *of.host == *host) {
            Some(of) => of.spans[0].until = time,
            None => {
                let spans = vec![Span { from: time, until: time }];
                input.coverage.push(Coverage { host: host.into(), spans, gaps: vec![], starts: vec![] });
            }
        }
        trail.feed(&Entry {
            host: host.into(),
            time,
            serial: Some(line.stamp.serial),
            writer: line.pid,
            credentials: None,
            source: "audit.log".into(),
            line: number,
            content: Content::Record(record),
            text: None,
            copies: Vec::new(),
            unauthenticated: false,
        });
        trail.drain_ended().for_each(|holding| to.holding(holding).unwrap());
        trail.drain_findings().for_each(|finding| to.finding(finding).unwrap());
    }
    let rest = trail.finish();
    rest.holdings.into_iter().for_each(|holding| to.holding(holding).unwrap());
    rest.findings.into_iter().for_each(|finding| to.finding(finding).unwrap());
    Input { records: rest.input.records, ..input }
}
