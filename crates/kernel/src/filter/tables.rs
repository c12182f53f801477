//! The interfaces with a taptrail filter, and the hook of each, read from the kernel without `nft`:
//! each start and attach needs them, and the JSON of `nft` lacks some of it.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use super::ruleset::interface_of_table;
use crate::netlink::{HEADER, attribute, attributes, messages, text, u32_at};

// linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELSETELEM`: tables, chains, rules and sets.
const TABLE_MESSAGES: std::ops::RangeInclusive<u16> = 0..=14;
/// `NFT_MSG_NEWOBJ` to `NFT_MSG_DELFLOWTABLE`.
const OBJECT_MESSAGES: std::ops::RangeInclusive<u16> = 18..=24;
const NFPROTO_NETDEV: u8 = 5;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so on: of each it is the first.
const NFTA_TABLE: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_FLAGS: u16 = 10;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_HOOK_DEVS: u16 = 4;
const NFTA_DEVICE_NAME: u16 = 1;
/// The flag of a chain that is hooked; taptrail sets no other.
const NFT_CHAIN_BASE: u32 = 1;
/// Bytes of `struct nfgenmsg`: family, version, resource.
const NFGENMSG: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// How often a dump is repeated if other programs change nftables meanwhile.
const MAX_DUMPS: u32 = 10;
/// The kernel's largest reply, in bytes (`netlink_dump()` stops at 32 KiB).
const MAX_REPLY_BYTES: usize = 32 * 1024;

/// Whether a message of nfnetlink's is about a table of nftables, or something in one.
pub(crate) fn is_table_message(kind: u16) -> bool {
    let message = kind & 0xFF;
    kind >> 8 == NFNL_SUBSYS_NFTABLES
        && (TABLE_MESSAGES.contains(&message) || OBJECT_MESSAGES.contains(&message))
}

/// The ifindex of the interface whose taptrail filter a table message is about.
pub(crate) fn interface_of_message(payload: &[u8]) -> Option<u32> {
    if payload.first() != Some(&NFPROTO_NETDEV) {
        return None;
    }
    let name = attribute(payload.get(NFGENMSG..)?, NFTA_TABLE)?;
    interface_of_table(std::str::from_utf8(name).ok()?.trim_end_matches('\0'))
}

/// The hook of one interface's filter, as the kernel reports it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FilterHook {
    /// The names of the interfaces that its chains are hooked to.
    pub devices: Vec<String>,
    /// Whether its table or a chain of it has flags (`NFT_TABLE_F_*`, `NFT_CHAIN_*`), none of which
    /// taptrail sets: a dormant table exists and filters nothing.
    pub has_flags: bool,
}

/// The taptrail filters in the calling thread's network namespace, by the ifindexes of their
/// interfaces, which may no longer exist. Empty if the kernel has no nftables.
///
/// # Errors
///
/// The kernel can't be queried, or other programs keep changing nftables.
pub fn filter_hooks() -> io::Result<BTreeMap<u32, FilterHook>> {
    for _ in 0..MAX_DUMPS {
        match read_hooks() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
            found => return found,
        }
    }
    Err(Errno::INTR.into())
}

fn read_hooks() -> io::Result<BTreeMap<u32, FilterHook>> {
    let mut found = BTreeMap::<u32, FilterHook>::new();
    dump(NFT_MSG_GETTABLE, |payload| {
        let Some(filter) = interface_of_message(payload) else { return };
        let flags = u32_of(attributes_of(payload), NFTA_TABLE_FLAGS);
        found.entry(filter).or_default().has_flags |= flags != 0;
    })?;
    if found.is_empty() {
        return Ok(found);
    }
    dump(NFT_MSG_GETCHAIN, |payload| {
        // A table that was created or deleted meanwhile is left to the next call.
        let Some(filter) = interface_of_message(payload).and_then(|number| found.get_mut(&number)) else {
            return;
        };
        let chain = attributes_of(payload);
        filter.has_flags |= u32_of(chain, NFTA_CHAIN_FLAGS) & !NFT_CHAIN_BASE != 0;
        let hook = attribute(chain, NFTA_CHAIN_HOOK).unwrap_or_default();
        match attribute(hook, NFTA_HOOK_DEVS) {
            Some(devices) => {
                // All of them: one that is no plain name, such as a prefix, is none of ours either.
                filter.devices.extend(attributes(devices).map(|(kind, name)| match kind {
                    NFTA_DEVICE_NAME => text(name),
                    _ => format!("{}*", text(name)),
                }));
            }
            None => filter.devices.extend(attribute(hook, NFTA_HOOK_DEV).map(text)),
        }
    })?;
    Ok(found)
}

fn attributes_of(payload: &[u8]) -> &[u8] {
    payload.get(NFGENMSG..).unwrap_or_default()
}

/// A number in network byte order; 0 where there is none.
fn u32_of(attributes: &[u8], kind: u16) -> u32 {
    let value = attribute(attributes, kind).and_then(|value| value.try_into().ok());
    value.map_or(0, u32::from_be_bytes)
}

/// The generation number of nftables in this network namespace: if it is the same, nothing has
/// changed. None if the kernel does not report it.
pub fn generation() -> Option<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER).ok()?;
    socket.bind_auto().ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    socket.send(&request(NFT_MSG_GETGEN, NLM_F_REQUEST, 0), 0).ok()?;
    let mut buffer = Vec::with_capacity(MAX_REPLY_BYTES);
    socket.recv(&mut buffer, 0).ok()?;
    let answer =
        messages(&buffer).find(|message| message.kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN)?;
    let value = attribute(answer.payload.get(NFGENMSG..)?, NFTA_GEN_ID)?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Calls `each` for all tables, or all chains, of the family `netdev`; none if the kernel has no
/// nftables.
fn dump(message: u16, each: impl FnMut(&[u8])) -> io::Result<()> {
    match dump_all(message, each) {
        // No nfnetlink, or no nftables in it.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

fn dump_all(message: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(message, NLM_F_REQUEST | NLM_F_DUMP, NFPROTO_NETDEV), 0)?;
    let mut buffer = Vec::with_capacity(MAX_REPLY_BYTES);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        for message in messages(&buffer) {
            if message.flags & NLM_F_DUMP_INTR != 0 {
                // Others changed nftables meanwhile: something may be missing.
                return Err(Errno::INTR.into());
            }
            match message.kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = u32_at(message.payload, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                kind if is_table_message(kind) => each(message.payload),
                _ => {}
            }
        }
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg`.
fn request(message: u16, flags: u16, family: u8) -> Vec<u8> {
    let length = u32::try_from(HEADER + NFGENMSG).unwrap_or_default();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend((NFNL_SUBSYS_NFTABLES << 8 | message).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes
}
