//! Files, standard input and the ledger into entries.

mod ledger;
mod lines;
mod plain;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use taptrail_guest::Dirs;
use taptrail_report::Unreadable;
use taptrail_trail::{Entry, Input};

pub(crate) use self::lines::lines;
use crate::cli::Sources;
use crate::output::Failure;

/// How many unreadable lines are told one by one.
const TOLD: usize = 20;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) input: Input,
    /// The first lines that could not be read.
    pub(crate) unreadable: Vec<Unreadable>,
    /// What had to be taken for granted.
    pub(crate) notes: Vec<String>,
    /// Files that could not be read, or not to their end.
    pub(crate) failures: Vec<anyhow::Error>,
}

impl Read {
    fn unreadable(&mut self, source: &Arc<str>, line: u64, reason: impl ToString) {
        self.input.unreadable += 1;
        if self.unreadable.len() < TOLD {
            self.unreadable.push(Unreadable { source: Arc::clone(source), line, reason: reason.to_string() });
        }
    }
}

/// Takes entries, one at a time, until it breaks off.
pub(crate) type Taker<'a> = dyn FnMut(&Entry) -> ControlFlow<()> + 'a;

/// Gives each entry of the sources to `take`, those of one host in their order.
pub(crate) fn entries(sources: &Sources, dirs: &Dirs, take: &mut Taker<'_>) -> Result<Read, Failure> {
    let mut read = Read::default();
    let host: Arc<str> = match &sources.host {
        Some(host) => host.as_str().into(),
        None => rustix::system::uname().nodename().to_string_lossy().into(),
    };
    if sources.files.is_empty() {
        ledger::read(dirs, &host, &mut read, take).map_err(Failure::input)?;
        return Ok(read);
    }
    for file in &sources.files {
        let files = match within(file) {
            Ok(files) => files,
            Err(error) => {
                read.failures.push(unread(file, error));
                continue;
            }
        };
        for file in files {
            match plain::read(&file, &host, &mut read, take) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return Ok(read),
                Err(error) => read.failures.push(unread(&file, error)),
            }
        }
    }
    Ok(read)
}

fn unread(file: &Path, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("{} can't be read", file.display()))
}

/// The file itself, or of a directory the audit log and its rotations, oldest first.
fn within(file: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !file.is_dir() {
        return Ok(vec![file.to_owned()]);
    }
    let mut logs = Vec::new();
    for entry in file.read_dir()? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(rotation) = name.strip_prefix("audit.log") else { continue };
        match rotation.strip_prefix('.').map_or(Ok(0), str::parse::<u32>) {
            Ok(number) => logs.push((std::cmp::Reverse(number), path)),
            Err(_) => continue,
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}
