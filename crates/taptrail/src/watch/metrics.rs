//! Metrics for Prometheus, in its text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use taptrail_record::Outcome;
use taptrail_source::follow::{PollBatch, Source};
use taptrail_trail::{Certainty, Content, FindingKind, Holding};
use taptrail_witness::watch::{EventKind, WatchEvent};

/// Minimum time between two writes of the file.
const MIN_WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    opened: u64,
    open_failed: u64,
    granted: u64,
    released: BTreeMap<&'static str, u64>,
    bridge_changes: u64,
    findings: BTreeMap<FindingKind, u64>,
    lines: u64,
    unreadable: u64,
    gaps: u64,
    lost: u64,
    behind: u64,
    /// The time of the last line read.
    last: Option<Timestamp>,
    commits: u64,
    commits_failed: u64,
    committed: Option<Timestamp>,
    looked: Option<Timestamp>,
}

/// The state of the BPF program that reports last closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bpf {
    /// --bpf was not given.
    NotAsked,
    /// The kernel did not load it.
    NotLoaded,
    /// It runs, and this many of its events were lost.
    Loaded { lost: u64 },
}

/// The values that are read when the metrics are.
pub(super) struct Sample<'a> {
    /// The holdings of guests now.
    pub(super) held: Vec<&'a Holding>,
    /// Whether the log exists, if one is followed.
    pub(super) present: Option<bool>,
    /// Deliveries of events and actions: destination, outcome, count.
    pub(super) deliveries: Vec<(&'static str, &'static str, u64)>,
    /// The kernel's audit records that were lost since boot, and that are in its queue, if they can
    /// be queried.
    pub(super) kernel: Option<(u32, u32)>,
    pub(super) bpf: Bpf,
}

impl Metrics {
    /// Counts one read of the log.
    pub(super) fn read(&mut self, batch: &PollBatch, source: &dyn Source) {
        self.lines += batch.lines;
        self.unreadable += batch.unreadable;
        self.behind = source.backlog_bytes();
        self.last = source.checkpoint().time().or(self.last);
        for entry in &batch.entries {
            if let Content::Gap(gap) = &entry.content {
                self.gaps += 1;
                let count = |(first, last): (u32, u32)| u64::from(last.wrapping_sub(first)) + 1;
                self.lost += gap.serials.map_or(0, count);
            }
        }
    }

    pub(super) fn committed(&mut self, happenings: &[WatchEvent]) {
        self.commits += 1;
        self.committed = Some(Timestamp::now());
        for happening in happenings {
            match &happening.kind {
                EventKind::Opened { outcome: Outcome::Success, .. } => self.opened += 1,
                EventKind::Opened { .. } => self.open_failed += 1,
                EventKind::Granted { .. } => self.granted += 1,
                EventKind::Released(holding) => {
                    *self.released.entry(holding.certainty.as_str()).or_default() += 1;
                }
                EventKind::BridgeChanged { .. } => self.bridge_changes += 1,
                EventKind::Found(finding) => *self.findings.entry(finding.kind).or_default() += 1,
                EventKind::Guest { .. } => {}
            }
        }
    }

    /// The watcher has looked at the guests that were due.
    pub(super) fn looked(&mut self) {
        self.looked = Some(Timestamp::now());
    }

    pub(super) fn commit_failed(&mut self) {
        self.commits_failed += 1;
    }

    /// The metrics as text.
    pub(super) fn text(&self, now: &Sample<'_>) -> String {
        let mut text = Text::default();
        text.info("taptrail_build_info", "Version of taptrail");
        text.value("taptrail_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);

        let mut held: BTreeMap<(&str, String, &str), u64> = BTreeMap::new();
        let mut guests = std::collections::BTreeSet::new();
        for holding in &now.held {
            let uuid = holding.guest.uuid.to_string();
            guests.insert(holding.guest.uuid);
            *held.entry((&holding.guest.name, uuid, holding.device.kind.as_str())).or_default() += 1;
        }
        text.gauge("taptrail_holdings", "Devices that guests hold, by guest and kind of device");
        for ((guest, uuid, kind), count) in &held {
            text.value("taptrail_holdings", &[("guest", guest), ("uuid", uuid), ("kind", kind)], *count);
        }
        text.gauge("taptrail_guests", "Guests that hold a device");
        text.value("taptrail_guests", &[], guests.len());

        text.counter("taptrail_opens_total", "Opens of devices for guests, by outcome");
        text.value("taptrail_opens_total", &[("outcome", "success")], self.opened);
        text.value("taptrail_opens_total", &[("outcome", "failed")], self.open_failed);
        text.counter("taptrail_grants_total", "Interfaces granted to QEMU");
        text.value("taptrail_grants_total", &[], self.granted);
        text.counter("taptrail_releases_total", "Devices released by QEMU, by certainty");
        for certainty in
            [Certainty::Definitive, Certainty::Inferred, Certainty::Ambiguous, Certainty::Doubtful]
        {
            let word = certainty.as_str();
            let count = self.released.get(word).copied().unwrap_or_default();
            text.value("taptrail_releases_total", &[("certainty", word)], count);
        }
        text.counter("taptrail_bridge_changes_total", "Changes of bridge of taps that QEMU held");
        text.value("taptrail_bridge_changes_total", &[], self.bridge_changes);
        text.counter("taptrail_findings_total", "Findings, by kind and severity");
        for kind in FindingKind::ALL {
            let count = self.findings.get(kind).copied().unwrap_or_default();
            let labels = [("finding", kind.as_str()), ("severity", kind.severity().as_str())];
            text.value("taptrail_findings_total", &labels, count);
        }

        if let Some(present) = now.present {
            text.gauge("taptrail_log_present", "Whether the log that is followed exists");
            text.value("taptrail_log_present", &[], u8::from(present));
        }
        text.gauge("taptrail_log_lag_bytes", "Unread bytes of the log");
        text.value("taptrail_log_lag_bytes", &[], self.behind);
        text.gauge("taptrail_log_lag_seconds", "Age of the last line read, while there are unread lines");
        let age = self
            .last
            .filter(|_| self.behind > 0)
            .map_or(0.0, |last| Timestamp::now().duration_since(last).as_secs_f64().max(0.0));
        text.value("taptrail_log_lag_seconds", &[], format_args!("{age:.3}"));
        text.counter("taptrail_log_lines_total", "Lines of the log read");
        text.value("taptrail_log_lines_total", &[], self.lines);
        text.counter("taptrail_log_unreadable_total", "Damaged or invalid records in the log");
        text.value("taptrail_log_unreadable_total", &[], self.unreadable);
        text.counter("taptrail_log_gaps_total", "Gaps in the log");
        text.value("taptrail_log_gaps_total", &[], self.gaps);
        text.counter(
            "taptrail_records_lost_total",
            "Audit events missing in gaps, where serial numbers show how many",
        );
        text.value("taptrail_records_lost_total", &[], self.lost);
        if let Some((lost, waiting)) = now.kernel {
            text.counter("taptrail_kernel_records_lost_total", "Audit records lost by the kernel since boot");
            text.value("taptrail_kernel_records_lost_total", &[], lost);
            text.gauge("taptrail_kernel_records_waiting", "Audit records in the kernel's queue for auditd");
            text.value("taptrail_kernel_records_waiting", &[], waiting);
        }

        if now.bpf != Bpf::NotAsked {
            let lost = match now.bpf {
                Bpf::Loaded { lost } => Some(lost),
                Bpf::NotAsked | Bpf::NotLoaded => None,
            };
            text.gauge("taptrail_bpf_loaded", "Whether the BPF program reports last closes");
            text.value("taptrail_bpf_loaded", &[], u8::from(lost.is_some()));
            text.counter(
                "taptrail_bpf_events_lost_total",
                "Events of the kernel's BPF program that were lost",
            );
            text.value("taptrail_bpf_events_lost_total", &[], lost.unwrap_or_default());
        }

        text.counter("taptrail_commits_total", "Transactions written to the ledger, by outcome");
        text.value("taptrail_commits_total", &[("outcome", "success")], self.commits);
        text.value("taptrail_commits_total", &[("outcome", "failed")], self.commits_failed);
        text.gauge(
            "taptrail_last_commit_timestamp_seconds",
            "Time of the last transaction written to the ledger",
        );
        text.time("taptrail_last_commit_timestamp_seconds", self.committed);
        text.gauge(
            "taptrail_last_look_timestamp_seconds",
            "Last time at which no look at a guest's QEMU was overdue",
        );
        text.time("taptrail_last_look_timestamp_seconds", self.looked);
        text.counter("taptrail_deliveries_total", "Event deliveries and actions, by destination and outcome");
        for (to, outcome, count) in &now.deliveries {
            text.value("taptrail_deliveries_total", &[("to", to), ("outcome", outcome)], count);
        }
        text.0
    }
}

/// The text in the making.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.head(name, "gauge", help);
    }

    fn info(&mut self, name: &str, help: &str) {
        self.head(name, "gauge", help);
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.head(name, "counter", help);
    }

    /// A time in seconds since 1970; 0 for none.
    fn time(&mut self, name: &str, time: Option<Timestamp>) {
        let seconds = time.map_or(0.0, |time| time.as_duration().as_secs_f64());
        self.value(name, &[], format_args!("{seconds:.3}"));
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0 += name;
        for (number, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if number == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.0 += "\\\\",
                    '"' => self.0 += "\\\"",
                    '\n' => self.0 += "\\n",
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// The file that node_exporter's textfile collector reads.
#[derive(Debug)]
pub(super) struct Textfile {
    path: PathBuf,
    written: Option<Instant>,
    /// Whether something has changed since the last write.
    due: bool,
}

impl Textfile {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), written: None, due: true }
    }

    /// Something has changed.
    pub(super) fn mark_due(&mut self) {
        self.due = true;
    }

    /// The time until the next write; `None` if nothing has changed.
    pub(super) fn next(&self) -> Option<Duration> {
        let left = |written: Instant| MIN_WRITE_INTERVAL.saturating_sub(written.elapsed());
        self.due.then(|| self.written.map_or(Duration::ZERO, left))
    }

    /// Writes the file atomically.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.due = false;
        self.written = Some(Instant::now());
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        // The collector reads files that end in .prom.
        name.push(".new");
        let new = self.path.with_file_name(name);
        // The directory may belong to the collector's user, who is not root: a new file is created,
        // and no link followed.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        // The collector, another user, must be able to read it, whatever our umask.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use taptrail_record::{Device, GuestId, MacAddr};
    use taptrail_trail::{Finding, Incident, State};
    use uuid::Uuid;

    use super::*;

    fn holding(name: &str, path: &str) -> Holding {
        Holding {
            host: "h1".into(),
            guest: GuestId { name: name.into(), uuid: Uuid::from_u128(7) },
            mac: MacAddr::kvm([0, 0, 1]),
            device: Device::new(path, None, None),
            queues: Some(1),
            opened: None,
            granted: None,
            released: None,
            last_seen: None,
            end_doubt: None,
            uncertain_since: None,
            possibly_held: Vec::new(),
            state: State::Held,
            ended_by: None,
            certainty: Certainty::Definitive,
            pid: None,
            proof: Vec::new(),
        }
    }

    fn finding() -> Finding {
        Finding {
            kind: FindingKind::LogGap,
            host: "h1".into(),
            guest: None,
            mac: None,
            device: None,
            time: Timestamp::UNIX_EPOCH,
            text: "lost".to_owned(),
            proof: Vec::new(),
            incident: Incident::default(),
        }
    }

    // Shows 13.28, 13.31.
    #[test]
    fn the_numbers_as_prometheus_reads_them() {
        let mut metrics = Metrics { lines: 10, gaps: 1, lost: 5, ..Metrics::default() };
        let time = Timestamp::UNIX_EPOCH;
        let released = EventKind::Released(Box::new(holding("web1", "/dev/net/tun")));
        let found = EventKind::Found(Box::new(finding()));
        metrics.committed(&[WatchEvent { time, kind: released }, WatchEvent { time, kind: found }]);
        metrics.committed = Some(Timestamp::from_second(1_795_460_022).unwrap());
        metrics.looked = Some(Timestamp::from_second(1_795_460_023).unwrap());
        let held = [
            holding("web1", "/dev/net/tun"),
            holding("web1", "/dev/net/tun"),
            holding("a\"b\\\n", "/dev/tap7"),
        ];
        let deliveries = vec![("stdout", "missed", 3)];
        let present = Some(true);
        let text = metrics.text(&Sample {
            held: held.iter().collect(),
            present,
            deliveries,
            kernel: Some((2, 0)),
            bpf: Bpf::Loaded { lost: 0 },
        });
        let text = text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        let each = |line: &&str| line.starts_with("taptrail_findings_total{") && line.ends_with(" 0");
        assert_eq!(text.lines().filter(each).count(), FindingKind::ALL.len() - 1);
        let others: Vec<_> = text.lines().filter(|line| !each(line)).collect();
        insta::assert_snapshot!(others.join("\n"));
    }

    #[test]
    fn the_file_is_written_whole_and_not_too_often() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taptrail.prom");
        let mut file = Textfile::new(&path);
        assert_eq!(file.next(), Some(Duration::ZERO));
        file.write("one\n").unwrap();
        assert_eq!(file.next(), None, "nothing has changed");
        file.mark_due();
        assert!(file.next().unwrap() > Duration::ZERO, "it was written just now");
        file.write("two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    // Shows 13.40.
    #[test]
    fn whoever_may_write_to_the_files_directory_has_no_other_file_written() {
        let dir = tempfile::tempdir().unwrap();
        let (path, new) = (dir.path().join("taptrail.prom"), dir.path().join("taptrail.prom.new"));
        let secret = dir.path().join("secret");
        fs::write(&secret, "root's\n").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        for link in [
            |to: &Path, from: &Path| std::os::unix::fs::symlink(to, from),
            |to: &Path, from: &Path| fs::hard_link(to, from),
        ] {
            link(&secret, &new).unwrap();
            Textfile::new(&path).write("one\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
            assert_eq!(fs::read_to_string(&secret).unwrap(), "root's\n");
            assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
