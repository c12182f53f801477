//! What an interface sets on the host's side, at a guest's start and hot-plugged: limits, addresses,
//! scripts, ports of Open vSwitch; and the link that the guest sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use taptrail_ledger::Ledger;

use crate::world::OwnedChild;
use crate::world::qmp::{self, Qmp};
use crate::world::{EMPTY, Guest, World, mac};

/// Runs a program that must succeed, and returns what it prints.
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(program: &str, args: &str) -> Value {
    let args: Vec<&str> = args.split(' ').collect();
    serde_json::from_str(&output(program, &args)).unwrap()
}

/// An executable script of the test's.
fn script(world: &World, name: &str, text: &str) -> String {
    let path = world.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

// Shows 2.19, 2.20, 2.21, 2.22.
#[test]
fn the_kernel_has_what_an_interface_sets() {
    let world = World::new();
    let set = |last| {
        format!(
            "new-tap=on,mac={},inbound=1000:4000:1024,rx-frames=7,host-ip=192.0.2.{last}@192.0.2.1{last}/32,\
             host-route=198.51.{last}.0/24@192.0.2.1{last}",
            mac(last)
        )
    };
    let guest = world.start("web1", &["--nic", &set(1)]);
    world.attach(&guest, &set(2)).ok();
    for (name, last) in [("vnet0", 1), ("vnet1", 2)] {
        let class = output("/usr/sbin/tc", &["class", "show", "dev", name]);
        assert!(class.contains("rate 8Mbit ceil 32Mbit"), "{class}");
        let frames = output("/usr/sbin/ethtool", &["-c", name]);
        assert!(frames.lines().any(|line| line.starts_with("rx-frames:") && line.ends_with('7')), "{frames}");
        let addresses = json_of("/sbin/ip", &format!("-j addr show dev {name}"));
        let first = &addresses[0]["addr_info"][0];
        assert_eq!(
            (&first["local"], &first["address"]),
            (&json!(format!("192.0.2.{last}")), &json!(format!("192.0.2.1{last}")))
        );
        let route = world.ip(&format!("route show 198.51.{last}.0/24"));
        assert!(route.contains(&format!("via 192.0.2.1{last} dev {name}")), "{route}");
    }
    world.detach(&guest, 2, &[]).ok();
    world.stop(&guest);
    world.assert_clean();
    assert_eq!(world.ip("route show"), "");
}

/// The bytes that may wait in the socket of a tap's descriptor in QEMU (`TUNGETSNDBUF`).
fn send_buffer(guest: &Guest, fd: i64) -> i64 {
    let program = "import ctypes, fcntl, os, struct, sys\n\
                   pid, fd = map(int, sys.argv[1:])\n\
                   copy = ctypes.CDLL(None).syscall(438, os.pidfd_open(pid), fd, 0)\n\
                   print(struct.unpack('i', fcntl.ioctl(copy, 0x800454d3, bytes(4)))[0])";
    output("/usr/bin/python3", &["-c", program, &guest.pid.to_string(), &fd.to_string()])
        .trim()
        .parse()
        .unwrap()
}

// Shows 5.42.
#[test]
fn qemu_gives_a_taps_socket_its_size() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,sndbuf=16000"]);
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:02,sndbuf=17000").ok();
    let nics = world.nics(&guest);
    for (index, bytes) in [(0, 16_000), (1, 17_000)] {
        let fd = nics[index]["devices"][0]["qemu_fd"].as_i64().unwrap_or_else(|| panic!("{nics}"));
        assert_eq!(send_buffer(&guest, fd), bytes, "{nics}");
    }
    world.stop(&guest);
}

/// Whether an e1000 shows its guest a carrier: the bit `LU` of its register `STATUS`, at the address
/// that the firmware gave it.
pub(crate) fn has_carrier(world: &World, qmp: &mut Qmp, id: &str) -> bool {
    let mut monitor = |line: &str| {
        let answer = qmp.execute("human-monitor-command", json!({ "command-line": line }));
        answer.as_str().unwrap().to_owned()
    };
    let mut address = None;
    world.until("the firmware gives the NIC an address", || {
        let devices = monitor("info pci");
        let of_nic = devices
            .split("\n  Bus")
            .find(|device| device.contains(&format!("id \"{id}\"")))
            .unwrap_or_default()
            .to_owned();
        let bar = of_nic
            .split("BAR0: 32 bit memory at 0x")
            .nth(1)
            .map(|rest| rest.split(' ').next().unwrap().to_owned());
        address =
            bar.and_then(|bar| u64::from_str_radix(&bar, 16).ok()).filter(|at| *at != 0 && *at < 0xffff_0000);
        address.is_some()
    });
    let shown = monitor(&format!("xp /1wx {:#x}", address.unwrap() + 8));
    let value = shown.trim().rsplit("0x").next().unwrap().to_owned();
    u32::from_str_radix(&value, 16).unwrap() & 2 != 0
}

// Shows 2.24.
#[test]
fn a_link_that_is_down_has_no_carrier_for_its_guest() {
    let world = World::new();
    let socket = world.path("qmp");
    let option = qmp::option(&socket);
    let qemu: Vec<&str> = EMPTY.into_iter().chain(["-qmp", &option]).collect();
    let nic = |last: u8, state: &str| format!("bridge=br0,mac={},model=e1000,link={state}", mac(last));
    let guest = world.start_with("web1", &["--nic", &nic(1, "down"), "--nic", &nic(2, "up")], &qemu);
    world.attach(&guest, &nic(3, "down")).ok();
    let mut qmp = Qmp::connect(socket);
    // The firmware finds the hot-plugged NIC, too.
    qmp.execute("system_reset", json!({}));
    for (id, carrier) in [("nic0", false), ("nic1", true), ("nic2", false)] {
        assert_eq!(has_carrier(&world, &mut qmp, id), carrier, "{id}");
    }
    world.stop(&guest);
    world.assert_clean();
}

// Shows 6.8.
#[test]
fn a_nic_has_its_place_on_the_root_bus() {
    let world = World::new();
    let socket = world.path("qmp");
    let option = qmp::option(&socket);
    let nic = |last: u8, place: &str| format!("bridge=br0,mac={},address={place}", mac(last));
    for machine in ["pc", "q35"] {
        let kind = format!("{machine},accel=tcg");
        let qemu: Vec<&str> =
            EMPTY.into_iter().map(|word| if word.starts_with("q35") { &kind } else { word }).collect();
        let qemu: Vec<&str> = qemu.into_iter().take(8).chain(["-qmp", &option]).collect();
        let guest = world.start_with(machine, &["--nic", &nic(1, "07"), "--nic", "bridge=br0"], &qemu);
        let mut qmp = Qmp::connect(socket.clone());
        let hot = world.attach(&guest, &nic(2, "0a"));
        // Nothing can be plugged into the root bus of PCI Express.
        assert_eq!(hot.success(), machine == "pc", "{}", hot.stderr);
        let taken = world.attach(&guest, &nic(3, "7.0"));
        assert!(!taken.success(), "{}", taken.stdout);
        let buses = qmp.execute("query-pci", json!({}));
        let devices = buses[0]["devices"].as_array().unwrap();
        let slot = |id: &str| {
            devices
                .iter()
                .find(|device| device["qdev_id"] == id)
                .map(|device| device["slot"].as_u64().unwrap())
        };
        assert_eq!(slot("nic0"), Some(7), "{buses}");
        assert_eq!(slot("nic2").or(slot("nic3")), (machine == "pc").then_some(10), "{buses}");
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 5.48, 6.8.
#[test]
fn a_machine_without_pci_has_memory_mapped_nics_from_its_start_only() {
    let world = World::new();
    let qemu = ["qemu-system-x86_64", "-machine", "microvm,accel=tcg", "-m", "32", "-nodefaults"];
    let qemu: Vec<&str> = qemu.into_iter().chain(["-display", "none"]).collect();
    for (place, bus) in [("address=05", "on a PCI bus"), ("devno=fe.0.0001", "in the channel subsystem")] {
        let refused = world.try_start("micro", &["--nic", &format!("bridge=br0,{place}")], &qemu);
        assert!(!refused.success(), "{}", refused.stdout);
        let key = place.split('=').next().unwrap();
        let reason = format!("'{key}' is a place {bus}, which this machine does not have");
        assert!(refused.stderr.contains(&reason), "{}", refused.stderr);
    }
    let first = format!("bridge=br0,mac={},queues=2,mtu=1400", mac(1));
    let guest = world.start_with("micro", &["--nic", &first], &qemu);
    let nics = world.json(["nics", "micro", "--json"]);
    assert_eq!(nics[0]["model"], "virtio-net-device", "{nics}");
    // Another supervisor knows the machine from QEMU.
    world.kill_supervisor("micro");
    world.taptrail(["adopt", "micro", "--background"]).ok();
    let refused = world.attach(&guest, &format!("bridge=br0,mac={},address=05", mac(2)));
    assert!(
        refused.stderr.contains("'address' is a place on a PCI bus, which this machine does not have"),
        "{}",
        refused.stderr
    );
    let refused = world.attach(&guest, &format!("bridge=br0,mac={}", mac(2)));
    assert!(refused.stderr.contains("hotplug"), "{}", refused.stderr);
    let nics = world.json(["nics", "micro", "--json"]);
    assert_eq!(nics.as_array().map(Vec::len), Some(1), "{nics}");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 1.20, 1.21.
#[test]
fn scripts_are_run_with_the_interfaces_name_and_released_with_it() {
    let world = World::new();
    let said = world.path("said");
    let up = format!(
        "ip link set $1 master br0; echo up $1 $(sed -n 's/^CapEff:.//p' /proc/self/status) >> {}",
        said.display()
    );
    let up = script(&world, "up", &up);
    let down = script(&world, "down", &format!("echo down $# $1 >> {}", said.display()));
    let spec = |last: u8| format!("new-tap=on,mac={},script={up},downscript={down}", mac(last));
    let guest = world.start("web1", &["--nic", &spec(1)]);
    assert_eq!(world.link("vnet0")["master"], "br0");
    world.attach(&guest, &spec(2)).ok();
    assert_eq!(world.link("vnet1")["master"], "br0", "it may configure links after the start, too");
    world.detach(&guest, 2, &[]).ok();
    // CAP_NET_ADMIN alone, both times.
    assert_eq!(
        fs::read_to_string(&said).unwrap(),
        "up vnet0 0000000000001000\nup vnet1 0000000000001000\ndown 1 vnet1\n"
    );
    // Nobody stops it: its supervisor is killed, and then QEMU.
    world.kill_supervisor("web1");
    let qemu = taptrail_kernel::proc::ProcessId::of(guest.pid).unwrap();
    let qemu = taptrail_kernel::proc::PidFd::open(qemu).unwrap();
    qemu.send_signal(taptrail_kernel::proc::Signal::KILL).unwrap();
    assert!(qemu.wait_exit(std::time::Duration::from_secs(60)).unwrap());
    world.taptrail(["recover"]).ok();
    assert_eq!(fs::read_to_string(&said).unwrap().lines().last(), Some("down 1 vnet0"));
    world.assert_clean();
}

// Shows 1.21.
#[test]
fn a_script_that_fails_leaves_an_open_that_was_never_granted() {
    let world = World::new();
    let said = world.path("said");
    let up = script(&world, "up", "echo no such bridge >&2; exit 3");
    let down = script(&world, "down", &format!("echo down $1 >> {}", said.display()));
    let spec = format!("new-tap=on,mac={},vhost=off,script={up},downscript={down}", mac(1));
    let refused = world.try_start("web1", &["--nic", &spec], &EMPTY);
    assert!(!refused.success());
    let expected = format!("{up} failed (exit status: 3): no such bridge");
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01 FAILED", "close 01 tun vnet0 q0", "guest booted FAILED"]
    );
    assert_eq!(fs::read_to_string(&said).unwrap(), "down vnet0\n");

    let guest = world.start("web2", &[]);
    let refused = world.attach(&guest, &spec);
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
    assert_eq!(guest.holds(), Vec::<String>::new());
    // A file that others could change never runs, and nothing is opened.
    let before = world.records().len();
    fs::set_permissions(&up, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = world.attach(&guest, &spec);
    assert!(refused.stderr.contains("others than its owner can write to it"), "{}", refused.stderr);
    let after: Vec<String> = world.record_lines().split_off(before);
    assert!(!after.iter().any(|line| line.starts_with("open")), "{after:?}");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 6.2, 6.7.
#[test]
fn libvirts_xml_sets_the_hosts_side_too() {
    let world = World::new();
    let up = script(&world, "up", "test \"$1\" = vnet0");
    let xml = format!(
        "<interface type='ethernet'><mac address='{}'/><target dev='vnet7'/><model type='virtio'/>\
         <source><ip address='192.0.2.1' prefix='24'/></source><script path='{up}'/>\
         <bandwidth><inbound average='500'/></bandwidth><coalesce><rx><frames max='5'/></rx></coalesce></interface>",
        mac(1)
    );
    fs::write(world.path("nic.xml"), xml).unwrap();
    let guest = world.start("web1", &[]);
    let file = world.path("nic.xml");
    world.taptrail(["attach", "web1", "--xml", file.to_str().unwrap()]).ok();
    let addresses = json_of("/sbin/ip", "-j addr show dev vnet0");
    assert_eq!(addresses[0]["addr_info"][0]["local"], "192.0.2.1", "{addresses}");
    let class = output("/usr/sbin/tc", &["class", "show", "dev", "vnet0"]);
    assert!(class.contains("rate 4Mbit"), "{class}");
    world.stop(&guest);
    world.assert_clean();
}

/// Open vSwitch with its userspace datapath, which needs no kernel module, in this test's network and
/// with its own `/run/openvswitch`.
pub(crate) struct OpenVswitch {
    _programs: Vec<OwnedChild>,
}

impl OpenVswitch {
    pub(crate) fn start(world: &World) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        output("/bin/mount", &["--make-rprivate", "/"]);
        fs::create_dir_all("/run/openvswitch").unwrap();
        output("/bin/mount", &["-t", "tmpfs", "ovs", "/run/openvswitch"]);
        let (database, socket) = ("/run/openvswitch/conf.db", PathBuf::from("/run/openvswitch/db.sock"));
        output("/usr/bin/ovsdb-tool", &["create", database, "/usr/share/openvswitch/vswitch.ovsschema"]);
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            OwnedChild::from(command.spawn().unwrap())
        };
        let remote = format!("--remote=punix:{}", socket.display());
        let server = run("/usr/sbin/ovsdb-server", &[database, &remote]);
        let mut programs = vec![server];
        world.until("ovsdb-server listens", || socket.exists());
        programs.push(run("/usr/sbin/ovs-vswitchd", &[&format!("unix:{}", socket.display())]));
        let ovs = Self { _programs: programs };
        ovs.vsctl(&["add-br", "ovs0", "--", "set", "bridge", "ovs0", "datapath_type=netdev"]);
        ovs
    }

    pub(crate) fn vsctl(&self, args: &[&str]) -> String {
        let all: Vec<&str> = ["--timeout=20"].into_iter().chain(args.iter().copied()).collect();
        output("/usr/bin/ovs-vsctl", &all).trim().to_owned()
    }
}

// Shows 1.21.
#[test]
fn what_a_script_leaves_running_is_logged() {
    let world = World::new();
    let pid = world.path("pid");
    let text = format!("sleep 300 >/dev/null 2>&1 &\necho $! > {}", pid.display());
    let up = script(&world, "up", &text);
    let guest = world.start("web1", &["--nic", &format!("new-tap=on,mac={},script={up}", mac(1))]);
    let pid = fs::read_to_string(pid).unwrap().trim().to_owned();
    let log = world.log("web1");
    let logged = log.lines().find(|line| line.contains("processes that it began run on")).unwrap_or_default();
    assert!(logged.contains(&format!("(pid {pid})")), "{log}");
    output("/bin/kill", &["-KILL", &pid]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.25, 11.7.
#[test]
fn a_port_of_open_vswitch_goes_with_the_hosts_boot_and_under_another_name() {
    let world = World::new();
    let ovs = OpenVswitch::start(&world);
    let spec = |last: u8| format!("bridge=ovs0,mac={},vhost=off,ovs=on", mac(last));
    let guest = world.start("web1", &["--nic", &spec(1)]);
    world.ip("link set vnet0 name uplink");
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "vnet0");
    world.stop(&guest);
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "");

    let guest = world.start("web1", &["--nic", &spec(2), "--nic", "bridge=br0"]);
    ovs.vsctl(&["add-port", "ovs0", "other0", "--", "set", "Interface", "other0", "type=internal"]);
    world.kill_supervisor("web1");
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    // As after a reboot: links are gone, and Open vSwitch has its database.
    let ledger = rusqlite::Connection::open(Ledger::file(&world.state())).unwrap();
    ledger.execute("UPDATE guest SET boot_id = 'another' WHERE ended IS NULL", []).unwrap();
    drop(ledger);
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "other0\nvnet0");
    assert_eq!(world.json(["recover", "--json"])[0]["state"], "closed");
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "other0");
    assert_eq!(world.open_accounts(), (0, 0));
}

// Shows 2.25.
#[test]
fn a_tap_is_a_port_of_open_vswitch_while_it_is_held() {
    let world = World::new();
    let ovs = OpenVswitch::start(&world);
    let id = "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f";
    let spec = |last: u8, more: &str| format!("bridge=ovs0,mac={},{more}", mac(last));
    let first = spec(1, &format!("vlan=42,trunk=7+8,vlan-mode=tagged,ovs={id},ovs-profile=web front"));
    let guest = world.start("web1", &["--nic", &first]);
    let ids = ovs.vsctl(&["get", "Interface", "vnet0", "external_ids"]);
    for expected in [
        format!("attached-mac=\"{}\"", mac(1)),
        format!("iface-id=\"{id}\""),
        "port-profile=\"web front\"".to_owned(),
        "iface-status=active".to_owned(),
    ] {
        assert!(ids.contains(&expected), "{expected}: {ids}");
    }
    let uuid = world.json(["list", "--json"])[0]["uuid"].as_str().unwrap().to_owned();
    assert!(ids.contains(&format!("vm-id=\"{uuid}\"")), "{ids}");
    assert_eq!(
        ovs.vsctl(&["get", "Port", "vnet0", "tag", "trunks", "vlan_mode"]),
        "42\n[7, 8]\nnative-tagged"
    );
    assert_ne!(ovs.vsctl(&["get", "Interface", "vnet0", "ofport"]), "-1");
    assert_eq!(world.link("vnet0")["address"], "fe:54:00:00:00:01");

    let xml = format!(
        "<interface type='bridge'><mac address='{}'/><source bridge='ovs0'/><model type='virtio'/>\
         <virtualport type='openvswitch'/></interface>",
        mac(2)
    );
    fs::write(world.path("nic.xml"), xml).unwrap();
    let file = world.path("nic.xml");
    world.taptrail(["attach", "web1", "--xml", file.to_str().unwrap()]).ok();
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "vnet0\nvnet1");
    world.detach(&guest, 2, &[]).ok();
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "vnet0");

    // A port of somebody else's under its name is left alone.
    world.attach(&guest, &spec(3, "ovs=on")).ok();
    ovs.vsctl(&["set", "Interface", "vnet1", "external_ids:taptrail=another"]);
    world.detach(&guest, 3, &[]).ok();
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "vnet0\nvnet1");
    let refused = world.attach(&guest, &spec(3, "ovs=on,ifname=vnet1"));
    assert!(refused.stderr.contains("a port named vnet1 already exists"), "{}", refused.stderr);
    assert_eq!(ovs.vsctl(&["get", "Interface", "vnet1", "external_ids:taptrail"]), "another");

    // What a SPEC may not have, a running guest does not get either: its SPEC is read again.
    let refused = world.taptrail(["set-filter", "web1", &mac(1), "no-mac-spoofing"]);
    assert!(refused.stderr.contains("'filter'") && refused.stderr.contains("ovs"), "{}", refused.stderr);

    // A bridge that is none of its, and a program that is missing.
    let refused = world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:04,ovs=on,ifname=nic4");
    assert!(
        refused.stderr.contains("port of Open vSwitch bridge 'br0'")
            && refused.stderr.contains("no bridge named br0"),
        "{}",
        refused.stderr
    );
    world.stop(&guest);
    assert_eq!(ovs.vsctl(&["list-ports", "ovs0"]), "vnet1");
    output("/bin/mount", &["--bind", "/dev/null", "/usr/bin/ovs-vsctl"]);
    let refused = world.try_start("web2", &["--nic", &spec(5, "ovs=on")], &EMPTY);
    assert!(refused.stderr.contains("Open vSwitch is not installed"), "{}", refused.stderr);
    assert_eq!(world.open_accounts(), (0, 0));
}
