//! A real DHCP server on a link of the world, and a capture of the guests' requests.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use super::OwnedChild;
use super::World;

/// dnsmasq(8), which serves one link until dropped.
pub(crate) struct DhcpServer {
    _child: OwnedChild,
    log: PathBuf,
}

impl DhcpServer {
    /// Serves addresses of 10.0.0.0/24 on `link`, whose own address becomes 10.0.0.1.
    pub(crate) fn at(world: &World, link: &str) -> Self {
        Self::with(world, link, &[])
    }

    /// The same, with more options.
    pub(crate) fn with(world: &World, link: &str, options: &[&str]) -> Self {
        world.ip(&format!("address add 10.0.0.1/24 dev {link}"));
        let log = world.path("dhcp.log");
        let file = File::create(&log).expect("a file");
        let child = Command::new("/usr/sbin/dnsmasq")
            .args(["--no-daemon", "--conf-file=/dev/null", "--user=root", "--group=root", "--port=0"])
            .args([
                "--log-dhcp",
                "--no-ping",
                "--dhcp-authoritative",
                "--dhcp-range=10.0.0.100,10.0.0.199,1h",
            ])
            .args(options)
            .arg(format!("--interface={link}"))
            .arg(format!("--dhcp-leasefile={}", world.path("leases").display()))
            .arg(format!("--pid-file={}", world.path("dhcp.pid").display()))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .spawn()
            .expect("dnsmasq runs: the package dnsmasq-base has it");
        Self { _child: child.into(), log }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("dnsmasq's log")
    }

    /// The address of this MAC, once its guest has accepted it.
    pub(crate) fn leased(&self, mac: &str) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("DHCPACK") && line.contains(mac))?;
        line.split_whitespace().find(|word| word.starts_with("10.0.0.")).map(str::to_owned)
    }
}

/// Captures every frame on every link of the world.
pub(crate) struct PacketCapture(OwnedFd);

impl PacketCapture {
    pub(crate) fn new() -> Self {
        // ETH_P_ALL of linux/if_ether.h, in network order (packet(7)).
        let all = NonZeroU32::new(u32::from(3_u16.to_be())).map(Protocol::from_raw);
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, all);
        Self(socket.expect("a packet socket"))
    }

    /// Waits for a DHCP message from this MAC.
    pub(crate) fn saw_dhcp_from(&self, mac: [u8; 6]) -> bool {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a time");
            if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)).expect("a poll") == 0 {
                return false;
            }
            let mut frame = [0; 2048];
            let (length, _) = recv(&self.0, &mut frame, RecvFlags::empty()).expect("a frame");
            if is_dhcp_from(mac, &frame[..length]) {
                return true;
            }
        }
    }
}

/// Whether a frame is a DHCP request: Ethernet, IPv4 without options, UDP from port 68 to 67, a
/// BOOTREQUEST of Ethernet (RFC 2131).
fn is_dhcp_from(mac: [u8; 6], frame: &[u8]) -> bool {
    frame.len() > 42
        && frame[6..12] == mac
        && frame[12..15] == [0x08, 0x00, 0x45]
        && frame[23] == 17
        && frame[34..38] == [0, 68, 0, 67]
        && frame[42..44] == [1, 1]
}
