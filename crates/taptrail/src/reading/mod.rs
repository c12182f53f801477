//! Reads files, standard input and the ledger as entries.

mod fingerprint;
mod hash;
mod ledger;
mod progress;
mod source_lines;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use taptrail_guest::Dirs;
use taptrail_ledger::Ledger;
use taptrail_source::{EntrySink, Hosts, Input, ReadOptions, ReadOutcome, SourceError};

pub(crate) use self::fingerprint::InputFingerprint;
pub(crate) use self::hash::InputStamps;
use self::ledger::{LedgerEnd, LedgerEnds};
pub(crate) use self::progress::Progress;
pub(crate) use self::source_lines::{MAX_EXPLAINED_LINES, SourceLines, fetch_lines};
use crate::cli::{AssumedHost, Sources};
use crate::output::Failure;

/// The first bytes of every SQLite database (its file format, section 1.3).
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";

/// The result of reading.
pub(crate) struct Read {
    pub(crate) outcome: ReadOutcome,
    /// What the ledgers say besides their records.
    pub(crate) ledgers: Vec<LedgerEnd>,
}

/// This host has neither log nor ledger.
#[derive(Debug, thiserror::Error)]
#[error(
    "There is no trail on this host: neither {} nor the ledger {} is there; name a FILE to read",
    log.display(),
    ledger.display()
)]
pub(crate) struct NoTrail {
    log: PathBuf,
    ledger: PathBuf,
}

/// What is read beside the records of network devices.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    /// The records of other resources.
    pub(crate) resources: bool,
    /// The text of each entry: see [`Entry::text`](taptrail_trail::Entry::text).
    pub(crate) text: bool,
}

/// Passes each entry of the sources to `take`, in the order of their times.
///
/// # Errors
///
/// When there is nothing to read. A source that can't be read, of several, is in the outcome.
pub(crate) fn entries(
    sources: &Sources,
    dirs: &Dirs,
    wanted: Wanted,
    take: &mut EntrySink<'_>,
) -> Result<Read, Failure> {
    let ends = LedgerEnds::default();
    let own = sources.files.is_empty();
    allow_many_files();
    let mut failed = Vec::new();
    let (inputs, hosts) = if own {
        let hosts = Hosts::one(this_host(sources)?);
        (own_inputs(sources, dirs, &hosts, wanted, &ends, &mut failed)?, hosts)
    } else {
        let (paths, mut unread) = taptrail_source::expand(&sources.files);
        failed.append(&mut unread);
        let paths: Vec<_> = paths.into_iter().map(NamedInput::of).collect();
        let hosts = hosts(sources, &paths)?;
        if let Some(unused) = hosts.unused(paths.iter().map(NamedInput::path)) {
            return Err(Failure::input(anyhow::anyhow!(
                "--assume-host names {}, which is none of the logs that are read, and no directory of one",
                unused.display()
            )));
        }
        let mut inputs = Vec::new();
        for given in paths {
            match given.open(&hosts, wanted, &ends) {
                Ok(input) => inputs.push(input),
                Err(error) => failed.push(error),
            }
        }
        (inputs, hosts)
    };
    let mut progress = progress::Progress::default();
    let progress = Box::new(|of: taptrail_source::Progress<'_>| progress.show(of));
    let options = ReadOptions {
        hosts,
        progress,
        extract: sources.extract,
        resources: wanted.resources,
        keep_text: wanted.text,
        ..ReadOptions::default()
    };
    let mut outcome = taptrail_source::read(inputs, options, take);
    outcome.notes.extend(taptrail_source::passed_over(&sources.files));
    failed.append(&mut outcome.failed);
    outcome.failed = failed;
    let ledgers = std::mem::take(&mut *ends.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Read { outcome, ledgers })
}

/// The hosts of lines without a host name. A ledger in one directory and logs in another are taken
/// for one host's; with more directories, each is a host.
fn hosts(sources: &Sources, inputs: &[NamedInput]) -> Result<Hosts, Failure> {
    let all = assumed_for_all(sources)?;
    let by_path = |AssumedHost { name, path }: &AssumedHost| Some((path.clone()?, name.as_str().into()));
    let of = |is_meant: fn(&NamedInput) -> bool| {
        let assumed = sources.assume_host.iter().filter_map(by_path).collect();
        let paths = inputs.iter().filter(|given| is_meant(given)).map(NamedInput::path);
        Hosts::of(paths, assumed, all.map(Arc::from))
    };
    let (logs, ledgers) = (of(|given| !given.is_ledger()), of(NamedInput::is_ledger));
    Ok(if logs.has_directory_hosts() || ledgers.has_directory_hosts() { of(|_| true) } else { logs })
}

/// The host of all lines without one, if --assume-host names it.
fn assumed_for_all(sources: &Sources) -> Result<Option<&str>, Failure> {
    let mut names = sources.assume_host.iter().filter(|of| of.path.is_none()).map(|of| of.name.as_str());
    let first = names.next();
    match names.find(|name| Some(*name) != first) {
        Some(other) => Err(Failure::input(anyhow::anyhow!(
            "--assume-host names two hosts for all lines, '{}' and '{other}': give one, or NAME=PATH for each",
            first.unwrap_or_default()
        ))),
        None => Ok(first),
    }
}

/// The name of this host in its own records without a host name.
pub(crate) fn this_host(sources: &Sources) -> Result<String, Failure> {
    let node_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(assumed_for_all(sources)?.map_or_else(node_name, str::to_owned))
}

/// Raises the limit of open files. All inputs are opened before the first is read, so that a
/// rotation meanwhile takes none away: there may be more than a shell allows.
pub(crate) fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // If it fails, inputs that can't be opened are reported.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// This host's audit log and ledger, those that exist.
fn own_inputs(
    sources: &Sources,
    dirs: &Dirs,
    hosts: &Hosts,
    wanted: Wanted,
    ends: &LedgerEnds,
    failed: &mut Vec<SourceError>,
) -> Result<Vec<Input>, Failure> {
    let mut inputs = match taptrail_source::host_logs(sources.log.as_deref()) {
        Ok(logs) => logs,
        Err(error) => {
            failed.push(error);
            Vec::new()
        }
    };
    let ledger = Ledger::file(&dirs.state);
    match ledger.try_exists() {
        Ok(false) => {}
        _ => {
            let host = hosts.of_path(&ledger);
            let opened = Ledger::open_to_read(&dirs.state).map_err(Failure::input)?;
            inputs.push(ledger::input(opened, &ledger, &host, wanted.text, ends));
        }
    }
    if inputs.is_empty() && failed.is_empty() {
        let log = taptrail_source::host_log(sources.log.as_deref());
        return Err(Failure::input(NoTrail { log, ledger }));
    }
    Ok(inputs)
}

/// An input that was named: a ledger, recognized by its first bytes, or a log.
enum NamedInput {
    Ledger(PathBuf),
    Log(Input),
}

impl NamedInput {
    fn of(input: Input) -> Self {
        match input {
            Input::Opened(file) if file.begins_with(SQLITE_MAGIC) => Self::Ledger(file.path().to_owned()),
            input => Self::Log(input),
        }
    }

    fn is_ledger(&self) -> bool {
        matches!(self, Self::Ledger(_))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Ledger(path) => path,
            Self::Log(input) => input.path(),
        }
    }

    fn open(self, hosts: &Hosts, wanted: Wanted, ends: &LedgerEnds) -> Result<Input, SourceError> {
        match self {
            Self::Ledger(path) => match Ledger::open_file_to_read(path.clone()) {
                Ok(ledger) => Ok(ledger::input(ledger, &path, &hosts.of_path(&path), wanted.text, ends)),
                Err(error) => Err(SourceError::Open { path, source: std::io::Error::other(error) }),
            },
            Self::Log(input) => Ok(input),
        }
    }
}

fn is_ledger(path: &Path) -> bool {
    // Not a pipe: its bytes would be lost to its reader.
    let is_file = std::fs::metadata(path).is_ok_and(|about| about.is_file());
    let mut front = [0; SQLITE_MAGIC.len()];
    is_file
        && File::open(path).and_then(|mut file| file.read_exact(&mut front)).is_ok()
        && front == SQLITE_MAGIC
}
