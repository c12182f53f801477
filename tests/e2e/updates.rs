//! Settings of an interface that change while its guest runs: each is what the kernel has then, on record
//! before and after, or as it was before; also where the supervisor ends in between.

use std::process::Command;

use serde_json::Value;
use taptrail_ledger::Ledger;

use crate::host_side::{OpenVswitch, has_carrier};
use crate::world::qmp::{self, Qmp};
use crate::world::{CommandResult, EMPTY, World, mac};

fn update(world: &World, settings: &[&str]) -> CommandResult {
    let mac = mac(1);
    world.taptrail([&["update", "web1", &mac], settings].concat())
}

/// The kinds of the findings of the trail.
fn kinds(world: &World) -> Vec<String> {
    let trail = world.trail();
    let findings = trail["findings"].as_array().into_iter().flatten();
    findings.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

/// What a program prints.
fn printed(program: &str, args: &str) -> String {
    let output = Command::new(program).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The VLANs of a bridge's port, as bridge(8) shows them: number and flags.
fn vlans(port: &str) -> Vec<(u64, Vec<String>)> {
    let shown: Value =
        serde_json::from_str(&printed("/sbin/bridge", &format!("-j vlan show dev {port}"))).unwrap();
    let flags = |vlan: &Value| {
        let flags = vlan["flags"].as_array().into_iter().flatten();
        flags.map(|flag| flag.as_str().unwrap().to_owned()).collect()
    };
    let all = shown[0]["vlans"].as_array().into_iter().flatten();
    all.map(|vlan| (vlan["vlan"].as_u64().unwrap(), flags(vlan))).collect()
}

/// The SPEC of the guest's first interface on record, by which the next supervisor goes.
fn spec(world: &World) -> String {
    let ledger = Ledger::open_to_read(&world.state()).unwrap();
    let guest = ledger.live_guests().unwrap().pop().unwrap();
    ledger.live_interfaces(guest.key).unwrap().remove(0).spec
}

/// A supervisor that ends at a failpoint, and the next one, without it.
fn replaced(world: &mut World) {
    world.extra.retain(|(name, _)| name != "FAILPOINTS");
    world.supervisor_is_gone("web1");
    world.taptrail(["adopt", "--background", "web1"]).ok();
}

// Shows 2.28.
#[test]
fn bridge_isolation_and_limits_are_what_the_kernel_has() {
    let world = World::new();
    for name in ["br1", "br2"] {
        world.ip(&format!("link add {name} type bridge"));
        world.ip(&format!("link set {name} up"));
    }
    world.ip("link set br2 mtu 1400");
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off,inbound=1000"]);
    let before = guest.holds();

    update(&world, &["bridge=br1", "isolated=on"]).ok();
    assert_eq!(world.link("vnet0")["master"], "br1");
    let isolated = || world.link("vnet0")["linkinfo"]["info_slave_data"]["isolated"].clone();
    assert_eq!(isolated(), true);
    update(&world, &["isolated=off"]).ok();
    assert_eq!(isolated(), false);
    update(&world, &["bridge=br2"]).ok();
    let link = world.link("vnet0");
    assert_eq!((&link["master"], &link["mtu"]), (&"br2".into(), &1400.into()));
    assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");

    update(&world, &["inbound=2000", "rx-frames=7"]).ok();
    assert!(printed("/usr/sbin/tc", "class show dev vnet0").contains("rate 16Mbit"));
    let frames = printed("/usr/sbin/ethtool", "-c vnet0");
    assert!(frames.lines().any(|line| line.starts_with("rx-frames:") && line.ends_with('7')), "{frames}");
    update(&world, &["inbound=none"]).ok();
    assert_eq!(printed("/usr/sbin/tc", "class show dev vnet0"), "");

    assert_eq!(guest.holds(), before, "nothing is detached");
    assert_eq!(spec(&world), "bridge=br2,mac=52:54:00:00:00:01,vhost=off,rx-frames=7");
    let lines = world.record_lines();
    let of_update: Vec<&str> =
        lines.iter().map(String::as_str).filter(|line| line.starts_with("updat")).collect();
    assert_eq!(
        &of_update[..2],
        ["updating 01 tun vnet0 bridge=br1,isolated=on", "update 01 tun vnet0 bridge=br1,isolated=on"]
    );
    assert_eq!(of_update.len(), 10, "{lines:?}");
    assert_eq!(kinds(&world), [""; 0]);
    // The next supervisor knows them.
    world.kill_supervisor("web1");
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(spec(&world), "bridge=br2,mac=52:54:00:00:00:01,vhost=off,rx-frames=7");
    world.stop(&guest);
    world.ip("link del br1");
    world.ip("link del br2");
    world.assert_clean();
}

// Shows 2.28.
#[test]
fn vlans_change_in_place() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
    if world.link("br0")["linkinfo"]["info_data"]["vlan_protocol"].is_null() {
        update(&world, &["vlan=7"]).fails(1, "This kernel has no vlan_filtering of bridges");
        world.stop(&guest);
        return;
    }
    world.ip("link set br0 type bridge vlan_filtering 1");
    let own = |vlan: u64| (vlan, vec!["PVID".to_owned(), "Egress Untagged".to_owned()]);
    update(&world, &["vlan=7"]).ok();
    assert_eq!(vlans("vnet0"), [own(7)]);
    update(&world, &["vlan=8,trunk=9+10"]).ok();
    assert_eq!(vlans("vnet0"), [own(8), (9, Vec::new()), (10, Vec::new())]);
    update(&world, &["trunk=10"]).ok();
    assert_eq!(vlans("vnet0"), [own(8), (10, Vec::new())]);
    update(&world, &["vlan=none", "trunk=none"]).ok();
    assert_eq!(vlans("vnet0"), [own(1)]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.28.
#[test]
fn a_carrier_and_an_mtu_change_while_the_guest_runs() {
    let world = World::new();
    let socket = world.path("qmp");
    let option = qmp::option(&socket);
    let qemu: Vec<&str> = EMPTY.into_iter().chain(["-qmp", &option]).collect();
    let nics = [
        "--nic",
        "bridge=br0,mac=52:54:00:00:00:01,model=e1000",
        "--nic",
        "bridge=br0,mac=52:54:00:00:00:02",
    ];
    let guest = world.start_with("web1", &nics, &qemu);
    let mut qmp = Qmp::connect(socket);
    assert!(has_carrier(&world, &mut qmp, "nic0"));
    for (state, carrier) in [("down", false), ("up", true)] {
        update(&world, &[&format!("link={state}")]).ok();
        // The NIC negotiates for half a second.
        world.until(state, || has_carrier(&world, &mut qmp, "nic0") == carrier);
    }
    update(&world, &["mtu=1400"]).ok();
    assert_eq!(world.link("vnet0")["mtu"], 1400);
    update(&world, &["mtu=none"]).fails(1, "'mtu' of 52:54:00:00:00:01 can't be 'none'");
    // A virtio NIC knows its own.
    let virtio = world.taptrail(["update", "web1", &mac(2), "mtu=1400"]);
    virtio
        .fails(1, "QEMU tells it to a virtio NIC when that is plugged; detach the interface, and attach it");
    assert_eq!(world.link("vnet1")["mtu"], 1500);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.28.
#[test]
fn what_is_refused_changes_nothing_and_what_fails_is_taken_back() {
    let world = World::new();
    let guest =
        world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing"]);
    let (rules, before, records) = (world.ruleset(), spec(&world), world.record_lines());
    update(&world, &["model=e1000"]).fails(2, "'model' can't be changed while the guest runs");
    update(&world, &["vlna=7"]).fails(2, "did you mean 'vlan'?");
    update(&world, &["bridge=br9"]).fails(1, "Bridge 'br9' doesn't exist");
    update(&world, &["bridge=lower"]).fails(1, "Link 'lower' is no bridge");
    update(&world, &["vlan-mode=tagged"]).fails(1, "needs");
    update(&world, &["filter=clean-traffic"]).fails(1, "needs a value for $IP");
    assert_eq!(world.record_lines(), records, "nothing was begun");

    // br0 does not filter VLANs: the limit and the filter are set by then.
    update(&world, &["vlan=7,inbound=1000,filter=clean-traffic,ip=192.0.2.5"]).fails(1, "vlan_filtering");
    assert_eq!(world.ruleset(), rules);
    assert_eq!(printed("/usr/sbin/tc", "class show dev vnet0"), "");
    let link = world.link("vnet0");
    assert_eq!(link["master"], "br0");
    assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
    assert_eq!(spec(&world), before);
    let last = world.record_lines().pop().unwrap();
    assert_eq!(last, "update 01 tun vnet0 vlan=7,inbound=1000,filter=clean-traffic,ip=192.0.2.5 FAILED");
    assert_eq!(world.open_accounts(), (1, 0));
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.29.
#[test]
fn a_supervisor_that_ends_in_the_middle_has_its_change_taken_back() {
    for point in ["update::intended", "update::set"] {
        let mut world = World::new();
        world.ip("link add br1 type bridge");
        world.extra.push(("FAILPOINTS".to_owned(), format!("{point}=return")));
        let nic = "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=no-mac-spoofing,inbound=1000";
        let guest = world.start("web1", &["--nic", nic]);
        let limits = || printed("/sbin/tc", "class show dev vnet0");
        let (rules, before, limited) = (world.ruleset(), spec(&world), limits());
        assert!(limited.contains("htb"), "{limited}");
        // Bridge and filter, of which one is set; and one alone.
        for settings in ["bridge=br1,filter=none", "filter=none", "inbound=none"] {
            assert!(!update(&world, &[settings]).success());
            assert_eq!(kinds(&world).last().map(String::as_str), Some("update-unknown"), "{point}");
            replaced(&mut world);
            assert_eq!(spec(&world), before, "{point}");
            assert_eq!(world.ruleset(), rules, "{point}");
            assert_eq!(world.link("vnet0")["master"], "br0", "{point}");
            assert_eq!(limits(), limited, "{point}");
            let last = world.record_lines().pop().unwrap();
            assert_eq!(last, format!("update 01 tun vnet0 {settings} FAILED"), "{point}");
            assert!(!kinds(&world).contains(&"update-unknown".to_owned()), "{point}");
            assert_eq!(world.open_accounts(), (1, 0), "{point}");
            // The next one ends at that point, too.
            world.extra.push(("FAILPOINTS".to_owned(), format!("{point}=return")));
            world.kill_supervisor("web1");
            world.taptrail(["adopt", "--background", "web1"]).ok();
        }
        world.extra.clear();
        world.kill_supervisor("web1");
        world.taptrail(["adopt", "--background", "web1"]).ok();
        // It owns the filter: it guards it, and removes it.
        world.nft("flush ruleset");
        world.until("the filter is set again", || world.ruleset() == rules);
        world.stop(&guest);
        world.ip("link del br1");
        world.assert_clean();
    }
}

// Shows 2.29.
#[test]
fn a_guest_that_ends_in_the_middle_of_a_change_leaves_it_unknown() {
    let mut world = World::new();
    world.extra.push(("FAILPOINTS".to_owned(), "update::set=return".to_owned()));
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
    assert!(!update(&world, &["filter=no-mac-spoofing"]).success());
    world.extra.clear();
    world.supervisor_is_gone("web1");
    guest.kill();
    world.until("QEMU is gone", || !guest.is_alive());
    assert_eq!(world.json(["recover", "--json"])[0]["state"], "closed");
    assert_eq!(kinds(&world), ["update-unknown"]);
    world.assert_clean();
}

// Shows 2.26.
#[test]
fn a_filter_is_set_under_the_name_that_its_link_has_by_then() {
    let mut world = World::new();
    // This nft renames the link before it does anything, while the file `rename` exists.
    let (nft, rename) = (world.path("nft"), world.path("rename"));
    let script = format!(
        "#!/bin/sh\n[ -e {0} ] && rm {0} && /sbin/ip link set vnet0 name web0\nexec /usr/sbin/nft \"$@\"\n",
        rename.display()
    );
    std::fs::write(&nft, script).unwrap();
    std::fs::set_permissions(&nft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.extra.push(("TAPTRAIL_NFT".to_owned(), nft.display().to_string()));
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
    std::fs::write(&rename, "").unwrap();
    update(&world, &["filter=no-mac-spoofing"]).ok();
    let rules = world.ruleset();
    assert!(rules.contains("device \"web0\"") || rules.contains("devices = { \"web0\" }"), "{rules}");
    assert_eq!(world.nics(&guest)[0]["ifname"], "web0");
    // The supervisor knows that name, too.
    world.nft("flush ruleset");
    world.until("the filter is set again", || world.ruleset() == rules);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.25, 2.28.
#[test]
fn a_port_of_open_vswitch_moves_in_one_transaction() {
    let world = World::new();
    let ovs = OpenVswitch::start(&world);
    ovs.vsctl(&["add-br", "ovs1", "--", "set", "bridge", "ovs1", "datapath_type=netdev"]);
    let guest = world.start("web1", &["--nic", "bridge=ovs0,mac=52:54:00:00:00:01,vhost=off,ovs=on,vlan=7"]);
    update(&world, &["bridge=ovs1", "vlan=9"]).ok();
    assert_eq!(
        (ovs.vsctl(&["list-ports", "ovs0"]), ovs.vsctl(&["list-ports", "ovs1"])),
        (String::new(), "vnet0".to_owned())
    );
    assert_eq!(ovs.vsctl(&["get", "Port", "vnet0", "tag"]), "9");
    update(&world, &["bridge=br0"]).fails(1, "no bridge named br0");
    assert_eq!(ovs.vsctl(&["list-ports", "ovs1"]), "vnet0");
    assert_eq!(ovs.vsctl(&["get", "Port", "vnet0", "tag"]), "9");
    world.stop(&guest);
    assert_eq!(ovs.vsctl(&["list-ports", "ovs1"]), "");
}
