//! A log's files, as they grow and are rotated.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::{memchr_iter, memrchr};
use taptrail_record::Stamp;
use taptrail_trail::GapReason;

use super::checkpoint::{Checkpoint, Digest, FileId, FilePlace, is_after};
use super::lines::Lines;
use super::place::{self, Place};
use super::rotations::{self, LogFile};
use super::wake::Wake;
use super::{About, Begin, Source, Told};
use crate::SourceError;
use crate::feed::{CONTEXT, MAX_LINE};

/// How much one look takes at most, more or less.
const PIECE: usize = 512 * 1024;

/// How many of the last bytes read must still be there before what follows them is believed to.
const GUARD: usize = 128;

/// Follows a log: the file with its name, whichever that is, after those that had it before.
///
/// A file is left when another has its name and something is written to that: who wrote to the first will
/// not go back to it. What is rotated away between two looks is read from its rotations, in order.
pub struct Follower {
    log: PathBuf,
    begin: Begin,
    lines: Lines,
    current: Option<Current>,
    /// What is read after it, the oldest first; the last is the newest that is known.
    next: VecDeque<Next>,
    wake: Wake,
    buffer: Vec<u8>,
    behind: u64,
}

/// The file that is read.
struct Current {
    log: LogFile,
    bytes: Bytes,
    /// How far it was read.
    at: u64,
    /// Its first bytes, as far as they were read.
    head: Vec<u8>,
    /// Nothing more is written to it. It is read once more after that was learnt.
    ended: bool,
}

enum Bytes {
    Plain,
    Packed(Box<dyn Read + Send>),
}

/// A file that is read later, from some place on.
struct Next {
    log: LogFile,
    at: u64,
    line: u64,
    /// It may have what was told before: what is not after the last stamp is passed over.
    again: bool,
}

impl Next {
    fn whole(log: LogFile) -> Self {
        Self { log, at: 0, line: 0, again: false }
    }
}

impl Follower {
    /// Goes on behind `checkpoint`, or begins where `begin` says when there is none. The log itself need
    /// not be there yet.
    ///
    /// A checkpoint whose place is not there any more is one of a log that was cut or rotated away: what
    /// is after its time is told, and before it the gap.
    ///
    /// # Errors
    ///
    /// The log's directory, the log or one of its rotations can't be read.
    pub fn open(
        log: &Path,
        about: About,
        begin: Begin,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, SourceError> {
        let wake = Wake::new(log);
        let lines = Lines::new(about, log.display().to_string().into(), checkpoint, true);
        let mut follower = Self {
            log: log.to_owned(),
            begin,
            lines,
            current: None,
            next: VecDeque::new(),
            wake,
            buffer: vec![0; PIECE / 2],
            behind: 0,
        };
        let files = rotations::all(log)?;
        match checkpoint {
            Some(checkpoint) => follower.go_on(files, checkpoint)?,
            None => follower.start(files, begin)?,
        }
        follower.watch();
        follower.measure();
        Ok(follower)
    }

    /// Whether all up to here was told, as far as is known: no line shows yet that anything is missing.
    pub fn is_whole(&self) -> bool {
        !self.lines.is_lost()
    }

    /// The log's name.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Begins where nobody was before.
    fn start(&mut self, mut files: Vec<LogFile>, begin: Begin) -> Result<(), SourceError> {
        if begin != Begin::Rotations {
            files.retain(|file| file.path == self.log);
        }
        self.queue(files);
        if let (Begin::End, Some(last)) = (begin, self.next.back_mut()) {
            (last.at, last.line) = end_of(&last.log).map_err(|source| failed(&last.log, 0, source))?;
        }
        self.advance(&mut Told::default())
    }

    /// Goes on where somebody was before.
    fn go_on(&mut self, files: Vec<LogFile>, left: &Checkpoint) -> Result<(), SourceError> {
        let untouched = left.stamp.is_none() && left.file.is_none_or(|place| place.at == 0);
        match place::find(&files, left).map_err(|source| self.failed(0, source))? {
            // Nothing was there: what is there now is new.
            _ if untouched && self.begin == Begin::Rotations => {
                if left.file.is_some_and(|place| files.iter().all(|file| file.id != place.id)) {
                    self.lines.lost(GapReason::PositionLost);
                }
                self.queue(files);
            }
            Some(place) => self.queue_from(files, place),
            None => {
                self.lines.lost(GapReason::PositionLost);
                self.queue_after_stamp(files)?;
            }
        }
        self.advance(&mut Told::default())
    }

    /// All files that may tell something after the last stamp: the last that begins before it, and those
    /// after that. Of a log without stamps, the file that has its name now.
    fn queue_after_stamp(&mut self, files: Vec<LogFile>) -> Result<(), SourceError> {
        let Some(stamp) = self.lines.stamp() else {
            self.queue(files.into_iter().filter(|file| file.path == self.log).collect());
            return Ok(());
        };
        let mut later = Vec::new();
        for log in files.into_iter().rev() {
            let first = first_stamp(&log)?;
            later.push(Next { log, at: 0, line: 0, again: true });
            if first.is_some_and(|first| place::is_long_after(stamp, first)) {
                break;
            }
        }
        self.next.extend(later.into_iter().rev());
        Ok(())
    }

    fn queue(&mut self, files: Vec<LogFile>) {
        self.next.extend(files.into_iter().map(Next::whole));
    }

    fn queue_from(&mut self, files: Vec<LogFile>, place: Place) {
        let from = files.into_iter().enumerate().skip(place.file);
        self.next.extend(from.map(|(number, log)| match number == place.file {
            true => Next { log, at: place.at, line: place.line, again: false },
            false => Next::whole(log),
        }));
    }

    /// Begins with the next file.
    fn advance(&mut self, told: &mut Told) -> Result<(), SourceError> {
        let Some(Next { log, at, line, again }) = self.next.front_mut() else { return Ok(()) };
        let begun = log.hold().and_then(|()| begin(log, *at));
        let (bytes, head, context) = begun.map_err(|source| failed(log, *at, source))?;
        // Nothing more comes of the one before.
        self.lines.finish(told);
        self.lines.begin(log.name(), *line, &context);
        if *again {
            self.lines.skip_told();
        }
        self.current = self.next.pop_front().map(|next| {
            let Next { log, at, .. } = next;
            Current { log, bytes, at, head, ended: false }
        });
        Ok(())
    }

    fn watch(&mut self) {
        let newest = self.next.back().map(|next| &next.log);
        let logs = self.current.iter().map(|current| &current.log).chain(newest);
        // One that is gone is read no further.
        let files: Vec<_> = logs.filter_map(|log| log.file().ok()).collect();
        self.wake.watch(files.iter().map(|file| &**file));
    }

    /// Reads on in the file that is read; how many bytes there were.
    fn read(&mut self, told: &mut Told) -> Result<usize, SourceError> {
        let Some(current) = &mut self.current else { return Ok(0) };
        let read = loop {
            let read = match &mut current.bytes {
                Bytes::Plain => {
                    current.log.file().and_then(|file| file.read_at(&mut self.buffer, current.at))
                }
                Bytes::Packed(bytes) => bytes.read(&mut self.buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It is so for ever, and what comes after it is not to wait for that.
                Err(error) if current.log.is_packed() && rotations::is_damage(&error) => {
                    current.bytes = Bytes::Packed(Box::new(io::empty()));
                    self.lines.damaged(&error, told);
                    return Ok(0);
                }
                Err(source) => return Err(failed(&current.log, current.at, source)),
                Ok(read) => break read,
            }
        };
        let bytes = &self.buffer[..read];
        let room = Digest::MAX.saturating_sub(current.head.len());
        current.head.extend_from_slice(&bytes[..read.min(room)]);
        current.at += read as u64;
        self.lines.push(bytes, told);
        Ok(read)
    }

    /// At the file's end: whether there is another to go on with.
    fn turn(&mut self, told: &mut Told) -> Result<bool, SourceError> {
        self.find_newer(false)?;
        let Some(next) = self.next.front() else { return Ok(false) };
        let size = next.log.size().map_err(|source| failed(&next.log, 0, source))?;
        if self.next.len() == 1 && size == 0 {
            // Who writes has the old one open still.
            return Ok(false);
        }
        match &mut self.current {
            Some(current) if !current.ended && !matches!(current.bytes, Bytes::Packed(_)) => {
                current.ended = true;
            }
            _ => {
                self.advance(told)?;
                self.watch();
            }
        }
        Ok(true)
    }

    /// Takes up all that came after what is read and known, where names may be another file's: `renamed`, or
    /// the log's own is.
    fn find_newer(&mut self, renamed: bool) -> Result<(), SourceError> {
        let known = self.ids().last();
        if !renamed && rotations::id_of(&self.log)?.is_none_or(|now| Some(now) == known) {
            return Ok(());
        }
        let files = rotations::all(&self.log)?;
        let read = self.current.as_ref().filter(|current| current.at > 0).map(|current| current.log.id);
        let later = match read.map(|read| files.iter().position(|file| file.id == read)) {
            Some(Some(place)) => files.into_iter().skip(place + 1).collect(),
            Some(None) if self.next.is_empty() => return self.find_after_gone(files),
            // Its name is gone, and what is read after it has one or is known.
            Some(None) | None => self.unread(files)?,
        };
        self.merge(later, read.is_none())?;
        if self.current.is_none() {
            self.advance(&mut Told::default())?;
        }
        self.watch();
        Ok(())
    }

    /// The files of which nothing can have been read.
    fn unread(&self, files: Vec<LogFile>) -> Result<Vec<LogFile>, SourceError> {
        let mut unread = Vec::new();
        for log in files {
            let first = first_stamp(&log)?;
            let later = match (first, self.lines.stamp()) {
                (Some(first), Some(last)) => is_after(first, last),
                (Some(_), None) => self.begin == Begin::Rotations || log.path == self.log,
                (None, _) => log.path == self.log,
            };
            if later || self.ids().any(|id| id == log.id) {
                unread.push(log);
            }
        }
        Ok(unread)
    }

    /// Puts files into the order in which they are read, with those that are known; `anew`: with the one
    /// that is read, of which nothing was.
    fn merge(&mut self, files: Vec<LogFile>, anew: bool) -> Result<(), SourceError> {
        let mut known = std::mem::take(&mut self.next);
        if let Some(current) = self.current.take_if(|_| anew) {
            known.push_front(Next::whole(current.log));
        }
        let mut known: Vec<_> = known.into_iter().collect();
        let mut named = VecDeque::new();
        for log in files {
            let same = match known.iter().position(|next| next.log.id == log.id) {
                Some(same) => Some(same),
                // What was packed since is in two files, of which one has no name.
                None => match first_stamp(&log)? {
                    Some(first) => position(&known, |next| Ok(first_stamp(&next.log)? == Some(first)))?,
                    None => None,
                },
            };
            named.push_back(same.map_or_else(|| Next::whole(log), |same| known.remove(same)));
        }
        // The others are the oldest: rotations go in that order.
        self.next.extend(known);
        self.next.append(&mut named);
        Ok(())
    }

    /// The file that is read has no name any more, and no other is known.
    fn find_after_gone(&mut self, files: Vec<LogFile>) -> Result<(), SourceError> {
        let left = self.checkpoint();
        // It was packed, or copied: what is after that.
        let same = match self.current.as_ref().map(|current| first_stamp(&current.log)).transpose()?.flatten()
        {
            Some(first) => position(&files, |log| Ok(first_stamp(log)? == Some(first)))?,
            None => None,
        };
        let place = place::find(&files, &left).map_err(|source| self.failed(0, source))?;
        if let Some(place) = same.or(place.map(|place| place.file)) {
            self.queue(files.into_iter().skip(place + 1).collect());
        } else {
            self.lines.lost(GapReason::PositionLost);
            self.queue_after_stamp(files)?;
        }
        self.watch();
        Ok(())
    }

    fn ids(&self) -> impl Iterator<Item = FileId> {
        let current = self.current.iter().map(|current| current.log.id);
        current.chain(self.next.iter().map(|next| next.log.id))
    }

    /// Whether the file that is read was cut since the last look, as `copytruncate` does; then what was
    /// read of it is in a copy, if anywhere.
    fn was_cut(&mut self) -> Result<bool, SourceError> {
        let Some(current) = &self.current else { return Ok(false) };
        if matches!(current.bytes, Bytes::Packed(_)) {
            return Ok(false);
        }
        let size = current.log.size().map_err(|source| failed(&current.log, current.at, source))?;
        if size < current.at {
            return Ok(true);
        }
        // Cut, and grown to where it was or beyond.
        let (came, after) = self.lines.came();
        let guard = &came[came.len().saturating_sub(GUARD)..];
        let end = current.at - after;
        let mut now = vec![0; guard.len()];
        let read = current.log.file().and_then(|file| file.read_exact_at(&mut now, end - guard.len() as u64));
        match read {
            Ok(()) => Ok(now != guard),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Err(source) => Err(failed(&current.log, current.at, source)),
        }
    }

    /// Goes on in the copy of a file that was cut, and with the file itself after that.
    fn go_round_cut(&mut self) -> Result<(), SourceError> {
        let left = self.checkpoint();
        let files = rotations::all(&self.log)?;
        let found = place::find(&files, &left).map_err(|source| self.failed(0, source))?;
        let Some(cut) = self.current.take() else { return Ok(()) };
        self.next.push_front(Next::whole(cut.log));
        match found {
            Some(Place { file, at, line }) => {
                let copies: Vec<_> = files.into_iter().skip(file).collect();
                let copy = copies.first().map(|copy| copy.id);
                self.merge(copies, false)?;
                if let Some(copy) = self.next.iter_mut().find(|next| Some(next.log.id) == copy) {
                    (copy.at, copy.line) = (at, line);
                }
            }
            // Nobody kept it. The next line's number tells whether anything is missing.
            None => self.lines.lost(GapReason::PositionLost),
        }
        self.lines.drop_held();
        self.advance(&mut Told::default())?;
        self.watch();
        Ok(())
    }

    /// How much there is to read.
    fn measure(&mut self) {
        let rest = |log: &LogFile, at: u64| log.size().map_or(0, |size| size.saturating_sub(at));
        let current = self.current.as_ref().map_or(0, |current| match current.bytes {
            Bytes::Plain => rest(&current.log, current.at),
            Bytes::Packed(_) => 0,
        });
        self.behind = current + self.next.iter().map(|next| rest(&next.log, next.at)).sum::<u64>();
    }

    fn failed(&self, at: u64, source: io::Error) -> SourceError {
        SourceError::Read { name: self.log.display().to_string(), at, source }
    }
}

impl Source for Follower {
    fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.wake.awaited()
    }

    fn look_within(&self) -> Option<Duration> {
        self.wake.look_within()
    }

    fn look(&mut self, told: &mut Told) -> Result<(), SourceError> {
        told.more = false;
        let renamed = self.wake.drain();
        if self.was_cut()? {
            self.go_round_cut()?;
        }
        if renamed {
            self.find_newer(true)?;
        }
        let before = told.bytes;
        loop {
            if self.read(told)? == 0 && !self.turn(told)? {
                break;
            }
            if told.bytes - before >= PIECE as u64 {
                told.more = true;
                break;
            }
        }
        self.measure();
        Ok(())
    }

    fn checkpoint(&self) -> Checkpoint {
        let file = self.current.as_ref().map(|current| {
            let at = current.at - self.lines.held();
            let head = &current.head[..current.head.len().min(usize::try_from(at).unwrap_or(usize::MAX))];
            FilePlace { id: current.log.id, at, line: self.lines.line(), head: Digest::of_head(head) }
        });
        Checkpoint { file, ..self.lines.checkpoint() }
    }

    fn behind(&self) -> u64 {
        self.behind
    }
}

fn failed(log: &LogFile, at: u64, source: io::Error) -> SourceError {
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
    log.first_stamp().map_err(|source| failed(log, 0, source))
}

/// A file from some place on: how to read it, how it begins, and what is before the place.
fn begin(log: &LogFile, at: u64) -> io::Result<(Bytes, Vec<u8>, Vec<u8>)> {
    let within = usize::try_from(at).unwrap_or(usize::MAX);
    let mut head = vec![0; within.min(Digest::MAX)];
    let mut context = vec![0; within.min(CONTEXT)];
    let before = at - context.len() as u64;
    if !log.is_packed() {
        let file = log.file()?;
        file.read_exact_at(&mut head, 0)?;
        file.read_exact_at(&mut context, before)?;
        return Ok((Bytes::Plain, head, context));
    }
    let mut front = log.reader()?;
    front.read_exact(&mut head)?;
    let mut bytes = log.reader()?;
    io::copy(&mut (&mut bytes).take(before), &mut io::sink())?;
    bytes.read_exact(&mut context)?;
    Ok((Bytes::Packed(bytes), head, context))
}

/// Where the last whole line of a file ends, and how many lines that is.
fn end_of(log: &LogFile) -> io::Result<(u64, u64)> {
    let mut bytes = log.reader()?;
    let (mut buffer, mut read_to, mut at, mut lines) = (vec![0; MAX_LINE], 0_u64, 0, 0);
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
