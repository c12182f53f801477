//! Follows a log's files as they grow and are rotated.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::{memchr_iter, memrchr};
use taptrail_record::Stamp;
use taptrail_trail::GapReason;

use super::checkpoint::{Checkpoint, Digest, FileId, FilePosition, is_after};
use super::line_reader::LineReader;
use super::notifier::ChangeNotifier;
use super::resume::{self, ResumePosition};
use super::rotations::{self, LogFile};
use super::{LineDefaults, PollBatch, Source, StartPosition};
use crate::SourceError;
use crate::feed::{CONTEXT_BYTES, MAX_LINE_BYTES};

/// Bytes read by one poll, approximately.
const MAX_BYTES_PER_POLL: usize = 512 * 1024;

/// How many of the last bytes read are compared with the file before more is read: a difference
/// means that the file was truncated and rewritten.
const TRUNCATION_GUARD_BYTES: usize = 128;

/// Follows a log: its rotations first, then whichever file has its name.
///
/// The follower leaves a file when another file has the log's name and is not empty: the writer has
/// then opened the new file and will not return to the old one. Files that are rotated away between
/// two polls are read from the rotations, in order.
pub struct Follower {
    log: PathBuf,
    begin: StartPosition,
    lines: LineReader,
    current: Option<CurrentFile>,
    /// Files to read after it, oldest first. The last is the newest known file.
    next: VecDeque<QueuedFile>,
    notifier: ChangeNotifier,
    buffer: Vec<u8>,
    backlog_bytes: u64,
}

/// The file that is being read.
struct CurrentFile {
    log: LogFile,
    bytes: Contents,
    /// Offset of the next read.
    at: u64,
    /// Its first bytes, as far as they are read.
    head: Vec<u8>,
    /// The writer has left it. It is read once more after this is set.
    ended: bool,
}

enum Contents {
    Plain,
    Packed(Box<dyn Read + Send>),
}

/// A file that will be read later, from an offset.
struct QueuedFile {
    log: LogFile,
    at: u64,
    line: u64,
    /// It may repeat lines that were reported before: lines that are not after the last stamp are
    /// skipped.
    may_repeat: bool,
}

impl QueuedFile {
    fn from_start(log: LogFile) -> Self {
        Self { log, at: 0, line: 0, may_repeat: false }
    }
}

impl Follower {
    /// Continues after `checkpoint`, or without one begins at `begin`. The log need not exist yet.
    ///
    /// If the position of the checkpoint no longer exists, the log was truncated or rotated away.
    /// The follower then reports the events after the checkpoint's time, preceded by a gap.
    ///
    /// # Errors
    ///
    /// The log's directory, the log or one of its rotations can't be read.
    pub fn open(
        log: &Path,
        defaults: LineDefaults,
        begin: StartPosition,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, SourceError> {
        let notifier = ChangeNotifier::new(log);
        let lines = LineReader::new(defaults, log.display().to_string().into(), checkpoint, true);
        let mut follower = Self {
            log: log.to_owned(),
            begin,
            lines,
            current: None,
            next: VecDeque::new(),
            notifier,
            buffer: vec![0; MAX_BYTES_PER_POLL / 2],
            backlog_bytes: 0,
        };
        let files = rotations::all(log)?;
        match checkpoint {
            Some(checkpoint) => follower.resume(files, checkpoint)?,
            None => follower.start(files, begin)?,
        }
        follower.watch();
        follower.update_backlog();
        Ok(follower)
    }

    /// Whether no loss is known up to here: no line has shown yet that anything is missing.
    pub fn is_complete(&self) -> bool {
        !self.lines.has_pending_loss()
    }

    /// The log's path.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Begins without a checkpoint.
    fn start(&mut self, mut files: Vec<LogFile>, begin: StartPosition) -> Result<(), SourceError> {
        if begin != StartPosition::Rotations {
            files.retain(|file| file.path == self.log);
        }
        self.queue(files);
        if let (StartPosition::End, Some(last)) = (begin, self.next.back_mut()) {
            (last.at, last.line) = end_of(&last.log).map_err(|source| read_error(&last.log, 0, source))?;
        }
        self.start_next_file(&mut PollBatch::default())
    }

    /// Continues after a checkpoint.
    fn resume(&mut self, files: Vec<LogFile>, checkpoint: &Checkpoint) -> Result<(), SourceError> {
        let untouched = checkpoint.stamp.is_none() && checkpoint.file.is_none_or(|place| place.at == 0);
        match resume::find_position(&files, checkpoint).map_err(|source| self.read_error(0, source))? {
            // The log was empty: all its lines are new.
            _ if untouched && self.begin == StartPosition::Rotations => {
                if checkpoint.file.is_some_and(|place| files.iter().all(|file| file.id != place.id)) {
                    self.lines.note_loss(GapReason::PositionLost);
                }
                self.queue(files);
            }
            Some(place) => self.queue_from(files, place),
            None => {
                self.lines.note_loss(GapReason::PositionLost);
                self.queue_after_stamp(files)?;
            }
        }
        self.start_next_file(&mut PollBatch::default())
    }

    /// Queues all files that may have events after the last stamp: the newest file that begins
    /// before it, and all newer ones. If the log has no stamps, only the file with the log's name.
    fn queue_after_stamp(&mut self, files: Vec<LogFile>) -> Result<(), SourceError> {
        let Some(stamp) = self.lines.stamp() else {
            self.queue(files.into_iter().filter(|file| file.path == self.log).collect());
            return Ok(());
        };
        let mut later = Vec::new();
        for log in files.into_iter().rev() {
            let first = first_stamp(&log)?;
            later.push(QueuedFile { log, at: 0, line: 0, may_repeat: true });
            if first.is_some_and(|first| resume::is_long_after(stamp, first)) {
                break;
            }
        }
        self.next.extend(later.into_iter().rev());
        Ok(())
    }

    fn queue(&mut self, files: Vec<LogFile>) {
        self.next.extend(files.into_iter().map(QueuedFile::from_start));
    }

    fn queue_from(&mut self, files: Vec<LogFile>, place: ResumePosition) {
        let from = files.into_iter().enumerate().skip(place.file);
        self.next.extend(from.map(|(number, log)| match number == place.file {
            true => QueuedFile { log, at: place.at, line: place.line, may_repeat: false },
            false => QueuedFile::from_start(log),
        }));
    }

    /// Starts to read the next file.
    fn start_next_file(&mut self, batch: &mut PollBatch) -> Result<(), SourceError> {
        let Some(QueuedFile { log, at, line, may_repeat }) = self.next.front_mut() else { return Ok(()) };
        let begun = log.keep_open().and_then(|()| open_at(log, *at));
        let (bytes, head, context) = begun.map_err(|source| read_error(log, *at, source))?;
        // The file before it is finished.
        self.lines.finish(batch);
        self.lines.begin(log.name(), *line, &context);
        if *may_repeat {
            self.lines.skip_known();
        }
        self.current = self.next.pop_front().map(|next| {
            let QueuedFile { log, at, .. } = next;
            CurrentFile { log, bytes, at, head, ended: false }
        });
        Ok(())
    }

    fn watch(&mut self) {
        let newest = self.next.back().map(|next| &next.log);
        let logs = self.current.iter().map(|current| &current.log).chain(newest);
        // A file that can't be reopened is not watched.
        let files: Vec<_> = logs.filter_map(|log| log.file().ok()).collect();
        self.notifier.watch(files.iter().map(|file| &**file));
    }

    /// Reads from the current file. Returns the number of bytes.
    fn read(&mut self, batch: &mut PollBatch) -> Result<usize, SourceError> {
        let Some(current) = &mut self.current else { return Ok(0) };
        let read = loop {
            let read = match &mut current.bytes {
                Contents::Plain => {
                    current.log.file().and_then(|file| file.read_at(&mut self.buffer, current.at))
                }
                Contents::Packed(bytes) => bytes.read(&mut self.buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The damage is permanent: go on with the next file.
                Err(error) if current.log.is_packed() && rotations::is_damage(&error) => {
                    current.bytes = Contents::Packed(Box::new(io::empty()));
                    self.lines.damaged(&error, batch);
                    return Ok(0);
                }
                Err(source) => return Err(read_error(&current.log, current.at, source)),
                Ok(read) => break read,
            }
        };
        let bytes = &self.buffer[..read];
        let room = Digest::MAX_BYTES.saturating_sub(current.head.len());
        current.head.extend_from_slice(&bytes[..read.min(room)]);
        current.at += read as u64;
        self.lines.push(bytes, batch);
        Ok(read)
    }

    /// At the end of the file: whether there is more to read, in this file or the next.
    fn next_file(&mut self, batch: &mut PollBatch) -> Result<bool, SourceError> {
        self.find_newer(false)?;
        let Some(next) = self.next.front() else { return Ok(false) };
        let size = next.log.size().map_err(|source| read_error(&next.log, 0, source))?;
        if self.next.len() == 1 && size == 0 {
            // The writer still has the old file open.
            return Ok(false);
        }
        match &mut self.current {
            Some(current) if !current.ended && !matches!(current.bytes, Contents::Packed(_)) => {
                current.ended = true;
            }
            _ => {
                self.start_next_file(batch)?;
                self.watch();
            }
        }
        Ok(true)
    }

    /// Queues files newer than those known. `renamed`: files may have other names now; otherwise
    /// only the log's own name is checked.
    fn find_newer(&mut self, renamed: bool) -> Result<(), SourceError> {
        let known = self.ids().last();
        if !renamed && rotations::id_of(&self.log)?.is_none_or(|now| Some(now) == known) {
            return Ok(());
        }
        let files = rotations::all(&self.log)?;
        let read = self.current.as_ref().filter(|current| current.at > 0).map(|current| current.log.id);
        let later = match read.map(|read| files.iter().position(|file| file.id == read)) {
            Some(Some(place)) => files.into_iter().skip(place + 1).collect(),
            Some(None) if self.next.is_empty() => return self.find_after_unlinked(files),
            // It has no name any more. The files after it are queued, or are found by their first
            // stamps.
            Some(None) | None => self.unread(files)?,
        };
        self.merge(later, read.is_none())?;
        if self.current.is_none() {
            self.start_next_file(&mut PollBatch::default())?;
        }
        self.watch();
        Ok(())
    }

    /// Files from which nothing has been read.
    fn unread(&self, files: Vec<LogFile>) -> Result<Vec<LogFile>, SourceError> {
        let mut unread = Vec::new();
        for log in files {
            let first = first_stamp(&log)?;
            let later = match (first, self.lines.stamp()) {
                (Some(first), Some(last)) => is_after(first, last),
                (Some(_), None) => self.begin == StartPosition::Rotations || log.path == self.log,
                (None, _) => log.path == self.log,
            };
            if later || self.ids().any(|id| id == log.id) {
                unread.push(log);
            }
        }
        Ok(unread)
    }

    /// Merges files with those in the queue, in reading order. `requeue_current`: also with the
    /// current file, from which nothing has been read.
    fn merge(&mut self, files: Vec<LogFile>, requeue_current: bool) -> Result<(), SourceError> {
        let mut known = std::mem::take(&mut self.next);
        if let Some(current) = self.current.take_if(|_| requeue_current) {
            known.push_front(QueuedFile::from_start(current.log));
        }
        let mut known: Vec<_> = known.into_iter().collect();
        let mut named = VecDeque::new();
        for log in files {
            let same = match known.iter().position(|next| next.log.id == log.id) {
                Some(same) => Some(same),
                // A file that was compressed meanwhile appears twice, once without a name.
                None => match first_stamp(&log)? {
                    Some(first) => position(&known, |next| Ok(first_stamp(&next.log)? == Some(first)))?,
                    None => None,
                },
            };
            named.push_back(same.map_or_else(|| QueuedFile::from_start(log), |same| known.remove(same)));
        }
        // The others are the oldest: rotations are removed in that order.
        self.next.extend(known);
        self.next.append(&mut named);
        Ok(())
    }

    /// The current file has no name any more, and the queue is empty.
    fn find_after_unlinked(&mut self, files: Vec<LogFile>) -> Result<(), SourceError> {
        let checkpoint = self.checkpoint();
        // It was compressed or copied: continue with the files after the copy.
        let same = match self.current.as_ref().map(|current| first_stamp(&current.log)).transpose()?.flatten()
        {
            Some(first) => position(&files, |log| Ok(first_stamp(log)? == Some(first)))?,
            None => None,
        };
        let place =
            resume::find_position(&files, &checkpoint).map_err(|source| self.read_error(0, source))?;
        if let Some(place) = same.or(place.map(|place| place.file)) {
            self.queue(files.into_iter().skip(place + 1).collect());
        } else {
            self.lines.note_loss(GapReason::PositionLost);
            self.queue_after_stamp(files)?;
        }
        self.watch();
        Ok(())
    }

    fn ids(&self) -> impl Iterator<Item = FileId> {
        let current = self.current.iter().map(|current| current.log.id);
        current.chain(self.next.iter().map(|next| next.log.id))
    }

    /// Whether the current file was truncated since the last poll, as logrotate's `copytruncate`
    /// does. Its former content is then in a copy, if anywhere.
    fn was_truncated(&mut self) -> Result<bool, SourceError> {
        let Some(current) = &self.current else { return Ok(false) };
        if matches!(current.bytes, Contents::Packed(_)) {
            return Ok(false);
        }
        let size = current.log.size().map_err(|source| read_error(&current.log, current.at, source))?;
        if size < current.at {
            return Ok(true);
        }
        // It may have been truncated and have grown to the same size or more.
        let (recent_bytes, after) = self.lines.recent_bytes();
        let guard = &recent_bytes[recent_bytes.len().saturating_sub(TRUNCATION_GUARD_BYTES)..];
        let end = current.at - after;
        let mut now = vec![0; guard.len()];
        let read = current.log.file().and_then(|file| file.read_exact_at(&mut now, end - guard.len() as u64));
        match read {
            Ok(()) => Ok(now != guard),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(source) => Err(read_error(&current.log, current.at, source)),
        }
    }

    /// Continues in the copy of a truncated file, and then with the file itself.
    fn recover_truncated(&mut self) -> Result<(), SourceError> {
        let checkpoint = self.checkpoint();
        let files = rotations::all(&self.log)?;
        let found =
            resume::find_position(&files, &checkpoint).map_err(|source| self.read_error(0, source))?;
        let Some(cut) = self.current.take() else { return Ok(()) };
        self.next.push_front(QueuedFile::from_start(cut.log));
        match found {
            Some(ResumePosition { file, at, line }) => {
                let copies: Vec<_> = files.into_iter().skip(file).collect();
                let copy = copies.first().map(|copy| copy.id);
                self.merge(copies, false)?;
                if let Some(copy) = self.next.iter_mut().find(|next| Some(next.log.id) == copy) {
                    (copy.at, copy.line) = (at, line);
                }
            }
            // There is no copy. The next line's serial number shows whether anything is missing.
            None => self.lines.note_loss(GapReason::PositionLost),
        }
        self.lines.drop_unfinished();
        self.start_next_file(&mut PollBatch::default())?;
        self.watch();
        Ok(())
    }

    /// Updates the number of bytes not read yet.
    fn update_backlog(&mut self) {
        let rest = |log: &LogFile, at: u64| log.size().map_or(0, |size| size.saturating_sub(at));
        let current = self.current.as_ref().map_or(0, |current| match current.bytes {
            Contents::Plain => rest(&current.log, current.at),
            Contents::Packed(_) => 0,
        });
        self.backlog_bytes = current + self.next.iter().map(|next| rest(&next.log, next.at)).sum::<u64>();
    }

    fn read_error(&self, at: u64, source: io::Error) -> SourceError {
        SourceError::Read { name: self.log.display().to_string(), at, source }
    }
}

impl Source for Follower {
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.notifier.poll_fd()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.notifier.poll_interval()
    }

    fn poll(&mut self, batch: &mut PollBatch) -> Result<(), SourceError> {
        batch.more = false;
        let renamed = self.notifier.drain();
        if self.was_truncated()? {
            self.recover_truncated()?;
        }
        if renamed {
            self.find_newer(true)?;
        }
        let before = batch.bytes;
        loop {
            if self.read(batch)? == 0 && !self.next_file(batch)? {
                break;
            }
            if batch.bytes - before >= MAX_BYTES_PER_POLL as u64 {
                batch.more = true;
                break;
            }
        }
        self.update_backlog();
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        let file = self.current.as_ref().map(|current| {
            let at = current.at - self.lines.unfinished_bytes();
            let head = &current.head[..current.head.len().min(usize::try_from(at).unwrap_or(usize::MAX))];
            FilePosition { id: current.log.id, at, line: self.lines.line(), head: Digest::of_head(head) }
        });
        Checkpoint { file, ..self.lines.checkpoint() }
    }

    fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes
    }
}

fn read_error(log: &LogFile, at: u64, source: io::Error) -> SourceError {
    SourceError::Read { name: log.path.display().to_string(), at, source }
}

fn position<T>(
    all: &[T],
    mut is: impl FnMut(&T) -> Result<bool, SourceError>,
) -> Result<Option<usize>, SourceError> {
    for (place, one) in all.iter().enumerate() {
        if is(one)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn first_stamp(log: &LogFile) -> Result<Option<Stamp>, SourceError> {
    log.first_stamp().map_err(|source| read_error(log, 0, source))
}

/// Opens a file at an offset. Returns its contents from there on, its first bytes, and the context
/// before the offset.
fn open_at(log: &LogFile, at: u64) -> io::Result<(Contents, Vec<u8>, Vec<u8>)> {
    let within = usize::try_from(at).unwrap_or(usize::MAX);
    let mut head = vec![0; within.min(Digest::MAX_BYTES)];
    let mut context = vec![0; within.min(CONTEXT_BYTES)];
    let before = at - context.len() as u64;
    if !log.is_packed() {
        let file = log.file()?;
        file.read_exact_at(&mut head, 0)?;
        file.read_exact_at(&mut context, before)?;
        return Ok((Contents::Plain, head, context));
    }
    let mut front = log.reader()?;
    front.read_exact(&mut head)?;
    let mut bytes = log.reader()?;
    io::copy(&mut (&mut bytes).take(before), &mut io::sink())?;
    bytes.read_exact(&mut context)?;
    Ok((Contents::Packed(bytes), head, context))
}

/// The offset after a file's last complete line, and the number of complete lines.
fn end_of(log: &LogFile) -> io::Result<(u64, u64)> {
    let mut bytes = log.reader()?;
    let (mut buffer, mut read_to, mut at, mut lines) = (vec![0; MAX_LINE_BYTES], 0_u64, 0, 0);
    loop {
        let read = match bytes.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
            Ok(0) => return Ok((at, lines)),
            Ok(read) => read,
        };
        lines += memchr_iter(b'\n', &buffer[..read]).count() as u64;
        if let Some(newline) = memrchr(b'\n', &buffer[..read]) {
            at = read_to + newline as u64 + 1;
        }
        read_to += read as u64;
    }
}
