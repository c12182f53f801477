//! A record's text as `ausearch -i` prints it: every value decoded and without quotes.
//!
//! ```text
//! virt=kvm resrc=net reason=start vm=NAME uuid=U old-net=? new-net=M exe=E hostname=? addr=? terminal=? res=success
//! └────────────  head  ─────────────┘    └──────────────────  tail  ─────┘└───────────────  ending  ─────────────┘
//! ```
//!
//! A decoded name may contain blanks and imitated pairs, so the parser does not search by key. The
//! head is fixed up to the name. In tail and ending each pair has a fixed position; only a path and
//! a program there are free text. A text is valid if its *last* `uuid=` (and, for a device, the
//! last `rdev=`) begins a complete tail and no earlier one does: an imitation within a name stands
//! before the true pair, so it can make the text invalid, but is never taken for the true pair.

mod cursor;
mod head;
mod tail;

use memchr::memmem;

use self::cursor::last_pair;
use self::head::Head;
use self::tail::{CommonPairs, Tail};
use crate::field_reader::{Key, required};
use crate::old_tail;
use crate::pairs::lossy_text;
use crate::{GuestId, MAX_TEXT_BYTES, Outcome, ParseError, Record, RecordType};

/// Parses the text between `msg='` and `'` of an `ausearch -i` line.
///
/// `None` as with [`parse_text`](crate::parse_text). Names are as printed: a control character in
/// one is `\ooo` there, which is not undone. A requester that was printed by name is left out, but
/// for `root` and `unset`.
///
/// ```
/// use taptrail_record::{RecordType, parse_interpreted};
///
/// let text = "virt=kvm op=start reason=booted vm=x uuid=0 res=failed uuid=2ea4e9f1-1c4a-4c49-a5a1-0bbbbf2a1b0e \
///             vm-pid=22527 exe=/usr/sbin/libvirtd hostname=? addr=? terminal=? res=success";
/// let record = parse_interpreted(RecordType::VIRT_CONTROL, text.as_bytes())?.ok_or("a guest's start")?;
/// assert_eq!(record.guest.name, "x uuid=0 res=failed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The record is about a guest or a network device, but invalid: cut off, with pairs at the wrong
/// position, or it can be parsed in more than one way.
pub fn parse_interpreted(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match read(record_type, text) {
        Err(error) => match old_tail::with_current_tail(text) {
            Some(text) => read(record_type, &text),
            None => Err(error),
        },
        parsed => parsed,
    }
}

fn read(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    let Some(head) = Head::of(record_type, text)? else { return Ok(None) };
    // The name may have been hex in the kernel's record, twice as long: the kernel may have cut
    // that, and then the ending is part of a name.
    if text.len() + head.rest.len() > MAX_TEXT_BYTES {
        return Err(ParseError::Truncated);
    }
    let (outcome, body) = ending(head.rest)?;
    let Some(found) = memmem::rfind(body, UUID) else {
        // A container run-time's record, or a guest's that lost its uuid.
        return if head.may_be_foreign { Ok(None) } else { required(Key::Uuid, None) };
    };
    let shape = head.shape?;
    let tail = Tail::of(&shape, &body[found..])?;
    if memmem::find_iter(&body[..found], UUID).any(|earlier| Tail::begins(&shape, &body[earlier..])) {
        return Err(ParseError::Ambiguous);
    }
    let Tail { uuid, event, common } = tail;
    let guest = GuestId { name: lossy_text(&body[..found]), uuid };
    let CommonPairs { errno, last_seen, doubt, requester } = common;
    Ok(Some(Record { guest, event, outcome, requester, errno, last_seen, doubt }))
}

const UUID: &[u8] = b" uuid=";

/// The outcome, and the text before libaudit's `hostname= addr= terminal= res=`.
fn ending(text: &[u8]) -> Result<(Outcome, &[u8]), ParseError> {
    let (body, res) = last_pair(text, b" res=").ok_or(ParseError::Truncated)?;
    let outcome = match res {
        b"success" => Outcome::Success,
        b"failed" => Outcome::Failed,
        _ => return Err(ParseError::Truncated),
    };
    let before = || {
        let (body, _) = last_pair(body, b" terminal=")?;
        let (body, _) = last_pair(body, b" addr=")?;
        let (body, _) = last_pair(body, b" hostname=")?;
        Some(body)
    };
    Ok((outcome, before().ok_or(ParseError::Truncated)?))
}

#[cfg(test)]
mod tests;
