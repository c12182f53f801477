//! What is followed: a log, or what can be heard but once, after the log as far as that goes.

use std::io::{self, Stdin};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use taptrail_kernel::audit::{Broadcast, Said};
use taptrail_source::SourceError;
use taptrail_source::follow::{About, Begin, Checkpoint, Follower, Messages, Piped, Source, Told};

use crate::cli::Watch;
use crate::output::Failure;

/// How long auditd may take to write what the kernel has broadcast: what was told just before we listened
/// is in the log by then.
const LATE: Duration = Duration::from_millis(250);

/// How many records of the broadcast one look takes.
const RECORDS: usize = 4096;

/// What can be heard but once. What was missed of it may be in the log: that is read first.
struct Heard {
    about: About,
    /// The log, and when it has what was told before we listened.
    before: Option<(Follower, Instant)>,
    from: From,
}

enum From {
    Stdin(Option<Piped<Stdin>>),
    Kernel(Broadcast, Option<Messages>),
}

/// What is followed, and what it is called for people.
pub(super) struct Followed {
    pub(super) source: Box<dyn Source>,
    pub(super) name: String,
}

/// Opens what the arguments ask for, to go on where `left` says.
pub(super) fn open(arguments: &Watch, about: About, left: Option<&Checkpoint>) -> Result<Followed, Failure> {
    let log = taptrail_source::host_log(arguments.log.as_deref());
    let begin = Begin::from(arguments.begin);
    let open = || {
        let follower = Follower::open(&log, about.clone(), begin, left);
        follower.map_err(|error| {
            let text = "The audit log can't be followed (on a host without auditd, --kernel follows the kernel itself)";
            Failure::input(anyhow::Error::new(error).context(text))
        })
    };
    let from = match (arguments.kernel, arguments.stdin) {
        (false, false) => {
            return Ok(Followed { source: Box::new(open()?), name: log.display().to_string() });
        }
        // From here on nothing is missed.
        (true, _) => From::Kernel(Broadcast::open().map_err(Failure::input)?, None),
        (_, true) => From::Stdin(None),
    };
    let name = from.name().to_owned();
    let is_there = taptrail_source::host_logs(Some(&log)).is_ok_and(|files| !files.is_empty());
    let asked_for = left.is_some() || begin != Begin::End;
    let mut heard = Heard { about: about.clone(), before: None, from };
    if is_there && asked_for {
        heard.before = Some((open()?, Instant::now() + LATE));
    } else {
        heard.listen(left, false);
    }
    Ok(Followed { source: Box::new(heard), name })
}

impl From {
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

impl Heard {
    fn listen(&mut self, left: Option<&Checkpoint>, caught_up: bool) {
        let (about, name) = (self.about.clone(), self.from.source_name().into());
        match &mut self.from {
            From::Stdin(piped) => *piped = Some(Piped::new(io::stdin(), about, name, left, caught_up)),
            From::Kernel(_, messages) => *messages = Some(Messages::new(about, name, left, caught_up)),
        }
    }
}

impl Source for Heard {
    fn awaited(&self) -> Option<BorrowedFd<'_>> {
        match &self.from {
            _ if self.before.is_some() => None,
            From::Stdin(piped) => piped.as_ref().and_then(Source::awaited),
            From::Kernel(broadcast, _) => Some(broadcast.as_fd()),
        }
    }

    fn look_within(&self) -> Option<Duration> {
        let (_, until) = self.before.as_ref()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    fn look(&mut self, told: &mut Told) -> Result<(), SourceError> {
        if let Some((log, until)) = &mut self.before {
            log.look(told)?;
            if !told.more && *until <= Instant::now() {
                let (left, whole) = (log.checkpoint(), log.is_whole());
                self.before = None;
                self.listen(Some(&left), whole);
                told.more = true;
            }
            return Ok(());
        }
        match &mut self.from {
            From::Stdin(Some(piped)) => piped.look(told),
            From::Kernel(broadcast, Some(messages)) => {
                let taken = broadcast.take(RECORDS, |said| match said {
                    Said::Record { kind, text } => messages.take(kind, text, told),
                    Said::Overrun => messages.overrun(),
                });
                told.more =
                    taken.map_err(|source| SourceError::Read { name: "kernel".to_owned(), at: 0, source })?;
                Ok(())
            }
            From::Stdin(None) | From::Kernel(_, None) => Ok(()),
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        match (&self.before, &self.from) {
            (Some((log, _)), _) => log.checkpoint(),
            (_, From::Stdin(Some(piped))) => piped.checkpoint(),
            (_, From::Kernel(_, Some(messages))) => messages.checkpoint(),
            (_, From::Stdin(None) | From::Kernel(_, None)) => Checkpoint::default(),
        }
    }

    fn behind(&self) -> u64 {
        self.before.as_ref().map_or(0, |(log, _)| log.behind())
    }
}
