//! The source that is followed: a log, or a live stream after the log was read to its end.

use std::io::{self, Stdin};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use taptrail_kernel::audit::{Broadcast, BroadcastItem};
use taptrail_source::SourceError;
use taptrail_source::follow::{
    BroadcastSource, Checkpoint, Follower, LineDefaults, PipeSource, PollBatch, Source, StartPosition,
};

use crate::cli::Watch;
use crate::output::Failure;

/// How long auditd may take to write a record that the kernel has broadcast: after this time the
/// log has all records from before our subscription.
const AUDITD_WRITE_DELAY: Duration = Duration::from_millis(250);

/// Records of the broadcast that are read at a time.
const MAX_RECORDS_PER_LOOK: usize = 4096;

/// A live stream, which can't be read again. Earlier records may be in the log, which is read
/// first.
struct LiveSource {
    about: LineDefaults,
    /// The log, and the time at which it has all records from before our subscription.
    before: Option<(Follower, Instant)>,
    from: StreamKind,
}

enum StreamKind {
    Stdin(Option<PipeSource<Stdin>>),
    Kernel(Broadcast, Option<BroadcastSource>),
}

/// The opened source, with its name for messages.
pub(super) struct OpenedSource {
    pub(super) source: Box<dyn Source>,
    pub(super) name: String,
    /// The path of the log, if a log is followed.
    pub(super) log: Option<PathBuf>,
    /// Messages for the log: what is followed, and from where.
    pub(super) plan: Vec<String>,
}

/// The arguments of [`plan`].
struct Start<'a> {
    log: &'a Path,
    /// The name of the live stream, if one is followed after the log.
    heard: Option<&'static str>,
    begin: StartPosition,
    left: Option<&'a Checkpoint>,
    /// The place in the log that is read next; `None` if no log is read.
    next: Option<Checkpoint>,
    /// Whether the log still has the place that the checkpoint names.
    is_whole: bool,
}

/// Opens the source that the arguments name, to go on at the checkpoint `left`.
pub(super) fn open(
    arguments: &Watch,
    about: LineDefaults,
    left: Option<&Checkpoint>,
) -> Result<OpenedSource, Failure> {
    let log = taptrail_source::host_log(arguments.log.as_deref());
    let begin = StartPosition::from(arguments.begin);
    let open = || {
        let follower = Follower::open(&log, about.clone(), begin, left);
        follower.map_err(|error| {
            let text = "The audit log can't be followed (on a host without auditd, --kernel follows the kernel itself)";
            Failure::input(anyhow::Error::new(error).context(text))
        })
    };
    let from = match (arguments.kernel, arguments.stdin) {
        (false, false) => {
            let source = open()?;
            let (next, is_whole) = (Some(source.checkpoint()), source.is_complete());
            let start = Start { log: &log, heard: None, begin, left, next, is_whole };
            let name = log.display().to_string();
            let plan = plan(&start);
            return Ok(OpenedSource { source: Box::new(source), name, log: Some(log), plan });
        }
        // Subscribed before the log is read, so that no record is missed.
        (true, _) => StreamKind::Kernel(Broadcast::open().map_err(Failure::input)?, None),
        (_, true) => StreamKind::Stdin(None),
    };
    let name = from.name().to_owned();
    let is_there = taptrail_source::host_log_paths(Some(&log)).is_ok_and(|files| !files.is_empty());
    let asked_for = left.is_some() || begin != StartPosition::End;
    let heard_name = from.name();
    let mut heard = LiveSource { about: about.clone(), before: None, from };
    let (mut next, mut is_whole) = (None, true);
    if is_there && asked_for {
        let log = open()?;
        (next, is_whole) = (Some(log.checkpoint()), log.is_complete());
        heard.before = Some((log, Instant::now() + AUDITD_WRITE_DELAY));
    } else {
        heard.listen(left, false);
    }
    let plan = plan(&Start { log: &log, heard: Some(heard_name), begin, left, next, is_whole });
    Ok(OpenedSource { source: Box::new(heard), name, log: None, plan })
}

/// Messages that say what is followed, and from where.
fn plan(start: &Start<'_>) -> Vec<String> {
    let Start { log, heard, begin, left, next, is_whole } = start;
    let shown = log.display();
    let mut lines = vec![match (heard, next) {
        (None, _) => format!("Following the audit log {shown}"),
        (Some(heard), Some(_)) => {
            format!("Following {heard}, after the audit log {shown} is read to its end")
        }
        (Some(heard), None) => format!("Following {heard}, without an audit log"),
    }];
    let place = next.as_ref().and_then(|next| place_of(next, log));
    let read = |(file, line): (PathBuf, u64)| format!("{} at line {}", file.display(), line + 1);
    match (left, place, begin) {
        (Some(left), place, _) => {
            let last = match left.time() {
                Some(time) => format!("; the last record that the previous watcher took is of {time:.3}"),
                None => String::new(),
            };
            let place = place.map_or_else(|| "where the previous watcher stopped".to_owned(), read);
            let gone = if *is_whole { "" } else { ", whose place in the log is gone" };
            lines.push(format!("Going on from the checkpoint{gone}: {place}{last}"));
        }
        (None, Some(place), StartPosition::Rotations) => {
            lines.push(format!("No checkpoint: beginning with the oldest rotation, {}", read(place)));
        }
        (None, Some(place), StartPosition::Log) => {
            lines.push(format!(
                "No checkpoint: beginning with the log without its rotations, {}",
                read(place)
            ));
        }
        (None, Some(place), StartPosition::End) => {
            lines.push(format!("No checkpoint: beginning with what is written from now on, {}", read(place)));
        }
        (None, None, _) if heard.is_some() => {
            lines.push("No checkpoint: beginning with what is heard from now on".to_owned());
        }
        (None, None, _) => {}
    }
    lines
}

/// The file of a checkpoint, and the number of its lines that were read.
fn place_of(checkpoint: &Checkpoint, log: &Path) -> Option<(PathBuf, u64)> {
    let text = checkpoint.to_string();
    let number = |name: &str| -> Option<u64> {
        text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    };
    let (dev, ino, line) = (number("dev")?, number("ino")?, number("line")?);
    let is = |file: &PathBuf| file.metadata().is_ok_and(|about| (about.dev(), about.ino()) == (dev, ino));
    let file = taptrail_source::host_log_paths(Some(log)).ok()?.into_iter().find(is)?;
    Some((file, line))
}

impl StreamKind {
    fn name(&self) -> &'static str {
        match self {
            Self::Stdin(_) => "standard input",
            Self::Kernel(..) => "the kernel's broadcast",
        }
    }

    fn source_name(&self) -> &'static str {
        match self {
            Self::Stdin(_) => "auditd",
            Self::Kernel(..) => "kernel",
        }
    }
}

impl LiveSource {
    fn listen(&mut self, left: Option<&Checkpoint>, caught_up: bool) {
        let (about, name) = (self.about.clone(), self.from.source_name().into());
        match &mut self.from {
            StreamKind::Stdin(piped) => {
                *piped = Some(PipeSource::new(io::stdin(), about, name, left, caught_up))
            }
            StreamKind::Kernel(_, messages) => {
                *messages = Some(BroadcastSource::new(about, name, left, caught_up))
            }
        }
    }
}

impl Source for LiveSource {
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.from {
            _ if self.before.is_some() => None,
            StreamKind::Stdin(piped) => piped.as_ref().and_then(Source::poll_fd),
            StreamKind::Kernel(broadcast, _) => Some(broadcast.as_fd()),
        }
    }

    fn poll_interval(&self) -> Option<Duration> {
        let (_, until) = self.before.as_ref()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn poll(&mut self, batch: &mut PollBatch) -> Result<(), SourceError> {
        if let Some((log, until)) = &mut self.before {
            log.poll(batch)?;
            if !batch.more && *until <= Instant::now() {
                let (left, whole) = (log.checkpoint(), log.is_complete());
                self.before = None;
                self.listen(Some(&left), whole);
                batch.more = true;
            }
            return Ok(());
        }
        match &mut self.from {
            StreamKind::Stdin(Some(piped)) => piped.poll(batch),
            StreamKind::Kernel(broadcast, Some(messages)) => {
                let taken = broadcast.take(MAX_RECORDS_PER_LOOK, |said| match said {
                    BroadcastItem::Record { kind, text } => messages.take(kind, text, batch),
                    BroadcastItem::Overrun => messages.overrun(),
                });
                batch.more =
                    taken.map_err(|source| SourceError::Read { name: "kernel".to_owned(), at: 0, source })?;
                Ok(())
            }
            StreamKind::Stdin(None) | StreamKind::Kernel(_, None) => Ok(()),
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        match (&self.before, &self.from) {
            (Some((log, _)), _) => log.checkpoint(),
            (_, StreamKind::Stdin(Some(piped))) => piped.checkpoint(),
            (_, StreamKind::Kernel(_, Some(messages))) => messages.checkpoint(),
            (_, StreamKind::Stdin(None) | StreamKind::Kernel(_, None)) => Checkpoint::default(),
        }
    }

    fn backlog_bytes(&self) -> u64 {
        self.before.as_ref().map_or(0, |(log, _)| log.backlog_bytes())
    }
}
