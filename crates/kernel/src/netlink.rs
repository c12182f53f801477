//! The header of netlink messages and their attributes, for all families (netlink(7)).

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// One message of a datagram.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Splits off the first message (`struct nlmsghdr`: length, type, flags, sequence, port); none if
/// it is truncated.
pub(crate) fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32_at(bytes, 0)? as usize;
    let payload = bytes.get(HEADER..length)?;
    let message =
        Message { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)?, payload };
    let aligned = length.next_multiple_of(4).min(bytes.len());
    Some((message, &bytes[aligned..]))
}

/// The messages of a datagram, up to a truncated one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (message, rest) = split(bytes)?;
        bytes = rest;
        Some(message)
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The first attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// The attributes (`struct nlattr`), up to a truncated one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|nla| {
        let (kind, length) = (nla.kind(), usize::from(nla.length()));
        (kind, nla.into_inner().get(NLA_HEADER_SIZE..length).unwrap_or_default())
    })
}

/// An attribute's text, without its final NUL.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}
