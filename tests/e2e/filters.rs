//! Filters with parameters, filters of one's own, and filters that change while their guest runs.
//! What passes is shown by `crates/guest/tests/filters`.

use std::os::unix::fs::PermissionsExt;

use crate::world::World;

const CLEAN: &str =
    "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter=clean-traffic,ip=192.0.2.5,ip=192.0.2.6";

/// The findings of the trail; without any it has no list of them.
fn kinds(world: &World) -> Vec<String> {
    let trail = world.trail();
    let findings = trail["findings"].as_array().into_iter().flatten();
    findings.map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
}

// Shows 2.16.
#[test]
fn a_guest_has_its_filter_with_each_address_until_it_ends() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", CLEAN]);
    let rules = world.ruleset();
    for part in
        ["ip saddr 192.0.2.5 return", "ip saddr 192.0.2.6 return", "arp saddr ip 192.0.2.6 return", "egress"]
    {
        assert!(rules.contains(part), "{part}: {rules}");
    }
    // Who takes the guest up finds the filter as it is.
    world.kill_supervisor(&guest.name);
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(world.ruleset(), rules);
    assert_eq!(kinds(&world), [""; 0]);
    world.stop(&guest);
    assert_eq!(world.ruleset(), "");
    world.assert_clean();
}

// Shows 2.17.
#[test]
fn what_is_wrong_with_a_filter_is_named_before_anything_is_opened() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let attach = |filter: &str| world.attach(&guest, &format!("bridge=br0,vhost=off,filter={filter}"));
    attach("clean-traffic").fails(2, "needs a value for $IP: add ip=VALUE");
    attach("no-mac-spoofing,ip=192.0.2.5").fails(2, "No filter of the interface uses $IP");
    attach("no-such-filter").fails(1, "There is no filter 'no-such-filter'");
    attach("clean-trafic").fails(1, "did you mean 'clean-traffic'?");
    let before = world.record_lines();
    assert!(!before.iter().any(|line| line.starts_with("open")), "{before:?}");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.18.
#[test]
fn a_filter_of_ones_own_is_taken_from_a_file_that_others_cannot_write_to() {
    let world = World::new();
    let guest = world.start("web1", &[]);
    let path = world.path("web.xml");
    let xml = "<filter name='web' chain='ipv4'>\n  <filterref filter='no-mac-spoofing'/>\n  <filterref filter='ports'/>\n</filter>\n";
    std::fs::write(&path, xml).unwrap();
    let beside = "[[filter]]\nname = \"ports\"\nrules = [\n  \
         { direction = \"in\", action = \"drop\", ip = { protocol = \"tcp\", dstportstart = \"$PORTS\" } },\n]\n";
    std::fs::write(world.path("ports.toml"), beside).unwrap();
    let spec = format!(
        "bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter={},filter-parameter=PORTS=23,filter-parameter=PORTS=25",
        path.display()
    );
    world.attach(&guest, &spec).ok();
    let rules = world.ruleset();
    for part in ["tcp dport 23 drop", "tcp dport 25 drop", "ether saddr != 52:54:00:00:00:01 drop"] {
        assert!(rules.contains(part), "{part}: {rules}");
    }
    world.detach(&guest, 1, &["--force"]).ok();
    assert_eq!(world.ruleset(), "");

    std::fs::write(world.path("ports.toml"), beside.replace("dstportstart", "dstportstrat")).unwrap();
    world.attach(&guest, &spec).fails(1, "ports.toml:4:");
    std::fs::write(world.path("ports.toml"), beside).unwrap();
    std::fs::set_permissions(world.path("ports.toml"), std::fs::Permissions::from_mode(0o646)).unwrap();
    world.attach(&guest, &spec).fails(1, "can be written by others");
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.27.
#[test]
fn the_next_supervisor_goes_by_the_rules_that_were_set_not_by_their_file() {
    let world = World::new();
    let path = world.path("web.xml");
    let file = |rule: &str| {
        let xml =
            format!("<filter name='web' chain='ipv4'><filterref filter='no-mac-spoofing'/>{rule}</filter>\n");
        std::fs::write(&path, xml).unwrap();
    };
    let drop = |port: u16| format!("<rule action='drop' direction='in'><tcp dstportstart='{port}'/></rule>");
    let adopt = || {
        world.kill_supervisor("web1");
        world.taptrail(["adopt", "--background", "web1"]).ok();
    };
    file(&drop(23));
    let spec = format!("bridge=br0,mac=52:54:00:00:00:01,vhost=off,filter={}", path.display());
    let guest = world.start("web1", &["--nic", &spec]);
    let rules = world.ruleset();
    file(&drop(25));
    adopt();
    assert_eq!(world.ruleset(), rules, "it has changed");
    std::fs::remove_file(&path).unwrap();
    adopt();
    world.nft("flush ruleset");
    world.until("the rules are set again", || world.ruleset() == rules);
    assert_eq!(kinds(&world), ["filter-lost"], "flushed, and nothing else");

    // An older taptrail kept no rules: those of a file that is gone are not known.
    world.kill_supervisor("web1");
    let ledger = rusqlite::Connection::open(taptrail_ledger::Ledger::file(&world.state())).unwrap();
    ledger.execute("UPDATE interface SET rules = NULL", []).unwrap();
    std::mem::drop(ledger);
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(kinds(&world), ["filter-lost", "filter-lost"]);
    world.stop(&guest);
    world.assert_clean();
}

// Shows 2.26.
#[test]
fn a_filter_is_changed_and_removed_while_its_guest_runs_on_record() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", "bridge=br0,mac=52:54:00:00:00:01,vhost=off"]);
    let set = |filter: &str| world.taptrail(["set-filter", "web1", "52:54:00:00:00:01", filter]);
    set("no-mac-spoofing").ok();
    assert!(world.ruleset().contains("ether saddr != 52:54:00:00:00:01 drop"));
    set("clean-traffic,ip=192.0.2.5").ok();
    let rules = world.ruleset();
    assert!(rules.contains("ip saddr 192.0.2.5 return"), "{rules}");
    assert_eq!(world.record_lines().iter().filter(|line| *line == "filter 01 tun vnet0").count(), 2);

    // What is refused changes nothing.
    set("clean-traffic").fails(2, "needs a value for $IP");
    set("no-such-filter").fails(1, "There is no filter 'no-such-filter'");
    set("no-mac-spoofing,mtu=9000").fails(2, "Only filters and their parameters can be changed");
    world
        .taptrail(["set-filter", "web1", "52:54:00:00:00:09", "none"])
        .fails(1, "no interface 52:54:00:00:00:09");
    assert_eq!(world.ruleset(), rules);

    // The next supervisor knows the new filter.
    world.kill_supervisor(&guest.name);
    world.taptrail(["adopt", "--background", "web1"]).ok();
    assert_eq!(world.ruleset(), rules);
    assert_eq!(kinds(&world), [""; 0]);
    world.nft("flush ruleset");
    world.until("the new filter is set again", || world.ruleset() == rules);

    set("none").ok();
    assert_eq!(world.ruleset(), "");
    world.stop(&guest);
    // Flushed by somebody, and removed by request: a guest without its filter is a finding.
    assert_eq!(kinds(&world), ["filter-lost", "filter-lost"]);
    world.assert_clean();
}

// Shows 2.26.
#[test]
fn a_change_that_fails_leaves_the_old_filter_in_force() {
    let mut world = World::new();
    // This nft refuses transactions while the file `broken` exists.
    let (nft, broken) = (world.path("nft"), world.path("broken"));
    let script = format!(
        "#!/bin/sh\n[ \"$2\" = -f ] && [ -e {} ] && {{ echo 'Error: not today' >&2; exit 1; }}\nexec /usr/sbin/nft \"$@\"\n",
        broken.display()
    );
    std::fs::write(&nft, script).unwrap();
    std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
    world.extra.push(("TAPTRAIL_NFT".to_owned(), nft.display().to_string()));
    let guest = world.start("web1", &["--nic", CLEAN]);
    let rules = world.ruleset();
    std::fs::write(&broken, "").unwrap();
    let set = ["set-filter", "web1", "52:54:00:00:00:01", "no-mac-spoofing"];
    world.taptrail(set).fails(1, "not today; the old filter is in force");
    assert_eq!(world.ruleset(), rules);
    assert_eq!(kinds(&world), [""; 0]);
    std::fs::remove_file(&broken).unwrap();
    world.taptrail(set).ok();
    world.stop(&guest);
    world.assert_clean();
}
