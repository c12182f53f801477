//! The records of a session: their lines, decoded, and which step each of them shows.

use std::collections::HashSet;

use compact_str::CompactString;
use taptrail_record::{
    Device, DeviceKind, Event, Line, Outcome, PathRecord, Rdev, Record, RecordType, Syscall, parse_text,
};
use taptrail_trail::{BridgeTap, Finding, Holding, Proof, State};

use crate::Session;

/// Reads the line of a proof from its source again; none when that is not possible.
pub type LineReader<'a> = dyn Fn(&Proof) -> Option<String> + 'a;

/// The sources that an explanation cites.
#[derive(Clone, Copy)]
pub struct CitedSources<'a> {
    /// Reads a line again.
    pub line: &'a LineReader<'a>,
    /// What a source is.
    pub kind: &'a dyn Fn(&str) -> SourceKind,
}

/// What a source is, by which other programs show its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A plain audit log: ausearch(8).
    AuditLog,
    /// A ledger: sqlite3(1).
    Ledger,
    /// Another log.
    Other,
}

/// A record of a session.
pub(super) struct Evident<'a> {
    pub(super) proof: &'a Proof,
    /// The line as in its source; none if it could not be read again.
    pub(super) line: Option<String>,
    pub(super) content: Decoded,
}

/// What a line says.
pub(super) enum Decoded {
    /// A record of a guest's manager, or of a watcher.
    Record { record: Box<Record>, by: Writer },
    /// An open(2) as the kernel logged it.
    Open { pid: u32, ppid: Option<u32>, fd: Option<i32>, errno: Option<i32> },
    /// The file of such an open(2).
    Path { path: CompactString, rdev: Rdev },
    /// The line is in another shape, or could not be read again.
    Unknown,
}

/// The process that wrote a record, as the kernel logged it.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) pid: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) auid: Option<u32>,
}

/// A step in the life of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Open,
    Grant,
    Release,
}

impl Step {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Grant => "grant",
            Self::Release => "release",
        }
    }
}

impl Decoded {
    fn of(line: &str) -> Self {
        let bytes = line.as_bytes();
        if line.starts_with("virt=") {
            // A ledger has the texts alone; its type decides which pairs a text has to have.
            let read = |kind| parse_text(kind, bytes).ok().flatten();
            return match read(RecordType::VIRT_RESOURCE).or_else(|| read(RecordType::VIRT_CONTROL)) {
                Some(record) => Self::Record { record: Box::new(record), by: Writer::default() },
                None => Self::Unknown,
            };
        }
        let Ok(line) = Line::parse(bytes) else { return Self::Unknown };
        if let Ok(Some(record)) = line.record() {
            let by = Writer { pid: line.pid, uid: line.uid, auid: line.auid };
            return Self::Record { record: Box::new(record), by };
        }
        if let Some(Syscall { pid, ppid, fd, errno, .. }) = Syscall::of(&line) {
            return Self::Open { pid, ppid, fd, errno };
        }
        match PathRecord::of(&line) {
            Some(of) if of.kind != DeviceKind::Unknown => Self::Path { path: of.path(), rdev: of.rdev },
            _ => Self::Unknown,
        }
    }

    /// The step that it shows.
    pub(super) fn step(&self) -> Option<Step> {
        match self {
            Self::Open { .. } | Self::Path { .. } => Some(Step::Open),
            Self::Unknown => None,
            Self::Record { record, .. } => match record.event {
                Event::Open { .. } => Some(Step::Open),
                Event::Start { .. }
                | Event::Attach { .. }
                | Event::Keep { .. }
                | Event::Seen(_)
                | Event::GuestStart { .. } => Some(Step::Grant),
                Event::Detach { .. }
                | Event::Close { .. }
                | Event::Gone(_)
                | Event::GuestStop { .. }
                | Event::GuestGone { .. } => Some(Step::Release),
                Event::Filter { .. } | Event::Mac { .. } | Event::Update { .. } => None,
            },
        }
    }
}

/// All records of a session, and those of `more`, each once, in the order of time.
pub(super) fn of_session<'a>(
    session: &Session<'a>,
    more: impl Iterator<Item = &'a Proof>,
    evidence: CitedSources<'_>,
) -> Vec<Evident<'a>> {
    decode(session.holdings.iter().flat_map(|of| &of.proof).chain(more), evidence)
}

/// The records of a finding.
pub(super) fn of_finding<'a>(finding: &'a Finding, evidence: CitedSources<'_>) -> Vec<Evident<'a>> {
    decode(finding.proof.iter(), evidence)
}

/// The records of a bridge helper's tap.
pub(super) fn of_bridge_tap<'a>(tap: &'a BridgeTap, evidence: CitedSources<'_>) -> Vec<Evident<'a>> {
    decode(tap.proof.iter(), evidence)
}

fn decode<'a>(all: impl Iterator<Item = &'a Proof>, evidence: CitedSources<'_>) -> Vec<Evident<'a>> {
    let mut unique = HashSet::new();
    let mut proofs: Vec<_> = all.filter(|proof| unique.insert((&proof.source, proof.line))).collect();
    proofs.sort_by_key(|proof| proof.order());
    let evident = |proof| {
        let line = (evidence.line)(proof);
        let content = line.as_deref().map_or(Decoded::Unknown, Decoded::of);
        Evident { proof, line, content }
    };
    proofs.into_iter().map(evident).collect()
}

/// The record that shows a step of a holding.
pub(super) fn shows<'e, 'a>(
    step: Step,
    holding: &Holding,
    records: &'e [Evident<'a>],
) -> Option<&'e Evident<'a>> {
    let time = match step {
        Step::Open => holding.opened,
        Step::Grant => holding.granted,
        Step::Release => holding.released,
    }?;
    let is_of = |of: &&'e Evident<'a>| {
        of.proof.time == time
            && holding
                .proof
                .iter()
                .any(|proof| proof.source == of.proof.source && proof.line == of.proof.line)
    };
    let at: Vec<_> = records.iter().filter(is_of).collect();
    let decoded =
        at.iter().copied().find(|of| of.content.step() == Some(step) && concerns(of, step, holding));
    // Of lines that can't be decoded, the order of the steps decides.
    let unknown: Vec<_> = at.into_iter().filter(|of| of.content.step().is_none()).collect();
    decoded.or_else(|| match step {
        Step::Open => unknown.first().copied(),
        Step::Grant => unknown.get(usize::from(holding.opened == Some(time))).or(unknown.last()).copied(),
        Step::Release => unknown.last().copied(),
    })
}

/// Whether a record may show a step of a holding: it names no other device, and has its outcome.
fn concerns(of: &Evident<'_>, step: Step, holding: &Holding) -> bool {
    let Decoded::Record { record, .. } = &of.content else { return true };
    let is_device = |of: &Device| of.kind == holding.device.kind || of.path == holding.device.path;
    let failed = step == Step::Open && holding.state == State::OpenFailed;
    record.event.device().is_none_or(is_device) && (record.outcome == Outcome::Failed) == failed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use taptrail_record::MacAddr;

    use super::*;
    use crate::sample::holding;

    fn step(line: &str) -> Option<Step> {
        Decoded::of(line).step()
    }

    #[test]
    fn a_line_of_a_ledger_is_a_record_without_its_writer() {
        let guest = holding("web1", 1, 10, None).guest;
        let mac = MacAddr::kvm([0, 0, 1]);
        let start = Event::Start { mac, vm_pid: Some(4711), fds: Some(1) };
        let stop = Event::GuestStop { reason: taptrail_record::Reason::SHUTDOWN, vm_pid: Some(4711) };
        for (event, of) in [(start, Step::Grant), (stop, Step::Release)] {
            let text =
                Record::success(guest.clone(), event.clone()).text(Path::new("/usr/bin/taptrail")).unwrap();
            let Decoded::Record { record, by } = Decoded::of(&text) else { panic!("{text}") };
            assert_eq!((&record.event, by.pid), (&event, None));
            assert_eq!(step(&text), Some(of));
        }
    }

    #[test]
    fn an_open_as_the_kernel_logged_it_is_an_open() {
        let head = "msg=audit(1795459763.120:1918):";
        let syscall = format!(
            "type=SYSCALL {head} arch=c000003e syscall=257 success=yes exit=30 a0=ffffff9c a1=7f a2=2 a3=0 items=1 \
             ppid=1 pid=23941 auid=0 uid=0 comm=\"x\" exe=\"/usr/sbin/libvirtd\" key=\"tap\""
        );
        let path = |name: &str| {
            format!(
                "type=PATH {head} item=0 name={name} inode=151 dev=00:06 mode=020600 ouid=0 ogid=0 rdev=f6:02 nametype=NORMAL"
            )
        };
        assert!(matches!(Decoded::of(&syscall), Decoded::Open { pid: 23941, fd: Some(30), .. }));
        assert!(
            matches!(Decoded::of(&path("\"/dev/tap198\"")), Decoded::Path { path, .. } if path == "/dev/tap198")
        );
        assert_eq!([syscall, path("\"/dev/tap198\"")].map(|line| step(&line)), [Some(Step::Open); 2]);
        for line in ["", "virt=", "May 12 12:48:00 host audit[3]: VIRT_RESOURCE", &path("\"/dev/null\"")] {
            assert_eq!(step(line), None, "{line}");
        }
    }

    #[test]
    fn steps_of_lines_that_can_not_be_decoded_are_known_by_their_times() {
        let mut of = holding("web1", 1, 10, Some(30));
        let lines = |of: &Holding| {
            let session = Session { holdings: vec![of] };
            let evidence = CitedSources { line: &|_| None, kind: &|_| SourceKind::Other };
            let records = of_session(&session, [].iter(), evidence);
            let line = |step| shows(step, of, &records).map(|of| of.proof.line);
            [Step::Open, Step::Grant, Step::Release].map(line)
        };
        assert_eq!(lines(&of), [Some(10), Some(11), Some(30)]);
        // Within one tick of the clock.
        of.granted = of.opened;
        of.proof[1].time = of.proof[0].time;
        assert_eq!(lines(&of), [Some(10), Some(11), Some(30)]);
        of.released = None;
        assert_eq!(lines(&of), [Some(10), Some(11), None]);
    }
}
