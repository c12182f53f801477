//! Which interfaces have a filter of ours, asked of the kernel without `nft`: each start and attach
//! asks.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use super::ruleset::interface_of_table;
use crate::link::attribute;
use crate::netlink::{HEADER, messages, u32_at};

// linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
/// `NFT_MSG_NEWTABLE` to `NFT_MSG_DELRULE`: tables, chains and rules.
const TABLE_MESSAGES: std::ops::RangeInclusive<u16> = 0..=8;
const NFPROTO_NETDEV: u8 = 5;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and `NFTA_RULE_TABLE`.
const NFTA_TABLE: u16 = 1;
/// Bytes of `struct nfgenmsg`: family, version, resource.
const NFGENMSG: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// What the kernel allots for one answer at most (`netlink_dump()` stops at 32 KiB).
const MAX_ANSWER: usize = 32 * 1024;

/// Whether a message of nfnetlink's is about a table of nftables, or a chain or rule in one.
pub(crate) fn is_table_message(kind: u16) -> bool {
    kind >> 8 == NFNL_SUBSYS_NFTABLES && TABLE_MESSAGES.contains(&(kind & 0xFF))
}

/// The interface whose filter of ours a table message is about.
pub(crate) fn interface_of_message(payload: &[u8]) -> Option<u32> {
    if payload.first() != Some(&NFPROTO_NETDEV) {
        return None;
    }
    let name = attribute(payload.get(NFGENMSG..)?, NFTA_TABLE)?;
    interface_of_table(std::str::from_utf8(name).ok()?.trim_end_matches('\0'))
}

/// The interfaces of the calling thread's network namespace that have a filter of ours, by number;
/// they need not exist any more. None where the kernel has no nftables.
///
/// # Errors
/// When the kernel can't be asked.
pub fn filtered_interfaces() -> io::Result<BTreeSet<u32>> {
    match dump() {
        // No nfnetlink, or no nftables in it.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP)
            ) =>
        {
            Ok(BTreeSet::new())
        }
        found => found,
    }
}

/// The number of nftables' last change in this network namespace: where it is the same, nothing has changed. None where
/// the kernel does not tell.
pub fn generation() -> Option<u32> {
    let mut socket = Socket::new(NETLINK_NETFILTER).ok()?;
    socket.bind_auto().ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    socket.send(&request(NFT_MSG_GETGEN, NLM_F_REQUEST, 0), 0).ok()?;
    let mut buffer = Vec::with_capacity(MAX_ANSWER);
    socket.recv(&mut buffer, 0).ok()?;
    let answer =
        messages(&buffer).find(|message| message.kind == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN)?;
    let value = attribute(answer.payload.get(NFGENMSG..)?, NFTA_GEN_ID)?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn dump() -> io::Result<BTreeSet<u32>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(NFT_MSG_GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, NFPROTO_NETDEV), 0)?;
    let mut found = BTreeSet::new();
    let mut buffer = Vec::with_capacity(MAX_ANSWER);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        for message in messages(&buffer) {
            match message.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = u32_at(message.payload, 0).unwrap_or_default().cast_signed();
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                kind if is_table_message(kind) => found.extend(interface_of_message(message.payload)),
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
