//! Frames like a guest's, and a receiver for them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use taptrail_record::MacAddr;

/// IEEE Std 802 - Local Experimental Ethertype 1: no other program sends it.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xB5];
const ARP: [u8; 2] = [0x08, 0x06];
const VLAN: [u8; 2] = [0x81, 0x00];
/// The time limit for receiving a frame.
const PATIENCE: Duration = Duration::from_secs(2);

fn ethernet(source: MacAddr, kind: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend(source.0);
    frame.extend(kind);
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A broadcast frame of no protocol.
pub(crate) fn plain(source: MacAddr, mark: u8) -> Vec<u8> {
    ethernet(source, &EXPERIMENTAL, &[mark])
}

/// A gratuitous ARP request (RFC 826) that claims an address for `sender`.
pub(crate) fn arp(source: MacAddr, sender: MacAddr) -> Vec<u8> {
    ethernet(source, &ARP, &arp_payload(sender))
}

/// The same inside a VLAN.
pub(crate) fn tagged_arp(source: MacAddr, sender: MacAddr) -> Vec<u8> {
    let mut payload = vec![0, 5];
    payload.extend(ARP);
    payload.extend(arp_payload(sender));
    ethernet(source, &VLAN, &payload)
}

fn arp_payload(sender: MacAddr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(sender.0);
    arp.extend([10, 9, 8, 7, 0, 0, 0, 0, 0, 0, 10, 9, 8, 7]);
    arp
}

/// A frame as a packet socket receives it: without its tag, which is in the metadata.
fn untagged(frame: &[u8]) -> Vec<u8> {
    match frame.get(12..14) {
        Some(kind) if kind == VLAN => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

/// Receives all frames that arrive at one interface.
pub(crate) struct Ear(OwnedFd);

impl Ear {
    #[allow(clippy::cast_possible_truncation)] // The system's constants are wider than its struct.
    pub(crate) fn at(ifindex: u32) -> Self {
        let all = libc::ETH_P_ALL as u16;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all.to_be();
        address.sll_ifindex = ifindex as i32;
        // SAFETY: the address is a sockaddr_ll of the length given.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        Self(socket)
    }

    /// Sends these frames, and then a last one that passes; returns which of them are received.
    pub(crate) fn hear(&self, device: impl AsFd, frames: &[Vec<u8>], last: &[u8]) -> Vec<bool> {
        for frame in frames.iter().map(Vec::as_slice).chain([last]) {
            assert_eq!(rustix::io::write(&device, frame), Ok(frame.len()));
        }
        let mut heard = vec![false; frames.len()];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.next(deadline).expect("the last frame is not heard");
            if frame == last {
                return heard;
            }
            if let Some(at) = frames.iter().position(|sent| *sent == frame || untagged(sent) == frame) {
                heard[at] = true;
            }
        }
    }

    fn next(&self, deadline: Instant) -> Option<Vec<u8>> {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)).unwrap() == 0 {
            return None;
        }
        let mut buffer = vec![0; 2048];
        let (length, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()).unwrap();
        buffer.truncate(length);
        Some(buffer)
    }
}
