//! One guest's interfaces, from open to close, on a real QEMU.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use crate::world::qmp::{self, Qmp};
use crate::world::{EMPTY, World, mac};
use serde_json::{Value, json};
use taptrail_kernel::proc::Signal;
use taptrail_record::Event;

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";

// Shows 1.11, 2.1, 5.1, 8.1, 9.1.
#[test]
fn a_tap_on_a_bridge_is_opened_granted_and_closed() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);

    assert_eq!(guest.holds(), ["tun vnet0"]);
    let tap = world.link("vnet0");
    assert_eq!(tap["address"], "fe:54:00:00:00:01", "the tap's own address is not the guest's");
    assert_eq!(tap["master"], "br0");
    assert!(tap["flags"].as_array().unwrap().contains(&json!("UP")));
    let nic = &world.nics(&guest)[0];
    assert_eq!(nic["mac"], mac(1));
    assert_eq!(nic["backend"], "bridge=br0");
    assert_eq!(nic["ifname"], "vnet0");
    assert_eq!(nic["vhost"], false);
    assert_eq!(nic["devices"][0]["rdev"], "0A:C8");
    assert_eq!(world.trail()["holdings"][0]["state"], "held");

    world.stop(&guest);
    assert!(!guest.is_alive());
    assert_eq!(
        world.record_lines(),
        ["open 01 tun vnet0 q0", "start 01", "guest booted", "close 01 tun vnet0 q0", "guest destroyed"]
    );
    world.assert_clean();
}

// Shows 1.19.
#[test]
fn a_new_tap_may_be_no_bridges_port() {
    let world = World::new();
    let nic = "new-tap=on,mac=52:54:00:00:00:01,ifname=routed0,vhost=off,mtu=1400";
    let guest = world.start("web1", &["--nic", nic]);
    assert_eq!(guest.holds(), ["tun routed0"]);
    let tap = world.link("routed0");
    assert_eq!((&tap["master"], &tap["mtu"]), (&Value::Null, &json!(1400)));
    assert!(tap["flags"].as_array().unwrap().contains(&json!("UP")));
    assert_eq!(world.nics(&guest)[0]["backend"], "new-tap=on");
    world.stop(&guest);
    assert_eq!(world.record_lines().iter().filter(|line| line.contains("close 01 tun routed0")).count(), 1);
    world.assert_clean();
}

// Shows 9.3.
#[test]
fn the_trail_says_definitively_what_was_opened_granted_and_released() {
    let world = World::new();
    let guest = world.start("web1", &["--uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "--nic", ONE]);
    world.stop(&guest);

    let trail = world.trail();
    let holding = &trail["holdings"][0];
    assert_eq!(holding["guest"], json!({"name": "web1", "uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}));
    assert_eq!(holding["mac"], mac(1));
    assert_eq!(
        holding["device"],
        json!({"kind": "tun", "path": "/dev/net/tun", "rdev": "0A:C8", "dev": "vnet0"})
    );
    assert_eq!(holding["queues"], 1);
    assert_eq!(holding["state"], "released");
    assert_eq!(holding["ended_by"], "stop");
    assert_eq!(holding["certainty"], "definitive");
    assert_eq!(holding["pid"], guest.pid);
    let time = |key: &str| holding[key].as_str().unwrap().to_owned();
    assert!(time("opened") <= time("granted") && time("granted") < time("released"));
    assert!(time("opened").ends_with('Z'));
    assert!(holding["proof"].as_array().unwrap().len() >= 3);
    assert_eq!(trail["findings"], json!([]));
    assert_eq!(trail["input"]["records"], 5);
    assert_eq!(trail["input"]["unreadable"], 0);
}

// Shows 1.7.
#[test]
fn a_macvtap_is_made_with_the_guests_mac_and_removed_at_the_end() {
    let world = World::new();
    for mode in ["bridge", "vepa", "private", "passthru"] {
        let spec = format!("macvtap=lower,mode={mode},mac=52:54:00:00:00:01,vhost=off");
        let guest = world.start(&format!("web-{mode}"), &["--nic", &spec]);
        let link = world.link("macvtap0");
        assert_eq!(link["address"], mac(1));
        assert_eq!(link["linkinfo"]["info_data"]["mode"], mode);
        assert_eq!(guest.holds(), [format!("macvtap /dev/tap{}", link["ifindex"])]);
        world.stop(&guest);
        world.assert_clean();
    }
    assert_eq!(world.record_lines()[..2], ["open 01 macvtap macvtap0 q0", "start 01"]);
}

// Shows 1.2, 1.3.
#[test]
fn each_queue_is_one_open_one_record_and_one_close() {
    let world = World::new();
    let guest = world.start(
        "web1",
        &[
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:01,queues=3,vhost=off",
            "--nic",
            "macvtap=lower,mac=52:54:00:00:00:02,queues=2,vhost=off",
        ],
    );
    let node = format!("macvtap /dev/tap{}", world.link("macvtap0")["ifindex"]);
    assert_eq!(guest.holds(), [&node, &node, "tun vnet0", "tun vnet0", "tun vnet0"]);
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        [
            "open 01 tun vnet0 q0",
            "open 01 tun vnet0 q1",
            "open 01 tun vnet0 q2",
            "open 02 macvtap macvtap0 q0",
            "open 02 macvtap macvtap0 q1",
            "start 01",
            "start 02",
            "guest booted",
            "close 01 tun vnet0 q0",
            "close 01 tun vnet0 q1",
            "close 01 tun vnet0 q2",
            "close 02 macvtap macvtap0 q0",
            "close 02 macvtap macvtap0 q1",
            "guest destroyed",
        ]
    );
    let queues: Vec<_> = world.trail()["holdings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|holding| holding["queues"].clone())
        .collect();
    assert_eq!(queues, [json!(3), json!(2)]);
    world.assert_clean();
}

// Shows 6.1, 7.1.
#[test]
fn one_mac_comes_and_goes_three_times() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    for _ in 0..3 {
        world.attach(&guest, ONE).ok();
        assert_eq!(guest.holds(), ["tun vnet0"]);
        world.detach(&guest, 1, &["--timeout", "20s"]).ok();
        assert_eq!(guest.holds(), Vec::<String>::new());
        assert_eq!(world.links(), Vec::<String>::new());
    }
    world.stop(&guest);
    let round = ["open 01 tun vnet0 q0", "attach 01", "close 01 tun vnet0 q0", "detach 01"];
    let mut record_lines = vec!["guest booted"];
    record_lines.extend(round.iter().cycle().take(12));
    record_lines.push("guest destroyed");
    assert_eq!(world.record_lines(), record_lines);
    let trail = world.trail();
    for holding in trail["holdings"].as_array().unwrap() {
        assert_eq!((&holding["state"], &holding["ended_by"]), (&json!("released"), &json!("detach")));
        assert_eq!(holding["certainty"], "definitive");
    }
    world.assert_clean();
}

// Shows 6.1.
#[test]
fn macvtaps_and_several_queues_are_hot_plugged_too() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,queues=2,vhost=off").ok();
    world.attach(&guest, "bridge=br0,mac=52:54:00:00:00:03,queues=2,vhost=off,ifname=wan").ok();
    let node = format!("macvtap /dev/tap{}", world.link("macvtap0")["ifindex"]);
    assert_eq!(guest.holds(), [&node, &node, "tun wan", "tun wan"]);
    world.detach(&guest, 2, &["--timeout", "20s"]).ok();
    assert_eq!(guest.holds(), ["tun wan", "tun wan"]);
    assert_eq!(world.links(), ["wan"]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 7.3.
#[test]
fn revoking_takes_the_devices_with_the_nic_still_plugged() {
    let world = World::new();
    // Without native hot-plug an empty guest never releases a NIC.
    let guest = world.start_with("web1", &["--nic", ONE], &EMPTY[..8]);
    world.detach(&guest, 1, &["--timeout", "300ms"]).fails(3, "did not let go of 52:54:00:00:00:01 in time");
    assert_eq!(guest.holds(), ["tun vnet0"], "a NIC that the guest does not release is held");
    assert_eq!(world.nics(&guest)[0]["state"], "unplugging");

    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(guest.holds(), Vec::<String>::new());
    assert_eq!(world.links(), Vec::<String>::new());
    assert_eq!(world.nics(&guest)[0]["state"], "revoked");
    world.detach(&guest, 1, &["--force"]).fails(1, "taken already");
    world.stop(&guest);
    assert_eq!(
        world.record_lines(),
        [
            "open 01 tun vnet0 q0",
            "start 01",
            "guest booted",
            "detach 01 FAILED",
            "close 01 tun vnet0 q0",
            "revoke 01",
            "guest destroyed",
        ]
    );
    assert_eq!(world.trail()["holdings"][0]["ended_by"], "revoke");
    world.assert_clean();
}

// Shows 7.4.
#[test]
fn a_revoked_mac_may_come_back() {
    let world = World::new();
    let guest = world.start_with("web1", &["--nic", ONE], &EMPTY[..8]);
    world.detach(&guest, 1, &["--force"]).ok();
    world.attach(&guest, ONE).ok();
    let nics = world.nics(&guest);
    let states: Vec<_> = nics.as_array().unwrap().iter().map(|nic| nic["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["revoked", "held"]);
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.detach(&guest, 1, &["--force"]).ok();
    world.stop(&guest);
    world.assert_clean();
}

// Shows 1.6.
#[test]
fn a_tap_of_somebody_elses_is_used_and_left_as_it_was() {
    let world = World::new();
    world.ip("tuntap add dev mine mode tap");
    world.ip("link set mine address 02:00:00:00:00:07 up");
    world.ip("link add link lower name theirs index 650 type macvtap mode bridge");
    world.ip("link set theirs address 52:54:00:00:00:02 up");
    let guest = world.start(
        "web1",
        &["--nic", "tap=mine,mac=52:54:00:00:00:01,vhost=off", "--nic", "tap=theirs,vhost=off"],
    );
    let node = format!("macvtap /dev/tap{}", world.link("theirs")["ifindex"]);
    assert_eq!(guest.holds(), [&node, "tun mine"]);
    assert_eq!(world.nics(&guest)[1]["mac"], mac(2), "an existing macvtap's address is its guest's");
    assert_eq!(world.link("mine")["address"], "02:00:00:00:00:07");
    world.stop(&guest);
    assert_eq!(world.links(), ["mine", "theirs"]);
    assert_eq!(world.open_accounts(), (0, 0));
}

// Shows 2.1, 2.2, 2.7.
#[test]
fn an_interface_is_configured_and_filtered_as_its_spec_says() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    world
        .attach(
            &guest,
            "bridge=br0,mac=52:54:00:00:00:01,ifname=wan,mtu=1400,isolated=on,filter=no-mac-spoofing,vhost=off",
        )
        .ok();
    let tap = world.link("wan");
    assert_eq!(tap["mtu"], 1400);
    assert_eq!(tap["linkinfo"]["info_slave_data"]["isolated"], true);
    let table = format!("taptrail_if{}", tap["ifindex"]);
    assert!(world.tables().contains(&table), "{}", world.tables());
    world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,filter=no-mac-spoofing,vhost=off").ok();
    assert_eq!(world.tables().lines().count(), 2);
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    assert!(!world.tables().contains(&table));
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.2.
#[test]
fn only_the_intended_descriptors_are_inherited() {
    let world = World::new();
    let secret = world.path("secret");
    std::fs::write(&secret, "not for guests").unwrap();
    // A careless parent: descriptor 9 is open and not close-on-exec.
    let script = r#"exec 9<"$1"; shift; exec "$@""#;
    let taptrail = world.command(["run", "--background", "--name", "web1", "--nic", ONE, "--"]);
    let mut careless = Command::new("/bin/sh");
    careless.args(["-c", script, "sh"]).arg(&secret).arg(taptrail.get_program());
    careless.args(taptrail.get_args()).args(EMPTY);
    careless.envs(taptrail.get_envs().filter_map(|(key, value)| Some((key, value?))));
    assert!(careless.status().unwrap().success());
    let guests = world.json(["list", "--json"]);
    let pid = guests[0]["pid"].as_u64().unwrap();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        let text = target.to_string_lossy().into_owned();
        assert!(!text.contains("secret") && !text.contains("ledger") && !text.contains("lock"), "{text}");
    }
    world.taptrail(["stop", "web1", "--force"]).ok();
    world.assert_clean();
}

// Shows 5.3.
#[test]
fn the_supervisor_holds_no_device_after_the_hand_over() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,vhost=off").ok();
    assert_eq!(taptrail_kernel::proc::raw_devices(world.supervisor("web1").pid).unwrap(), []);
    world.stop(&guest);
}

// Shows 5.8.
#[test]
fn qemu_runs_as_the_user_asked_for() {
    let world = World::new();
    let guest = world.start("web1", &["--user", "nobody", "--nic", ONE]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.pid)).unwrap();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    assert!(field("Uid:").starts_with("65534\t65534\t65534\t65534"), "{}", field("Uid:"));
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(guest.holds(), ["tun vnet0"]);
    world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,vhost=off").ok();
    world.stop(&guest);
    world.assert_clean();
}

// Shows 8.3.
#[test]
fn ctrl_c_asks_the_guest_and_then_ends_qemu() {
    let world = World::new();
    let mut guest = world.foreground("web1", &["--nic", ONE, "--stop-timeout", "1s"], &EMPTY);
    guest.signal(Signal::INT);
    assert_eq!(guest.wait().code(), Some(0), "{}", guest.stderr());
    assert!(guest.stderr().contains("asked to shut down"), "{}", guest.stderr());
    assert_eq!(world.record_lines().last().unwrap(), "guest destroyed");
    world.assert_clean();
}

// Shows 8.3.
#[test]
fn a_second_ctrl_c_ends_qemu_at_once() {
    let world = World::new();
    let mut guest = world.foreground("web1", &["--nic", ONE, "--stop-timeout", "1h"], &EMPTY);
    guest.signal(Signal::INT);
    world.until("the guest is asked", || guest.stderr().contains("asked to shut down"));
    guest.signal(Signal::INT);
    assert_eq!(guest.wait().code(), Some(0));
    world.assert_clean();
}

// Shows 8.1.
#[test]
fn a_guest_that_ends_by_itself_was_shut_down() {
    let world = World::new();
    // The firmware finds nothing to boot and reboots, which ends QEMU.
    let qemu: Vec<_> = EMPTY
        .iter()
        .copied()
        .chain(["-no-reboot", "-boot", "reboot-timeout=100", "-global", "virtio-net-pci.romfile="])
        .collect();
    let mut arguments = vec!["run", "--name", "web1", "--nic", ONE, "--"];
    arguments.extend(qemu);
    world.taptrail(arguments).ok();
    assert_eq!(world.record_lines().last().unwrap(), "guest shutdown");
    world.assert_clean();
}

// Shows 4.5, 5.10, 8.1.
#[test]
fn a_qemu_that_is_killed_has_crashed_and_its_account_is_closed() {
    let world = World::new();
    let mut foreground = world.foreground("web1", &["--nic", ONE], &EMPTY);
    let pid = u32::try_from(world.json(["list", "--json"])[0]["pid"].as_u64().unwrap()).unwrap();
    crate::world::Guest { name: "web1".to_owned(), pid }.kill();
    assert_eq!(foreground.wait().code(), Some(128 + 9));
    assert_eq!(world.record_lines()[3..], ["close 01 tun vnet0 q0", "guest crashed"]);
    world.assert_clean();
}

// Shows 5.6.
#[test]
fn the_users_own_pause_is_kept() {
    let world = World::new();
    let socket = world.path("qmp");
    let option = qmp::option(&socket);
    let paused: Vec<_> = EMPTY.iter().copied().chain(["-S", "-qmp", &option]).collect();
    let guest = world.start_with("web1", &["--nic", ONE], &paused);
    assert_eq!(Qmp::connect(socket).execute("query-status", json!({}))["running"], false);
    assert_eq!(world.json(["list", "--json"])[0]["state"], "paused");
    world.stop(&guest);
}

// Shows 5.11.
#[test]
fn a_service_manager_is_notified_when_the_guest_runs() {
    let mut world = World::new();
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    world.extra.push(("NOTIFY_SOCKET".to_owned(), world.path("notify").display().to_string()));
    let guest = world.start("web1", &[]);
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..length]).contains("READY=1"));
    world.stop(&guest);
}

// Shows 3.17.
#[test]
fn the_requester_is_in_the_record() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    world.attach(&guest, ONE).ok();
    world.detach(&guest, 1, &["--timeout", "20s"]).ok();
    world.stop(&guest);
    for record in world.records() {
        let asked = match record.event {
            Event::Open { .. } | Event::Attach { .. } | Event::Detach { .. } | Event::GuestStop { .. } => {
                true
            }
            Event::Close { .. } | Event::GuestStart { .. } => false,
            other => panic!("{other:?}"),
        };
        assert_eq!(record.requester.is_some(), asked, "{:?}", record.event);
        assert!(record.requester.is_none_or(|requester| requester.uid == 0));
    }
}

// Shows 6.2.
#[test]
fn an_interface_may_come_as_libvirts_xml() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let xml = world.path("nic.xml");
    std::fs::write(
        &xml,
        "<interface type='bridge'>\n  <mac address='52:54:00:00:00:01'/>\n  <source bridge='br0'/>\n  \
         <model type='virtio'/>\n  <driver name='qemu' queues='2'/>\n  <port isolated='yes'/>\n</interface>\n",
    )
    .unwrap();
    world.taptrail(["attach", "web1", "--xml", xml.to_str().unwrap()]).ok();
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet0"]);
    std::fs::write(
        &xml,
        "<interface type='bridge'>\n  <source bridge='br0'/>\n  <backenddomain/>\n</interface>\n",
    )
    .unwrap();
    world.taptrail(["attach", "web1", "--xml", xml.to_str().unwrap()]).fails(2, "backenddomain");
    world.stop(&guest);
}

/// As `virsh dumpxml` writes it, of a guest that does not run.
const DOMAIN: &str = "<domain type='kvm'>
  <name>web1</name>
  <devices>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='lab'/>
      <model type='virtio'/>
      <driver name='qemu' packed='on'/>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='user'>
      <mac address='52:54:00:00:00:09'/>
    </interface>
    <interface type='ethernet'>
      <mac address='52:54:00:00:00:02'/>
      <model type='e1000e'/>
    </interface>
  </devices>
</domain>
";

// Shows 6.2.
#[test]
fn interfaces_may_come_from_a_libvirt_domain() {
    let world = World::new();
    let (domain, network) = (world.path("web1.xml"), world.path("lab.xml"));
    std::fs::write(&domain, DOMAIN).unwrap();
    std::fs::write(
        &network,
        "<network><name>lab</name><forward mode='bridge'/><bridge name='br0'/></network>",
    )
    .unwrap();
    let (domain, network) = (domain.to_str().unwrap(), network.to_str().unwrap());

    let guest = world.start("web1", &["--domain", domain, "--network", network]);
    let nics = world.nics(&guest);
    assert_eq!((&nics[0]["mac"], &nics[0]["backend"]), (&json!(mac(1)), &json!("bridge=br0")));
    assert_eq!((&nics[1]["mac"], &nics[1]["model"]), (&json!(mac(2)), &json!("e1000e")));
    assert_eq!(nics.as_array().unwrap().len(), 2);
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet1"]);
    world.stop(&guest);

    // Hot-plugged, one after the other; what is left out and not kept is said.
    let guest = world.start("web1", &[]);
    let attached = world.taptrail(["attach", "web1", "--domain", domain, "--network", network]);
    assert!(attached.stderr.contains("type 'user' is left out"), "{}", attached.stderr);
    assert!(attached.stderr.contains("the place of <address> is not kept"), "{}", attached.stderr);
    attached.ok();
    assert_eq!(guest.holds(), ["tun vnet0", "tun vnet1"]);
    world.taptrail(["attach", "web1", "--domain", domain]).fails(2, "Network 'lab' is not known here");
    world.taptrail(["attach", "web1", "--domain", domain, "--nic", ONE]).fails(2, "cannot be used with");
    // What was attached before one that fails is named.
    let half = DOMAIN.replace("52:54:00:00:00:01", "52:54:00:00:00:03");
    std::fs::write(world.path("half.xml"), half).unwrap();
    let half = world.path("half.xml");
    world
        .taptrail(["attach", "web1", "--domain", half.to_str().unwrap(), "--network", network])
        .fails(1, "Interface 1 of 2 is not attached");
    // On a FIFO QEMU would hang.
    let fifo = world.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let rom = format!("bridge=br0,rom={}", fifo.display());
    world.taptrail(["attach", "web1", "--nic", &rom]).fails(1, "it is no regular file");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.15.
#[test]
fn the_api_describes_itself_to_any_varlink_client() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let mut stream = UnixStream::connect(world.run_dir().join("web1/api")).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut call = |method: &str, parameters: Value| -> Value {
        write!(stream, "{}\0", json!({"method": method, "parameters": parameters})).unwrap();
        let mut answer = Vec::new();
        reader.read_until(0, &mut answer).unwrap();
        answer.pop();
        serde_json::from_slice(&answer).unwrap()
    };
    let info = call("org.varlink.service.GetInfo", json!({}));
    assert_eq!(info["parameters"]["interfaces"], json!(["org.taptrail.Guest", "org.varlink.service"]));
    let description =
        call("org.varlink.service.GetInterfaceDescription", json!({"interface": "org.taptrail.Guest"}));
    let text = description["parameters"]["description"].as_str().unwrap().to_owned();
    for method in ["Attach", "Detach", "Revoke", "Stop", "Status", "Nics", "Monitor"] {
        assert!(text.contains(&format!("method {method}(")), "{text}");
    }
    for name in ["Nic", "Device", "Event", "Requester"] {
        assert!(text.contains(&format!("type {name} (")), "{text}");
    }
    for error in ["Refused", "Failed", "TimedOut", "Ended", "Forbidden", "Lagged"] {
        assert!(text.contains(&format!("error {error}")), "{text}");
    }
    let nics = call("org.taptrail.Guest.Nics", json!({}));
    assert_eq!(nics["parameters"]["nics"][0]["mac"], mac(1));
    drop((stream, reader));
    world.stop(&guest);
}

// Shows 3.13.
#[test]
fn with_audit_off_the_ledger_alone_has_the_trail() {
    let world = World::new();
    let guest = world.start("web1", &["--audit", "off", "--nic", ONE]);
    world.stop(&guest);
    assert_eq!(world.record_lines().len(), 5);
    assert!(!world.log("web1").contains("udit"));
    world.assert_clean();
}

// Shows 9.2.
#[test]
fn two_guests_have_accounts_of_their_own() {
    let world = World::new();
    let first = world.start("web1", &["--nic", ONE]);
    let second = world.start("web2", &["--nic", "bridge=br0,mac=52:54:00:00:00:02,vhost=off"]);
    assert_eq!((first.holds(), second.holds()), (vec!["tun vnet0".to_owned()], vec!["tun vnet1".to_owned()]));
    world.stop(&first);
    assert_eq!(second.holds(), ["tun vnet1"]);
    let trail = world.trail();
    let states: Vec<_> = trail["holdings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|holding| holding["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["released", "held"]);
    world.stop(&second);
    world.assert_clean();
}

// Shows 1.16.
#[test]
fn a_link_that_somebody_holds_or_that_was_made_for_a_guest_is_nobody_elses() {
    let world = World::new();
    world.ip("tuntap add dev many mode tap multi_queue user 0 group 65534");
    let owner = world.start(
        "owner",
        &[
            "--nic",
            "bridge=br0,mac=52:54:00:00:00:01,vhost=off,queues=2,filter=no-mac-spoofing",
            "--nic",
            "macvtap=lower,mac=52:54:00:00:00:02,vhost=off",
            "--nic",
            "tap=many,mac=52:54:00:00:00:03,vhost=off,queues=2",
        ],
    );
    let other = world.start("other", &[]);
    let filters = world.ruleset();
    for (spec, why) in [
        ("tap=vnet0,queues=2,vhost=off,filter=no-mac-spoofing", "belongs to another interface of a guest"),
        ("tap=macvtap0,vhost=off", "belongs to another interface of a guest"),
        ("tap=many,queues=2,vhost=off", "is held already by process"),
    ] {
        world.attach(&other, spec).fails(1, why);
    }
    // Another program's tap, which ends with the program.
    let own = crate::world::tap_of_this_test("theirs");
    world.attach(&other, "tap=theirs,vhost=off").fails(1, "is not persistent");
    drop(own);
    assert_eq!(world.nics(&other).as_array().map(Vec::len), Some(0));
    assert_eq!(world.ruleset(), filters, "the owner's filter stands");
    world.stop(&owner);
    world.attach(&other, "tap=many,queues=2,vhost=off").ok();
    world.stop(&other);
    assert_eq!(world.links(), ["many"]);
}

/// A program that runs `script` and then execs QEMU.
fn qemu_after_script(world: &World, script: &str) -> Vec<String> {
    let program = world.path("talkative");
    std::fs::write(&program, format!("#!/bin/bash\n{script}\nexec qemu-system-x86_64 \"$@\"\n")).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap().to_owned();
    std::iter::once(program).chain(EMPTY[1..].iter().map(ToString::to_string)).collect()
}

#[test]
fn a_guests_log_has_the_output_of_its_supervisor_and_of_qemu_with_times() {
    let world = World::new();
    let qemu = qemu_after_script(&world, r"printf 'a word \e[31m in red\n' >&2; echo and another");
    let qemu: Vec<&str> = qemu.iter().map(String::as_str).collect();
    let started = world.try_start("web1", &["--nic", &format!("{ONE},model=e1000")], &qemu).ok();
    let log = world.log("web1");
    for line in log.lines() {
        let (time, _) = line.split_once("  ").unwrap();
        time.parse::<jiff::Timestamp>().unwrap();
    }
    assert!(log.contains(r"  qemu: a word \u{1b}[31m in red"), "{log}");
    assert!(log.contains("  qemu: and another"), "{log}");
    assert!(log.contains(" INFO 52:54:00:00:00:01: 'vnet0' granted"), "{log}");
    // The user who starts it gets warnings and QEMU's output, and no more.
    assert!(started.stderr.contains("a word") && !started.stderr.contains("granted"), "{}", started.stderr);
    let guest = world.last_guest().unwrap();
    world.stop(&guest);
    assert!(!world.run_dir().join("web1").exists());

    // The log has the reason why the guest did not start.
    let refused = world.try_start("web1", &[], &["qemu-system-x86_64", "-device", "no-such-device"]);
    let refused = refused.fails(1, "is not a valid device model name");
    let path = world.run_dir().join("web1/log");
    assert!(refused.stderr.contains(path.to_str().unwrap()), "{}", refused.stderr);
    assert!(world.log("web1").contains("is not a valid device model name"));
    // A refusal because of a running guest is not in that guest's log.
    let guest = world.start("web2", &[]);
    let before = world.log("web2");
    let taken = world.try_start("web2", &[], &EMPTY).fails(1, "already running");
    assert_eq!(taken.stderr.lines().count(), 1, "{}", taken.stderr);
    assert_eq!(world.log("web2"), before);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.40.
#[test]
fn warnings_of_a_start_in_the_background_reach_who_asked_and_the_log() {
    let world = World::new();
    let missing = world.path("vhost-net");
    let nic = format!("bridge=br0,mac=52:54:00:00:00:01,vhost-path={}", missing.display());
    let started = world.try_start("web1", &["--nic", &nic], &EMPTY).ok();
    let warning = "WARN 52:54:00:00:00:01: goes on without vhost-net: ";
    assert!(started.stderr.contains(warning), "{}", started.stderr);
    assert!(world.log("web1").contains(warning), "{}", world.log("web1"));
    // What is said before the supervisor has a log: it does not use the new settings.
    world.kill_supervisor("web1");
    let again = world.try_start("web1", &["--nic", ONE], &EMPTY).ok();
    assert!(
        again.stderr.contains("WARN 'web1' is still running, and is taken up as it is"),
        "{}",
        again.stderr
    );
    // An adoption in the background warns, too: QEMU gave its tap up meanwhile.
    world.kill_supervisor("web1");
    let mut monitor = Qmp::connect(world.run_dir().join("web1/monitor"));
    monitor.execute("netdev_del", json!({"id": "host-nic0"}));
    drop(monitor);
    let adopted = world.taptrail(["adopt", "web1", "--background"]).ok();
    assert!(adopted.stderr.contains("released while no supervisor ran"), "{}", adopted.stderr);
    let guest = world.last_guest().unwrap();
    world.stop(&guest);
    world.assert_clean();
}

// Shows 5.41.
#[test]
fn the_size_and_number_of_a_guests_log_files_are_settings() {
    let world = World::new();
    for wrong in [["--log-size", "1"], ["--log-size", "much"], ["--log-files", "0"]] {
        world.try_start("web1", &wrong, &EMPTY).fails(2, wrong[0]);
    }
    // Logs each instruction of its firmware, with all registers.
    let mut qemu = EMPTY.to_vec();
    qemu.extend(["-d", "cpu,exec,nochain"]);
    let guest = world.start_with("web1", &["--log-size", "64K", "--log-files", "4"], &qemu);
    let dir = world.run_dir().join("web1");
    let size = |name: &str| std::fs::metadata(dir.join(name)).map_or(0, |file| file.len());
    world.until("there are three older files", || size("log.3") > 0);
    for name in ["log", "log.1", "log.2", "log.3"] {
        assert!(size(name) <= 64 << 10, "{name}");
    }
    let line = std::fs::read_to_string(dir.join("log.3")).unwrap();
    let (time, _) = line.lines().nth(1).unwrap().split_once("  ").unwrap();
    time.parse::<jiff::Timestamp>().unwrap();
    // The next supervisor has settings of its own.
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "web1", "--background", "--log-size=64K", "--log-files=2"]).ok();
    assert!(size("log.1") > 0 && size("log.2") == 0 && size("log.3") == 0);
    world.stop(&guest);
    assert!(!dir.exists());
    world.assert_clean();
}

#[test]
fn a_qemu_with_too_much_output_fills_no_run_directory_and_is_not_blocked() {
    let world = World::new();
    // Logs each instruction of its firmware, with all registers.
    let mut qemu = EMPTY.to_vec();
    qemu.extend(["-d", "cpu,exec,nochain"]);
    let guest = world.start_with("web1", &["--nic", ONE], &qemu);
    let size =
        |name: &str| std::fs::metadata(world.run_dir().join("web1").join(name)).map_or(0, |file| file.len());
    world.until("the log says what is dropped", || {
        world.log("web1").contains("bytes of QEMU's output dropped")
    });
    assert!(size("log") <= 1 << 20 && size("log.1") <= 1 << 20);
    // QEMU runs on when nobody reads its output, and the next supervisor reads on.
    world.kill_supervisor("web1");
    let before = size("log");
    let mut qmp = Qmp::connect(world.run_dir().join("web1/monitor"));
    assert_eq!(qmp.execute("query-status", json!({}))["status"], "running");
    drop(qmp);
    world.taptrail(["adopt", "web1", "--background"]).ok();
    world.until("it is read on", || size("log.1") > 0 || size("log") > before + 4096);
    world.stop(&guest);
    assert!(!world.run_dir().join("web1").exists());
    world.assert_clean();
}

// Shows 8.9.
#[test]
fn a_guest_that_ends_by_itself_held_its_devices_to_the_end() {
    // QEMU closes its netdevs before its process ends.
    let world = World::new();
    let socket = world.path("qmp");
    let monitor = qmp::option(&socket);
    let program: Vec<_> = EMPTY.iter().copied().chain(["-qmp", &monitor]).collect();
    let nics = ["--nic", ONE, "--nic", "macvtap=lower,mac=52:54:00:00:00:02,vhost=off"];
    for end in ["quit", "SIGTERM", "SIGKILL"] {
        let guest = world.start_with("web1", &nics, &program);
        match end {
            "quit" => {
                Qmp::connect(socket.clone()).execute("quit", json!({}));
            }
            "SIGTERM" => guest.signal(Signal::TERM),
            _ => guest.kill(),
        }
        world.until("its account is closed", || world.open_accounts() == (0, 0) && !guest.is_alive());
        world.supervisor_is_gone("web1");
        assert!(!world.log("web1").contains("without being asked"), "{end}: {}", world.log("web1"));
    }
    let trail = world.trail();
    for holding in trail["holdings"].as_array().unwrap() {
        assert_eq!(holding["ended_by"], "stop", "{holding}");
        assert_eq!(holding["last_seen"], Value::Null, "{holding}");
    }
    assert_eq!(trail["holdings"].as_array().unwrap().len(), 6);
    assert_eq!(trail["findings"], json!([]));
    world.assert_clean();
}
