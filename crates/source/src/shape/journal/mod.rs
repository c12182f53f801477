//! Parses entries of systemd's journal in its JSON and export formats.
//!
//! journald itself writes the fields whose names begin with `_`; the logging program writes the
//! others. So an audit record is trusted if `_TRANSPORT` says that it came from the kernel, and a
//! guest manager's message if `_COMM` names the manager and `_UID` is root's: any program can give
//! itself any name (systemd.journal-fields(7)).

mod entries;
mod export;
mod field;
pub(super) mod json;
mod lines;
mod pretty;
mod text;
mod verbose;

pub(crate) use entries::Entries;
#[cfg(test)]
pub(crate) use export::Export;

use jiff::Timestamp;
use taptrail_record::RecordType;
use taptrail_trail::Content;

use self::field::{Field, Value};
use super::{Unreadable, audit, content, libvirt, losses, resembles_record, stamp, syslog};
use crate::parsed_line::{LineTime, LogProgram, ParsedLine};

/// The relevant fields of one entry.
#[derive(Debug, Default)]
pub(super) struct JournalEntry<'a> {
    values: [Value<'a>; Field::COUNT],
}

impl<'a> JournalEntry<'a> {
    fn put(&mut self, field: Field, value: Value<'a>) {
        let place = &mut self.values[field as usize];
        // A field may occur any number of times.
        *place = if *place == Value::Absent { value } else { Value::Several };
    }

    fn get(&self, field: Field) -> Option<&[u8]> {
        match &self.values[field as usize] {
            Value::One(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The entry's time by the sender's clock, which for a record is audit's own stamp, or else the
    /// time at which journald received it.
    pub(super) fn when(&self) -> Option<LineTime> {
        let sent = self.get(Field::SourceTime).and_then(moment);
        sent.or_else(|| self.get(Field::Time).and_then(moment))
    }

    /// The host that it names.
    pub(super) fn host(&self) -> Option<&[u8]> {
        self.get(Field::Host)
    }

    /// Whether this is a journal entry: it has fields that journald itself writes.
    pub(super) fn is_entry(&self) -> bool {
        [Field::Transport, Field::Time].iter().any(|field| self.values[*field as usize] != Value::Absent)
    }

    /// Parses the entry.
    pub(super) fn parse(&self) -> Result<Option<ParsedLine>, Unreadable> {
        let found = match self.get(Field::Transport) {
            Some(b"audit") => self.record(),
            Some(b"kernel") if self.get(Field::Identifier) == Some(b"kernel") => self.kernels(),
            Some(b"syslog" | b"journal" | b"stdout") => self.logged(),
            _ => Err(Unreadable::Unknown),
        };
        let found = match found {
            // Other fields may look like a record, such as a command line: ignore them.
            Err(Unreadable::Unknown) if !self.resembles_record() => return Ok(None),
            found => found?,
        };
        let host = || self.host().and_then(content::host);
        let id = |field| self.get(field).and_then(losses::id128);
        let (boot, machine) = (id(Field::Boot), id(Field::Machine));
        Ok(found.map(|found| ParsedLine { host: found.host.clone().or_else(host), boot, machine, ..found }))
    }

    /// Parses an entry that [`parse`](Self::parse) finds irrelevant, and that may be a record of
    /// another resource than a network device.
    pub(in crate::shape) fn resource(&self) -> Result<Option<ParsedLine>, Unreadable> {
        let message = self.get(Field::Message).filter(|_| self.get(Field::Transport) == Some(b"audit"));
        let Some(message) = message.and_then(audit::message) else { return Ok(None) };
        let Some((sender, content)) = message.resource()? else { return Ok(None) };
        let serial = self.get(Field::AuditId).and_then(stamp::number);
        let found = self.parsed_line(Some(content), serial, sender)?;
        let id = |field| self.get(field).and_then(losses::id128);
        let (boot, machine) = (id(Field::Boot), id(Field::Machine));
        let host = self.host().and_then(content::host);
        Ok(found.map(|found| ParsedLine { host, boot, machine, ..found }))
    }

    fn resembles_record(&self) -> bool {
        match &self.values[Field::Message as usize] {
            Value::One(message) => resembles_record(message),
            _ => false,
        }
    }

    /// Parses an entry from the kernel's log.
    fn kernels(&self) -> Result<Option<ParsedLine>, Unreadable> {
        let Some(message) = self.get(Field::Message) else { return Ok(None) };
        syslog::kernel(self.when().unwrap_or(LineTime::Unknown), syslog::unstamped(message))
    }

    /// Parses an entry from the kernel's audit.
    fn record(&self) -> Result<Option<ParsedLine>, Unreadable> {
        let message = match &self.values[Field::Message as usize] {
            Value::One(bytes) => audit::message(bytes),
            _ => None,
        };
        let by_field = self.get(Field::AuditType).and_then(stamp::number).map(RecordType);
        let named = message.as_ref().map(|message| message.record_type);
        let Some(record_type) = by_field.or(named).filter(|known| content::is_relevant(*known)) else {
            return Ok(None);
        };
        let (sender, content) = match message {
            Some(message) => audit::Message { record_type, ..message }.content()?,
            None if self.values[Field::Message as usize] == Value::Withheld => {
                (audit::Sender::default(), self.fragment(record_type))
            }
            None => return Err(Unreadable::Field { field: "MESSAGE" }),
        };
        let serial = match self.get(Field::AuditId) {
            Some(id) => Some(stamp::number(id).ok_or(Unreadable::Field { field: "_AUDIT_ID" })?),
            None => None,
        };
        self.parsed_line(content, serial, sender)
    }

    /// journalctl omits values longer than 4 kB without `--all`. journald has split such a message
    /// into fields, and all but the name are short.
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
        content::truncated_record(record_type, &text).map(content::without_name)
    }

    /// Parses an entry that a program logged.
    fn logged(&self) -> Result<Option<ParsedLine>, Unreadable> {
        let (Some(program), Some(message)) = (self.get(Field::Program), self.get(Field::Message)) else {
            return Err(Unreadable::Unknown);
        };
        if self.get(Field::Uid).is_some_and(|uid| uid != b"0") {
            return Err(Unreadable::Unknown);
        }
        if program == b"auditd" || audit::is_dispatcher(program) {
            return syslog::daemon(self.when().unwrap_or(LineTime::Unknown), program, message);
        }
        let audits = self.get(Field::Function).is_none_or(libvirt::audits);
        if !libvirt::is_daemon(program) || !audits {
            return Err(Unreadable::Unknown);
        }
        let Some((own, content)) = libvirt::body(message)? else { return Ok(None) };
        let found = self.parsed_line(Some(content), None, audit::Sender::default())?;
        Ok(found.map(|found| ParsedLine {
            when: own.unwrap_or(found.when),
            program: LogProgram::Manager,
            ..found
        }))
    }

    fn parsed_line(
        &self,
        content: Option<Content>,
        serial: Option<u32>,
        sender: audit::Sender,
    ) -> Result<Option<ParsedLine>, Unreadable> {
        let Some(content) = content else { return Ok(None) };
        let when = self.when().ok_or(Unreadable::Time)?;
        let writer = sender.pid.or_else(|| self.get(Field::Pid).and_then(stamp::number));
        let credentials = sender.credentials;
        Ok(Some(ParsedLine {
            serial,
            writer,
            credentials,
            ..ParsedLine::new(when, LogProgram::Journald, content)
        }))
    }
}

/// A time in microseconds since 1970.
pub(super) fn moment(value: &[u8]) -> Option<LineTime> {
    let micros = stamp::number::<i64>(value.trim_ascii_end())?;
    Timestamp::from_microsecond(micros).ok().map(LineTime::Exact)
}
