//! libvirt's guests: what is told of them beside what `/proc` shows, with the real libvirtd of this machine.

#![allow(clippy::unwrap_used)]

mod world;

use serde_json::Value;
use world::libvirt::{Domain, Held, Libvirt, Nic, uuid, virsh};

/// An address of these tests alone: guests of other tests write to the same audit log.
fn mac(last: u8) -> String {
    format!("52:54:00:0a:1b:{last:02x}")
}

/// A device on a line; of what is not known there is `-`.
fn line(mac: &Value, device: &Value, queues: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let words = [mac, &device["kind"], &device["path"], &device["rdev"], &device["dev"]];
    format!("{} x{queues}", words.map(word).join(" "))
}

/// What a guest is seen to hold. No audit log knows a tap's interface.
fn seen(domain: &Domain, names_taps: bool) -> Vec<String> {
    let text = |held: Held| {
        let dev = if held.kind == "tun" && !names_taps { "-".to_owned() } else { held.dev };
        format!("{} {} {} {} {dev} x{}", held.mac, held.kind, held.path, held.rdev, held.queues)
    };
    sorted(domain.holds().into_iter().map(text))
}

/// What the trail tells as held.
fn told(trail: &Value) -> Vec<String> {
    let holdings = trail["holdings"].as_array().unwrap().iter();
    let held = holdings.filter(|holding| holding["state"] == "held");
    sorted(held.map(|holding| line(&holding["mac"], &holding["device"], &holding["queues"])))
}

/// What is seen of a guest and has this verdict. What it is held for, only its record tells.
fn judged(verified: &Value, domain: &Domain, verdict: &str) -> Vec<String> {
    let rows = verified["devices"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["process"]["pid"] == domain.pid && row["verdict"] == verdict);
    sorted(rows.map(|row| line(&row["holding"]["mac"], &row["device"], &row["queues"])))
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// What QEMU holds, so many devices, is what the trail tells, and all is accounted for.
#[track_caller]
fn agree(libvirt: &Libvirt, domain: &Domain, devices: usize) {
    let held = seen(domain, true);
    assert_eq!(held.len(), devices, "{held:?}");
    assert_eq!(told(&libvirt.trail(&domain.uuid)), seen(domain, false));
    assert_eq!(judged(&libvirt.verify(0), domain, "accounted"), held);
}

/// The kinds of finding about a guest.
fn findings(trail: &Value) -> Vec<&str> {
    trail["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

/// What became of a device, and how certain that is.
fn state(holding: &Value) -> String {
    format!("{} {}", holding["state"].as_str().unwrap(), holding["certainty"].as_str().unwrap())
}

#[test]
fn auditing_tells_a_guests_devices_through_its_whole_life() {
    let Some(libvirt) = Libvirt::start() else { return };
    let first = Nic::on("br0", &mac(1)).queues(2);
    let guest = libvirt.create("whole-life", 1, &[first.clone(), Nic::on("lower", &mac(2))]);
    agree(&libvirt, &guest, 2);
    let (tap, macvtap) = (Nic::on("br0", &mac(3)).queues(2), Nic::on("lower", &mac(4)));
    libvirt.attach(&guest, &tap);
    libvirt.attach(&guest, &macvtap);
    agree(&libvirt, &guest, 4);
    // The records of another bridge are those of a detach and an attach.
    libvirt.update(&guest, &Nic::on("br1", &mac(1)).queues(2));
    agree(&libvirt, &guest, 4);
    libvirt.detach(&guest, &tap);
    agree(&libvirt, &guest, 3);
    libvirt.detach(&guest, &macvtap);
    agree(&libvirt, &guest, 2);
    libvirt.attach(&guest, &tap);
    agree(&libvirt, &guest, 3);
    libvirt.destroy(&guest);
    agree(&libvirt, &guest, 0);
    assert_eq!(findings(&libvirt.trail(&guest.uuid)), ["reattached-without-open"]);
}

#[test]
fn auditing_can_not_tell_which_of_two_interfaces_with_one_mac_went() {
    let Some(libvirt) = Libvirt::start() else { return };
    let guest = libvirt.create("same-mac", 2, &[Nic::on("br0", &mac(1)), Nic::on("br1", &mac(1))]);
    agree(&libvirt, &guest, 2);
    let third = Nic::on("br0", &mac(1)).alias("ua-third");
    libvirt.attach(&guest, &third);
    agree(&libvirt, &guest, 3);
    libvirt.device("detach-device", &guest, &Nic::on("br0", &mac(1))).fails(1, "multiple devices matching");
    agree(&libvirt, &guest, 3);
    libvirt.detach(&guest, &third);
    let left = seen(&guest, true);
    assert_eq!(left.len(), 2);
    assert_eq!(judged(&libvirt.verify(0), &guest, "accounted"), left);
    let trail = libvirt.trail(&guest.uuid);
    let held: Vec<_> = trail["holdings"].as_array().unwrap().iter().map(state).collect();
    assert_eq!(held, ["held ambiguous", "held ambiguous", "held ambiguous"]);
    assert_eq!(findings(&trail), ["duplicate-mac", "ambiguous-release"]);
    libvirt.destroy(&guest);
    agree(&libvirt, &guest, 0);
}

#[test]
fn auditing_tells_nothing_as_held_of_a_guest_that_failed_to_boot() {
    let Some(libvirt) = Libvirt::start() else { return };
    let nics = [Nic::on("br0", &mac(1)).queues(2).rom("/no-such.rom"), Nic::on("lower", &mac(2))];
    libvirt.try_create("boot-fails", 3, &nics).fails(1, "Failed to create domain");
    let trail = libvirt.trail(&uuid(3));
    let nothing: Vec<_> = trail["holdings"].as_array().unwrap().iter().map(state).collect();
    assert_eq!(nothing, ["never-granted inferred", "never-granted inferred"]);
    let each = ["false-start", "open-without-grant"];
    assert_eq!(findings(&trail), [each, each].concat(), "libvirt's records tell of a start");
    assert_eq!(libvirt.world.links(), ["br1"]);
    assert_eq!(libvirt.verify(0)["devices"], Value::Array(vec![]));
}

#[test]
fn auditing_tells_of_plugging_that_fails_of_saving_and_of_a_crash() {
    let Some(libvirt) = Libvirt::start() else { return };
    let guest = libvirt.create("saved", 7, &[Nic::on("br0", &mac(1)), Nic::on("lower", &mac(2)).queues(2)]);
    agree(&libvirt, &guest, 2);
    for nic in [Nic::on("br0", &mac(3)), Nic::on("lower", &mac(4))] {
        libvirt.device("attach-device", &guest, &nic.rom("/no-such.rom")).fails(1, "no-such.rom");
        libvirt.world.until("all is taken back", || guest.holds().len() == 2);
    }
    agree(&libvirt, &guest, 2);
    let restored = libvirt.save_and_restore("saved", &guest);
    agree(&libvirt, &restored, 2);
    restored.kill();
    libvirt.world.until("libvirt knows", || !virsh(&["domstate", &restored.uuid]).success());
    agree(&libvirt, &restored, 0);
    let each = ["attach-failed", "open-without-grant"];
    assert_eq!(findings(&libvirt.trail(&restored.uuid)), [each, each].concat());
}

#[test]
fn auditing_never_hears_of_a_qemu_that_ended_while_no_libvirtd_ran() {
    let Some(mut libvirt) = Libvirt::start() else { return };
    let nics = [Nic::on("br0", &mac(1)), Nic::on("lower", &mac(2))];
    let (killed, other) =
        (libvirt.create("killed", 4, &nics), libvirt.create("other", 5, &[Nic::on("br0", &mac(3))]));
    libvirt.kill_daemon();
    agree(&libvirt, &killed, 2);
    killed.kill();
    assert_eq!(killed.holds(), []);
    libvirt.start_daemon();
    virsh(&["domstate", &killed.uuid]).fails(1, "failed to get domain");
    assert_eq!(told(&libvirt.trail(&killed.uuid)).len(), 2, "no record tells that they are gone");
    let verified = libvirt.verify(1);
    let verdicts: Vec<_> =
        verified["devices"].as_array().unwrap().iter().map(|row| row["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["accounted", "missing", "missing"]);
    assert_eq!(judged(&verified, &other, "accounted"), seen(&other, true));
    // What it held is over for the trail once it starts anew.
    let again = libvirt.create("killed", 4, &nics);
    agree(&libvirt, &again, 2);
    libvirt.destroy(&again);
    agree(&libvirt, &again, 0);
    assert_eq!(findings(&libvirt.trail(&killed.uuid)), ["release-by-restart", "release-by-restart"]);
    libvirt.destroy(&other);
    agree(&libvirt, &other, 0);
}

#[test]
fn auditing_shows_a_tap_that_qemu_opened_by_itself() {
    // Otherwise QEMU's own `/dev` has no tun.
    let acl = r#"cgroup_device_acl = ["/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom",
        "/dev/ptmx", "/dev/kvm", "/dev/net/tun"]"#;
    let Some(libvirt) = Libvirt::start_with(acl) else { return };
    let guest = libvirt.create("opens-itself", 6, &[Nic::on("br0", &mac(1))]);
    agree(&libvirt, &guest, 1);
    libvirt.monitor(&guest, "netdev_add tap,id=own,ifname=own0,script=no,downscript=no");
    let (own, given): (Vec<_>, Vec<_>) =
        seen(&guest, true).into_iter().partition(|line| line.contains(" own0 "));
    assert_eq!((own.len(), given.len()), (1, 1), "{own:?} {given:?}");
    let trail = libvirt.trail(&guest.uuid);
    assert_eq!(told(&trail).len(), 1, "libvirt knows nothing of it");
    assert_eq!(findings(&trail), ["unaudited-open"], "the kernel does");
    let verified = libvirt.verify(1);
    assert_eq!(judged(&verified, &guest, "accounted"), given);
    assert_eq!(judged(&verified, &guest, "unaccounted"), ["- tun /dev/net/tun 0A:C8 own0 x1"]);
    libvirt.monitor(&guest, "netdev_del own");
    agree(&libvirt, &guest, 1);
    libvirt.destroy(&guest);
}
