//! Entries of systemd's journal, as its JSON and export formats give them.
//!
//! A field whose name begins with `_` was written by journald itself; any other by whoever logged. So an
//! audit record is believed where `_TRANSPORT` says that it came from the kernel, and a guest manager's
//! message where `_COMM` says who sent it and `_UID` that root did: the name that a program gives itself
//! is anybody's (systemd.journal-fields(7)).

mod entries;
mod export;
mod field;
pub(super) mod json;
mod lines;
mod pretty;
mod verbose;

pub(crate) use entries::Entries;
#[cfg(test)]
pub(crate) use export::Export;

use jiff::Timestamp;
use taptrail_record::RecordType;
use taptrail_trail::Content;

use self::field::{Field, Value};
use super::{Unreadable, audit, content, libvirt, losses, resembles_record, stamp, syslog};
use crate::found::{Found, Voice, When};

/// The fields of one entry that tell something.
#[derive(Debug, Default)]
pub(super) struct Journal<'a> {
    values: [Value<'a>; Field::COUNT],
}

impl<'a> Journal<'a> {
    fn put(&mut self, field: Field, value: Value<'a>) {
        let place = &mut self.values[field as usize];
        // A field may stand in an entry any number of times.
        *place = if *place == Value::Absent { value } else { Value::Several };
    }

    fn get(&self, field: Field) -> Option<&[u8]> {
        match &self.values[field as usize] {
            Value::One(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// When it happened: by the sender's clock, which for a record is audit's own stamp, or by the time
    /// that journald took it.
    pub(super) fn when(&self) -> Option<When> {
        let sent = self.get(Field::SourceTime).and_then(moment);
        sent.or_else(|| self.get(Field::Time).and_then(moment))
    }

    /// The host that it names.
    pub(super) fn host(&self) -> Option<&[u8]> {
        self.get(Field::Host)
    }

    /// Whether this is an entry of a journal: it has fields that journald itself writes.
    pub(super) fn is_entry(&self) -> bool {
        [Field::Transport, Field::Time].iter().any(|field| self.values[*field as usize] != Value::Absent)
    }

    /// What it tells.
    pub(super) fn found(&self) -> Result<Option<Found>, Unreadable> {
        let found = match self.get(Field::Transport) {
            Some(b"audit") => self.record(),
            Some(b"kernel") if self.get(Field::Identifier) == Some(b"kernel") => self.kernels(),
            Some(b"syslog" | b"journal" | b"stdout") => self.logged(),
            _ => Err(Unreadable::Unknown),
        };
        let found = match found {
            // What other fields look like, such as a command line, is of no concern.
            Err(Unreadable::Unknown) if !self.resembles_record() => return Ok(None),
            found => found?,
        };
        let host = || self.host().and_then(content::host);
        let id = |field| self.get(field).and_then(losses::id128);
        let (boot, machine) = (id(Field::Boot), id(Field::Machine));
        Ok(found.map(|found| Found { host: found.host.clone().or_else(host), boot, machine, ..found }))
    }

    fn resembles_record(&self) -> bool {
        match &self.values[Field::Message as usize] {
            Value::One(message) => resembles_record(message),
            _ => false,
        }
    }

    /// What journald had from the kernel's log.
    fn kernels(&self) -> Result<Option<Found>, Unreadable> {
        let Some(message) = self.get(Field::Message) else { return Ok(None) };
        syslog::kernel(self.when().unwrap_or(When::Unknown), syslog::unstamped(message))
    }

    /// What journald had from the kernel's audit.
    fn record(&self) -> Result<Option<Found>, Unreadable> {
        let message = match &self.values[Field::Message as usize] {
            Value::One(bytes) => audit::message(bytes),
            _ => None,
        };
        let told = self.get(Field::AuditType).and_then(stamp::number).map(RecordType);
        let named = message.as_ref().map(|message| message.record_type);
        let Some(record_type) = told.or(named).filter(|known| content::tells(*known)) else {
            return Ok(None);
        };
        let (writer, content) = match message {
            Some(message) => audit::Message { record_type, ..message }.content()?,
            None if self.values[Field::Message as usize] == Value::Withheld => {
                (None, self.fragment(record_type))
            }
            None => return Err(Unreadable::Field { field: "MESSAGE" }),
        };
        let serial = match self.get(Field::AuditId) {
            Some(id) => Some(stamp::number(id).ok_or(Unreadable::Field { field: "_AUDIT_ID" })?),
            None => None,
        };
        self.told(content, serial, writer)
    }

    /// journalctl leaves out what is longer than 4 kB unless asked for `--all`. journald took such a
    /// message apart, and all but the name is short.
    fn fragment(&self, record_type: RecordType) -> Option<Content> {
        let mut text = Vec::new();
        for (key, field) in [
            ("virt=", Field::Virt),
            (" resrc=", Field::Resource),
            (" vm=\"\" uuid=", Field::Uuid),
            (" net=", Field::Net),
            (" old-net=", Field::OldNet),
            (" new-net=", Field::NewNet),
            (" path=", Field::Path),
            (" rdev=", Field::Rdev),
        ] {
            if let Some(value) = self.get(field) {
                text.extend_from_slice(key.as_bytes());
                text.extend_from_slice(value);
            }
        }
        content::of_cut(record_type, &text).map(content::nameless)
    }

    /// What a program logged.
    fn logged(&self) -> Result<Option<Found>, Unreadable> {
        let (Some(program), Some(message)) = (self.get(Field::Program), self.get(Field::Message)) else {
            return Err(Unreadable::Unknown);
        };
        if self.get(Field::Uid).is_some_and(|uid| uid != b"0") {
            return Err(Unreadable::Unknown);
        }
        if program == b"auditd" || audit::is_dispatcher(program) {
            return syslog::daemon(self.when().unwrap_or(When::Unknown), program, message);
        }
        let audits = self.get(Field::Function).is_none_or(libvirt::audits);
        if !libvirt::is_daemon(program) || !audits {
            return Err(Unreadable::Unknown);
        }
        let Some((own, content)) = libvirt::body(message)? else { return Ok(None) };
        let found = self.told(Some(content), None, None)?;
        Ok(found.map(|found| Found { when: own.unwrap_or(found.when), voice: Voice::Manager, ..found }))
    }

    fn told(
        &self,
        content: Option<Content>,
        serial: Option<u32>,
        writer: Option<u32>,
    ) -> Result<Option<Found>, Unreadable> {
        let Some(content) = content else { return Ok(None) };
        let when = self.when().ok_or(Unreadable::Time)?;
        let writer = writer.or_else(|| self.get(Field::Pid).and_then(stamp::number));
        Ok(Some(Found { serial, writer, ..Found::new(when, Voice::Journald, content) }))
    }
}

/// A time in microseconds since 1970.
pub(super) fn moment(value: &[u8]) -> Option<When> {
    let micros = stamp::number::<i64>(value.trim_ascii_end())?;
    Timestamp::from_microsecond(micros).ok().map(When::Exact)
}
