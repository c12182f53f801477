//! An rtnetlink socket: a request, its replies, its acknowledgement.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use super::LinkError;
use crate::netlink::{HEADER, Message, split, u32_at};

/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): the kernel's error message, a C string.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// `NLM_F_ACK_TLVS`: attributes follow the acknowledged header.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel's largest reply, in bytes (`netlink_dump()` stops at 32 KiB).
const RECEIVE_BUFFER_BYTES: usize = 32 * 1024;

/// How often a list is read again that changed meanwhile. Reading a thousand links takes some
/// milliseconds, and a host on which many guests start makes new ones all the time.
const MAX_DUMPS: u32 = 100;

/// The kernel refused a request.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) reason: Option<String>,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failed {
    Refused(Refusal),
    Broken(LinkError),
}

impl From<LinkError> for Failed {
    fn from(error: LinkError) -> Self {
        Self::Broken(error)
    }
}

/// The replies to a request.
#[derive(Debug, Default)]
struct Answers {
    payloads: Vec<Vec<u8>>,
    /// They are of a list that changed meanwhile.
    interrupted: bool,
}

#[derive(Debug)]
pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, LinkError> {
        let fail = |source| LinkError::Socket { action: "open", source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail)?;
        socket.bind_auto().map_err(fail)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        // Without CAP_ACK, a refusal contains the whole request, before the kernel's message.
        socket.set_cap_ack(true).map_err(fail)?;
        socket.set_ext_ack(true).map_err(fail)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BUFFER_BYTES) })
    }

    /// Asks for a list, again if it changed while the kernel wrote it: something could be missing. The
    /// kernel says so of links; of other lists it need not.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<Vec<u8>>, Failed> {
        for _ in 0..MAX_DUMPS {
            let answers = self.exchange(message.clone(), NLM_F_DUMP)?;
            if !answers.interrupted {
                return Ok(answers.payloads);
            }
        }
        Err(LinkError::Changing { times: MAX_DUMPS }.into())
    }

    /// Sends one request and returns the payloads of its replies, once it is acknowledged.
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<Vec<u8>>, Failed> {
        self.exchange(message, flags).map(|answers| answers.payloads)
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<Answers, Failed> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|source| LinkError::Socket { action: "send", source })?;

        let mut answers = Answers::default();
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Some((message, after)) = first(rest)? {
                rest = after;
                // A late reply to an earlier request, after an interrupted receive.
                if message.sequence != self.sequence {
                    continue;
                }
                answers.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if message.kind == NLMSG_DONE {
                    // The end of a dump, which has no other acknowledgement.
                    return Ok(answers);
                }
                if message.kind != NLMSG_ERROR {
                    answers.payloads.push(message.payload.to_vec());
                    continue;
                }
                return match refusal(&message)? {
                    None => Ok(answers),
                    Some(refusal) => Err(Failed::Refused(refusal)),
                };
            }
        }
    }

    fn receive(&mut self) -> Result<(), LinkError> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LinkError::Socket { action: "receive", source }),
            }
        }
    }
}

/// Splits the first message off a datagram.
fn first(bytes: &[u8]) -> Result<Option<(Message<'_>, &[u8])>, LinkError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let short = || LinkError::Answer { what: format!("a message of {} bytes is cut short", bytes.len()) };
    split(bytes).map(Some).ok_or_else(short)
}

/// Reads an `NLMSG_ERROR`: error 0 is the acknowledgement.
fn refusal(message: &Message<'_>) -> Result<Option<Refusal>, LinkError> {
    let short = || LinkError::Answer { what: "an acknowledgement is cut short".into() };
    let code = u32_at(message.payload, 0).ok_or_else(short)?.cast_signed();
    if code == 0 {
        return Ok(None);
    }
    let attributes = match message.payload.get(4 + HEADER..) {
        Some(bytes) if message.flags & NLM_F_ACK_TLVS != 0 => bytes,
        _ => &[],
    };
    let reason = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned());
    Ok(Some(Refusal { errno: Errno::from_raw_os_error(code.saturating_neg()), reason }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nack(words: &[u8]) -> Vec<u8> {
        let attribute = u16::try_from(4 + words.len()).unwrap();
        let mut payload = (-22_i32).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend(attribute.to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(words);
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend(NLM_F_ACK_TLVS.to_ne_bytes());
        bytes.extend(5_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let bytes = nack(b"mtu greater than device maximum\0");
        let (message, rest) = first(&bytes).unwrap().unwrap();
        assert_eq!((message.kind, message.sequence, rest.len()), (NLMSG_ERROR, 5, 0));
        let refusal = refusal(&message).unwrap().unwrap();
        assert_eq!(refusal.errno, Errno::INVAL);
        assert_eq!(refusal.reason.as_deref(), Some("mtu greater than device maximum"));
    }

    #[test]
    fn a_message_cut_short_is_an_error_and_no_panic() {
        let bytes = nack(b"no\0");
        for length in 1..bytes.len() {
            assert!(first(&bytes[..length]).is_err(), "{length}");
        }
        assert!(first(&[]).unwrap().is_none());
        let empty = Message { kind: NLMSG_ERROR, flags: 0, sequence: 1, payload: &[] };
        assert!(refusal(&empty).is_err());
    }
}
