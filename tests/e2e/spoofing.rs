//! A Linux guest that spoofs, and what its filter lets pass: the cases of libvirt-tck's
//! `scripts/nwfilter`, redone with filters of the same names. Each is tried without its filter,
//! too, which shows that the frames would have arrived.

use std::fs;

use crate::linux_guest::system::{Shell, System, ping};
use crate::world::World;
use crate::world::dhcp::DhcpServer;

const MAC: &str = "52:54:00:00:00:02";
const ADDRESS: &str = "10.0.0.2";
const HOST: &str = "10.0.0.1";

/// What the guest pretends to have.
const OTHER_MAC: &str = "52:54:00:f9:21:22";
const OTHER_ADDRESS: &str = "10.0.0.77";

/// Whether the guest reaches an address.
fn reaches(shell: &mut Shell, address: &str) -> bool {
    shell.run(&format!("ping -c 3 -i 0.3 -W 2 {address}")).0
}

/// Whether it reaches its host with another MAC, which it then gives up.
fn reaches_with_another_mac(shell: &mut Shell) -> bool {
    let mut set = |mac| {
        shell.ok(&format!("ip link set eth0 down && ip link set eth0 address {mac} && ip link set eth0 up"));
        reaches(shell, HOST)
    };
    let reached = set(OTHER_MAC);
    assert!(set(MAC), "its own MAC is no longer let through");
    reached
}

/// The same with another address.
fn reaches_with_another_address(shell: &mut Shell) -> bool {
    let mut set = |from, to| {
        shell.ok(&format!("ip address del {from}/24 dev eth0 && ip address add {to}/24 dev eth0"));
        reaches(shell, HOST)
    };
    let reached = set(ADDRESS, OTHER_ADDRESS);
    assert!(set(OTHER_ADDRESS, ADDRESS), "its own address is no longer let through");
    reached
}

/// Whether its host believes that it has another address, because it says so by ARP.
fn poisons(world: &World, shell: &mut Shell) -> bool {
    // Its status tells whether somebody answered, and nobody does.
    shell.run(&format!("arping -A -c 3 -I eth0 -s {OTHER_ADDRESS} {OTHER_ADDRESS}"));
    let known = world.ip(&format!("neighbour show {OTHER_ADDRESS} dev br0"));
    world.ip("neighbour flush dev br0");
    known.contains(MAC)
}

// Shows 2.16, 2.40.
#[test]
fn a_linux_guest_can_not_spoof() {
    let world = World::new();
    let _server = DhcpServer::with(&world, "br0", &[&format!("--dhcp-host={MAC},{ADDRESS}")]);
    // The host answers to pings of all, and believes unasked answers.
    fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_broadcasts", "0").unwrap();
    fs::write("/proc/sys/net/ipv4/conf/br0/arp_accept", "1").unwrap();
    let system = System::new(&world);
    let learns = format!("filter=clean-traffic,ip-learning=dhcp,dhcpserver={HOST}");
    let nic = format!("bridge=br0,mac={MAC},vhost=off,{learns}");
    // Without KVM, which may be there and not work where machines are virtual themselves.
    let guest = system.start(&world, &nic, "tcg", &[]);
    system.wait_for_line(&format!("nic eth0 {MAC} {ADDRESS} queues=1"), 1);
    let shell = &mut system.shell();

    // 100-ping-still-working: not before the guest was given an address, though it has set it.
    assert!(!reaches(shell, HOST), "an address that nobody gave it");
    shell.ok("udhcpc -q -n -t 10 -i eth0 -s /bin/true");
    world.until("its lease is in force", || world.ruleset().contains(&format!("ip saddr {ADDRESS} return")));
    assert!(reaches(shell, HOST));
    ping(ADDRESS);

    assert!(!reaches_with_another_mac(shell), "210-no-mac-spoofing");
    assert!(!reaches_with_another_address(shell), "220-no-ip-spoofing");
    assert!(!poisons(&world, shell), "240-no-arp-spoofing");

    // 230-no-mac-broadcast
    let set = |filter: &str| world.taptrail(["set-filter", "web1", MAC, filter]).ok();
    set(&format!("clean-traffic,ip={ADDRESS}"));
    assert!(reaches(shell, "10.0.0.255"));
    let path = world.path("broadcast.xml");
    let references = ["clean-traffic", "allow-arp", "no-mac-broadcast"];
    let references = references.map(|name| format!("<filterref filter='{name}'/>")).concat();
    fs::write(&path, format!("<filter name='broadcast'>{references}</filter>")).unwrap();
    set(&format!("{},ip={ADDRESS}", path.display()));
    assert!(!reaches(shell, "10.0.0.255"), "230-no-mac-broadcast");
    assert!(reaches(shell, HOST));

    set("none");
    assert!(reaches_with_another_mac(shell));
    assert!(reaches_with_another_address(shell));
    assert!(poisons(&world, shell));
    world.stop(&guest);
    world.assert_clean();
}
