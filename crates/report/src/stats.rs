use std::time::Duration;

use compact_str::{CompactString, format_compact};
use taptrail_trail::Input;

use crate::Style;
use crate::table::{Table, cell, number};

/// Amounts and rates of reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The summary of the input.
    pub input: Input,
    /// The number of entries: records, opens that the kernel logged, boots.
    pub entries: u64,
    /// The number of `VIRT_CONTROL` records of container run-times.
    pub foreign: u64,
    /// The time that reading and writing took.
    pub elapsed: Duration,
}

impl Stats {
    /// Lines of label, amount and rate.
    pub fn text(&self) -> String {
        let Input { bytes, lines, records, unreadable, unread, duplicates, .. } = self.input;
        let files = self.input.files.len() as u64;
        let known = self.entries.saturating_add(unreadable).saturating_add(unread).saturating_add(duplicates);
        let others = lines.saturating_sub(known);
        let mut table = Table::without_header(&Style::default(), 3);
        let mut row = |name: &str, amount: u64, rate: CompactString| {
            table.row([cell(name), number(amount), number(rate)]);
        };
        let seconds = self.elapsed.as_secs_f64();
        row("files", files, "".into());
        row("bytes", bytes, rate(bytes, seconds, "B"));
        row("lines", lines, rate(lines, seconds, ""));
        row("records", records, rate(records, seconds, ""));
        row("unreadable", unreadable, "".into());
        row("unread", unread, "".into());
        row("duplicates", duplicates, "".into());
        row("foreign", self.foreign, "".into());
        row("not used", others, "".into());
        table.row([cell("seconds"), number(format_compact!("{seconds:.3}"))]);
        table.text()
    }
}

/// An amount per second, in three digits: `8.93 GB/s`.
fn rate(amount: u64, seconds: f64, unit: &str) -> CompactString {
    if seconds <= 0.0 {
        return "".into();
    }
    // A rate need not be exact, and no log has 2^53 bytes.
    #[allow(clippy::cast_precision_loss)]
    let mut rate = amount as f64 / seconds;
    let mut prefix = "";
    for next in ["k", "M", "G", "T"] {
        if rate < 1000.0 {
            break;
        }
        rate /= 1000.0;
        prefix = next;
    }
    let digits = if rate < 10.0 { 2 } else { usize::from(rate < 100.0) };
    format_compact!("{rate:.digits$} {prefix}{unit}/s")
}

#[cfg(test)]
mod tests {
    use taptrail_trail::InputFile;

    use super::*;

    #[test]
    fn rates_have_three_digits() {
        assert_eq!(rate(0, 2.0, ""), "0.00 /s");
        assert_eq!(rate(5, 2.0, ""), "2.50 /s");
        assert_eq!(rate(30_000, 2.0, ""), "15.0 k/s");
        assert_eq!(rate(1 << 30, 0.12, "B"), "8.95 GB/s");
        assert_eq!(rate(u64::MAX, 1.0, "B"), "18446744 TB/s");
        assert_eq!(rate(5, 0.0, ""), "");
    }

    #[test]
    fn what_is_not_used_is_the_rest() {
        let input = Input {
            files: vec![InputFile::default(); 2],
            bytes: 900,
            lines: 100,
            records: 20,
            unreadable: 3,
            duplicates: 7,
            ..Input::default()
        };
        let stats = Stats { input, entries: 30, foreign: 4, elapsed: Duration::from_millis(500) };
        assert_eq!(
            stats
                .text()
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>(),
            [
                "files 2",
                "bytes 900 1.80 kB/s",
                "lines 100 200 /s",
                "records 20 40.0 /s",
                "unreadable 3",
                "unread 0",
                "duplicates 7",
                "foreign 4",
                "not used 60",
                "seconds 0.500",
            ]
        );
    }
}
