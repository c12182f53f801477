//! The values of the keys, one function for each kind.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use taptrail_kernel::link::MacvtapMode;
use taptrail_record::MacAddr;

use super::error::{Problem, quoted};
use super::{Key, Vhost};
use crate::filter::is_filter_name;

/// The longest device path, in bytes: with every comma doubled two of them still fit into a SPEC.
pub(crate) const PATH_LIMIT: usize = 512;

/// One of a few words.
fn choice<T: Copy>(key: Key, text: &str, all: &[T], word: fn(T) -> &'static str) -> Result<T, Problem> {
    all.iter().copied().find(|&value| word(value) == text).ok_or_else(|| Problem::Choice {
        key,
        text: quoted(text),
        choices: all.iter().map(|&value| word(value)).collect(),
    })
}

pub(super) fn mode(text: &str) -> Result<MacvtapMode, Problem> {
    use MacvtapMode::{Bridge, Passthru, Private, Vepa};
    choice(Key::Mode, text, &[Bridge, Vepa, Private, Passthru], MacvtapMode::as_str)
}

pub(super) fn vhost(text: &str) -> Result<Vhost, Problem> {
    choice(Key::Vhost, text, &[Vhost::On, Vhost::Off, Vhost::Auto], Vhost::as_str)
}

/// A filter's name, or the path of its file.
pub(super) fn filter(text: &str) -> Result<String, Problem> {
    if text.starts_with('/') {
        return if text.len() > PATH_LIMIT { Err(Problem::LongPath) } else { Ok(text.to_owned()) };
    }
    if is_filter_name(text) { Ok(text.to_owned()) } else { Err(Problem::FilterName(quoted(text))) }
}

pub(super) fn isolated(text: &str) -> Result<bool, Problem> {
    choice(Key::Isolated, text, &[true, false], |on| if on { "on" } else { "off" })
}

/// Whether the link is down.
pub(super) fn link_down(text: &str) -> Result<bool, Problem> {
    choice(Key::LinkState, text, &[false, true], |down| if down { "down" } else { "up" })
}

/// Whether frames of the port's own VLAN are tagged.
pub(super) fn native_tagged(text: &str) -> Result<bool, Problem> {
    choice(Key::VlanMode, text, &[false, true], |tagged| if tagged { "tagged" } else { "untagged" })
}

/// The only value of `new-tap`: without one the key is left out.
pub(super) fn new_tap(text: &str) -> Result<(), Problem> {
    choice(Key::NewTap, text, &[()], |()| "on")
}

/// A decimal number without sign, within `range`.
pub(super) fn number(key: Key, text: &str, range: RangeInclusive<u32>) -> Result<u32, Problem> {
    // parse alone would take "+5".
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && range.contains(value));
    value.ok_or_else(|| Problem::Number { key, text: quoted(text), min: *range.start(), max: *range.end() })
}

/// A [`number`] for a field of 16 bits.
pub(super) fn small_number(key: Key, text: &str, range: RangeInclusive<u16>) -> Result<u16, Problem> {
    let (min, max) = (u32::from(*range.start()), u32::from(*range.end()));
    let value = number(key, text, min..=max)?;
    u16::try_from(value).map_err(|_| Problem::Number { key, text: quoted(text), min, max })
}

pub(super) fn queues(text: &str) -> Result<NonZeroU16, Problem> {
    let value = small_number(Key::Queues, text, 1..=256)?;
    Ok(NonZeroU16::new(value).unwrap_or(NonZeroU16::MIN))
}

pub(super) fn mtu(text: &str) -> Result<u32, Problem> {
    number(Key::Mtu, text, 68..=65535)
}

pub(super) fn vlan(text: &str) -> Result<u16, Problem> {
    small_number(Key::Vlan, text, 1..=4094)
}

/// Bytes, as many as QEMU takes.
pub(super) fn send_buffer(text: &str) -> Result<u32, Problem> {
    number(Key::SendBuffer, text, 0..=i32::MAX.cast_unsigned())
}

/// Frames, as many as the kernel's tun driver takes.
pub(super) fn rx_frames(text: &str) -> Result<u32, Problem> {
    number(Key::RxFrames, text, 0..=64)
}

/// An address that one guest's interface can own.
pub(super) fn mac(text: &str) -> Result<MacAddr, Problem> {
    let mac: MacAddr = text.parse()?;
    if mac.is_zero() {
        return Err(Problem::ZeroMac);
    }
    if mac.is_multicast() { Err(Problem::GroupMac(mac)) } else { Ok(mac) }
}

/// An absolute path of bounded length. Whether it exists, and is a device, is checked when it is
/// opened.
pub(super) fn path(text: &str) -> Result<PathBuf, Problem> {
    if text.len() > PATH_LIMIT {
        return Err(Problem::LongPath);
    }
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(Problem::RelativePath(quoted(text))) }
}
