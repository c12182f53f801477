//! The text of a record as `ausearch -i` prints it: every value decoded and without its quotes.
//!
//! ```text
//! virt=kvm resrc=net reason=start vm=NAME uuid=U old-net=? new-net=M exe=E hostname=? addr=? terminal=? res=success
//! └────────────  head  ─────────────┘    └──────────────────  tail  ─────┘└───────────────  ending  ─────────────┘
//! ```
//!
//! A name may now hold blanks and whole imitated pairs, so nothing is looked for by its key. The head is
//! known up to the name. Of tail and ending each pair is known with its place; only a path and a program
//! there are free. A text is believed when its *last* `uuid=` (and, for a device, the last `rdev=`) begins
//! a complete tail and no earlier one does: an imitation within a name stands before the true pair, so it
//! can spoil the reading, but never become it.

mod cursor;
mod head;
mod tail;

use memchr::memmem;

use self::cursor::last_pair;
use self::head::Head;
use self::tail::{Last, Tail};
use crate::field_reader::{Key, need};
use crate::old_tail;
use crate::pairs::shown;
use crate::{GuestId, MAX_TEXT, Outcome, ParseError, Record, RecordType};

/// What the text between `msg='` and `'` of an `ausearch -i` line says.
///
/// `None` as with [`parse_text`](crate::parse_text). Names are as printed: a control character in one is
/// `\ooo` there, which is not undone. A requester that was printed by name is left out, but for `root` and
/// `unset`.
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
/// A record that should tell something but can't be believed: cut off, with pairs that do not stand
/// where they must, or one that can be read in more than one way.
pub fn parse_interpreted(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    match read(record_type, text) {
        Err(error) => match old_tail::modernised(text) {
            Some(text) => read(record_type, &text),
            None => Err(error),
        },
        told => told,
    }
}

fn read(record_type: RecordType, text: &[u8]) -> Result<Option<Record>, ParseError> {
    let Some(head) = Head::of(record_type, text)? else { return Ok(None) };
    // What needs no quotes may have been hex, twice as long: the kernel may have cut it, and the ending
    // may be part of a name.
    if text.len() + head.rest.len() > MAX_TEXT {
        return Err(ParseError::Truncated);
    }
    let (outcome, body) = ending(head.rest)?;
    let Some(found) = memmem::rfind(body, UUID) else {
        // Of a container run-time, or a guest's that lost it.
        return if head.may_be_foreign { Ok(None) } else { need(Key::Uuid, None) };
    };
    let shape = head.shape?;
    let tail = Tail::of(&shape, &body[found..])?;
    if memmem::find_iter(&body[..found], UUID).any(|earlier| Tail::begins(&shape, &body[earlier..])) {
        return Err(ParseError::Ambiguous);
    }
    let Tail { uuid, event, last } = tail;
    let guest = GuestId { name: shown(&body[..found]), uuid };
    let Last { errno, last_seen, doubt, requester } = last;
    Ok(Some(Record { guest, event, outcome, requester, errno, last_seen, doubt }))
}

const UUID: &[u8] = b" uuid=";

/// The outcome, and what stands before libaudit's `hostname= addr= terminal= res=`.
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
