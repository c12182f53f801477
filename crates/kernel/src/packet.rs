//! Packet sockets (packet(7)) that see the frames by which an interface's addresses are learnt, and
//! no others.
//!
//! The kernel's filter on the socket is set before the socket is bound, and locked: no other frame
//! ever gets into it, and its holder can't change that.

#![allow(clippy::cast_possible_truncation, reason = "constants of headers, in fields of their structs")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::socket_filter::{self, step};

/// The frames that a socket sees. All are untagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// IPv4 without options, not fragmented, with UDP between ports 67 and 68.
    Dhcp,
    /// ARP and IPv4.
    ArpAndIpv4,
}

/// A frame that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedFrame {
    /// Its bytes that are in the buffer.
    pub length: usize,
    /// The interface sent it; otherwise the interface received it. The kernel says so, not the
    /// frame.
    pub outgoing: bool,
}

// linux/if_ether.h, linux/filter.h, linux/in.h.
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_ARP: u32 = 0x0806;
const UDP: u32 = 17;
const SERVER_PORT: u32 = 67;
const CLIENT_PORT: u32 = 68;
/// More fragments, and the fragment's offset.
const FRAGMENT: u32 = 0x3FFF;
/// Version 4, and a header of five words: without options.
const PLAIN_IPV4: u32 = 0x45;
/// As much of a frame as is delivered.
const MAX_FRAME: u32 = 2048;

/// Opens a socket that sees these frames of an interface. Needs CAP_NET_RAW.
///
/// # Errors
///
/// The kernel refuses.
pub fn open_packet_socket(ifindex: u32, kind: FrameKind) -> io::Result<OwnedFd> {
    // Of no protocol: it receives nothing until it is bound.
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: only numbers.
    let number = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    let program = match kind {
        FrameKind::Dhcp => dhcp(),
        FrameKind::ArpAndIpv4 => arp_and_ipv4(),
    };
    socket_filter::attach(socket.as_fd(), program)?;
    socket_filter::lock(socket.as_fd())?;

    // SAFETY: all-zero bytes are a sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    // Frames that the interface sends are delivered to sockets of all protocols alone.
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads one live sockaddr_ll, as long as `size` says.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Receives a frame; `None` if there is none now. What does not fit into the buffer is cut off.
///
/// # Errors
///
/// recvfrom(2) fails; ENETDOWN once when the interface went down.
pub fn receive_frame(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<ReceivedFrame>> {
    // SAFETY: all-zero bytes are a sockaddr_ll.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes into the live buffer and address, as long as their lengths say.
    let received = unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    match usize::try_from(received) {
        Ok(length) => Ok(Some(ReceivedFrame { length, outgoing: from.sll_pkttype == libc::PACKET_OUTGOING })),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            error => Err(error),
        },
    }
}

/// What a program of the kernel's filter reads of a frame.
#[derive(Debug, Clone, Copy)]
enum Load {
    Byte(u32),
    Half(u32),
    Word(u32),
    /// 1 if the kernel holds a VLAN tag of the frame beside it, and 0 otherwise.
    TagPresent,
}

impl Load {
    fn step(self) -> libc::sock_filter {
        let (size, offset) = match self {
            Self::Byte(offset) => (libc::BPF_B, offset),
            Self::Half(offset) => (libc::BPF_H, offset),
            Self::Word(offset) => (libc::BPF_W, offset),
            Self::TagPresent => {
                (libc::BPF_B, (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT).cast_unsigned())
            }
        };
        step(libc::BPF_LD | size | libc::BPF_ABS, 0, 0, offset)
    }
}

/// What that must be.
#[derive(Debug, Clone, Copy)]
enum Test {
    OneOf([u32; 2]),
    WithoutBits(u32),
}

const fn is(value: u32) -> Test {
    Test::OneOf([value; 2])
}

fn dhcp() -> Vec<libc::sock_filter> {
    let ports = |source: u32, destination: u32| source << 16 | destination;
    program(&[
        (Load::Half(12), is(ETHERTYPE_IPV4)),
        (Load::TagPresent, is(0)),
        (Load::Byte(14), is(PLAIN_IPV4)),
        (Load::Byte(23), is(UDP)),
        (Load::Half(20), Test::WithoutBits(FRAGMENT)),
        (Load::Word(34), Test::OneOf([ports(SERVER_PORT, CLIENT_PORT), ports(CLIENT_PORT, SERVER_PORT)])),
    ])
}

fn arp_and_ipv4() -> Vec<libc::sock_filter> {
    program(&[(Load::Half(12), Test::OneOf([ETHERTYPE_IPV4, ETHERTYPE_ARP])), (Load::TagPresent, is(0))])
}

/// A program that delivers the frames which pass all tests.
fn program(tests: &[(Load, Test)]) -> Vec<libc::sock_filter> {
    // Each test takes three steps; a frame that fails jumps behind the last test, to the end.
    let jump = |condition, jt, jf, value| step(libc::BPF_JMP | condition | libc::BPF_K, jt, jf, value);
    let mut steps = Vec::new();
    for (number, (load, test)) in tests.iter().enumerate() {
        let rest = tests.len() - number - 1;
        // Over the steps of the rest, and the delivery.
        let fail = u8::try_from(3 * rest + 1).unwrap_or(u8::MAX);
        steps.push(load.step());
        match *test {
            Test::OneOf([first, second]) => {
                steps.push(jump(libc::BPF_JEQ, 1, 0, first));
                steps.push(jump(libc::BPF_JEQ, 0, fail, second));
            }
            Test::WithoutBits(bits) => {
                steps.push(jump(libc::BPF_JSET, 0, 1, bits));
                steps.push(jump(libc::BPF_JA, 0, 0, fail.into()));
            }
        }
    }
    steps.extend([MAX_FRAME, 0].map(|length| step(libc::BPF_RET | libc::BPF_K, 0, 0, length)));
    steps
}
