//! libvirt's guests: trails compared with `/proc`, with the real libvirtd of this machine.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::world::libvirt::{Domain, Held, Libvirt, Nic, uuid, virsh};
use serde_json::Value;
use taptrail_kernel::proc::raw_devices;

/// A MAC of these tests alone: guests of other tests write to the same audit log.
fn mac(last: u8) -> String {
    format!("52:54:00:0a:1b:{last:02x}")
}

/// For qemu.conf: by default the `/dev` that libvirt gives each QEMU has no tun.
const OWN_TUN: &str = r#"cgroup_device_acl = ["/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom",
    "/dev/ptmx", "/dev/kvm", "/dev/net/tun"]
"#;

/// A device as one line, with `-` for unknown values.
fn line(mac: &Value, device: &Value, queues: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let words = [mac, &device["kind"], &device["path"], &device["rdev"], &device["dev"]];
    format!("{} x{queues}", words.map(word).join(" "))
}

/// The devices that `/proc` shows in a guest's QEMU. No audit log has a tap's interface.
fn held_in_proc(domain: &Domain, names_taps: bool) -> Vec<String> {
    let text = |held: Held| {
        let dev = if held.kind == "tun" && !names_taps { "-".to_owned() } else { held.dev };
        format!("{} {} {} {} {dev} x{}", held.mac, held.kind, held.path, held.rdev, held.queues)
    };
    sorted(domain.holds().into_iter().map(text))
}

/// The devices that the trail has as held.
fn held_in_trail(trail: &Value) -> Vec<String> {
    let holdings = trail["holdings"].as_array().unwrap().iter();
    let held = holdings.filter(|holding| holding["state"] == "held");
    sorted(held.map(|holding| line(&holding["mac"], &holding["device"], &holding["queues"])))
}

/// The guest's devices with this verdict of `verify`. Only the record has the MAC.
fn rows_with_verdict(verified: &Value, domain: &Domain, verdict: &str) -> Vec<String> {
    let rows = verified["devices"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["process"]["pid"] == domain.pid && row["verdict"] == verdict);
    sorted(rows.map(|row| line(&row["holding"]["mac"], &row["device"], &row["queues"])))
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// Asserts that QEMU holds so many devices; that the log alone has them, as far as it can; that the
/// watcher's ledger, alone and with the log, has them definitively; and that `verify` accounts for
/// them.
#[track_caller]
fn assert_agree(libvirt: &Libvirt, domain: &Domain, devices: usize) {
    let held = held_in_proc(domain, true);
    assert_eq!(held.len(), devices, "{held:?}");
    assert_eq!(held_in_trail(&libvirt.log(&domain.uuid)), held_in_proc(domain, false));
    assert_eq!(rows_with_verdict(&libvirt.verify_log(0), domain, "accounted"), held);
    assert_watcher_agrees(libvirt, domain, devices);
}

/// The watcher's part of [`assert_agree`], for states that a log alone can't show.
#[track_caller]
fn assert_watcher_agrees(libvirt: &Libvirt, domain: &Domain, devices: usize) {
    let held = held_in_proc(domain, true);
    assert_eq!(held.len(), devices, "{held:?}");
    libvirt.world.until("the watcher sees it", || held_in_trail(&libvirt.ledger(&domain.uuid)) == held);
    for trail in [libvirt.ledger(&domain.uuid), libvirt.trail(&domain.uuid)] {
        assert_eq!(held_in_trail(&trail), held);
        for holding in trail["holdings"].as_array().unwrap() {
            let granted = holding["state"] == "held" || holding["state"] == "released";
            assert!(!granted || is_definitive(holding), "{holding:#}");
        }
    }
    assert_eq!(rows_with_verdict(&libvirt.verify(0), domain, "accounted"), held);
}

/// Whether a holding is definitive, or as certain as this kernel can show: only a driver that is a
/// module counts the open files of a macvtap whose link libvirt did not delete; and in a container
/// pid 1 can't be inspected.
fn is_definitive(holding: &Value) -> bool {
    let uncounted = !Path::new("/sys/module/macvtap/refcnt").exists()
        && holding["device"]["kind"] == "macvtap"
        && (holding["end_doubt"] == "uncounted" || holding["end_doubt"] == "unseen");
    holding["certainty"] == if uncounted { "inferred" } else { "definitive" }
}

/// A guest's released devices, and what ended each.
fn released(trail: &Value) -> Vec<String> {
    let over = trail["holdings"].as_array().unwrap().iter().filter(|holding| holding["state"] == "released");
    let text = |holding: &Value| {
        let (mac, device) = (&holding["mac"], &holding["device"]);
        format!("{} {}", line(mac, device, &holding["queues"]), holding["ended_by"].as_str().unwrap())
    };
    sorted(over.map(text))
}

/// The kinds of finding about a guest.
fn findings(trail: &Value) -> Vec<&str> {
    trail["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

/// The state and certainty of each device.
fn states(trail: &Value) -> Vec<String> {
    let text =
        |of: &Value| format!("{} {}", of["state"].as_str().unwrap(), of["certainty"].as_str().unwrap());
    trail["holdings"].as_array().unwrap().iter().map(text).collect()
}

fn wait_for_end(libvirt: &Libvirt, domain: &Domain) {
    libvirt.world.until("libvirt knows", || !virsh(&["domstate", &domain.uuid]).success());
}

// Shows 10.17, 13.35.
#[test]
fn auditing_shows_a_guests_devices_through_its_whole_life() {
    let Some(libvirt) = Libvirt::start() else { return };
    let _watch = libvirt.watch();
    let first = Nic::on("br0", &mac(1)).queues(2);
    let guest = libvirt.create("whole-life", 1, &[first, Nic::on("lower", &mac(2))]);
    assert_agree(&libvirt, &guest, 2);
    let (tap, macvtap) = (Nic::on("br0", &mac(3)).queues(2), Nic::on("lower", &mac(4)));
    libvirt.attach(&guest, &tap);
    libvirt.attach(&guest, &macvtap);
    assert_agree(&libvirt, &guest, 4);
    // For a change of bridge libvirt writes the records of a detach and an attach.
    libvirt.update(&guest, &Nic::on("br1", &mac(1)).queues(2));
    libvirt.world.until("both are read", || !findings(&libvirt.ledger(&guest.uuid)).is_empty());
    assert_agree(&libvirt, &guest, 4);
    let before = held_in_proc(&guest, true);
    libvirt.detach(&guest, &tap);
    assert_agree(&libvirt, &guest, 3);
    libvirt.detach(&guest, &macvtap);
    assert_agree(&libvirt, &guest, 2);
    libvirt.attach(&guest, &tap);
    assert_agree(&libvirt, &guest, 3);
    let last = held_in_proc(&guest, true);
    libvirt.destroy(&guest);
    assert_agree(&libvirt, &guest, 0);
    let detached = before.iter().filter(|line| line.starts_with(&mac(3)) || line.starts_with(&mac(4)));
    let detached = detached.map(|line| format!("{line} detach"));
    let stopped = last.iter().map(|line| format!("{line} stop"));
    assert_eq!(released(&libvirt.ledger(&guest.uuid)), sorted(detached.chain(stopped)));
    for trail in [libvirt.log(&guest.uuid), libvirt.trail(&guest.uuid)] {
        assert_eq!(findings(&trail), ["reattached-without-open"]);
    }
}

// Shows 10.18, 13.35.
#[test]
fn auditing_alone_can_not_show_which_of_two_interfaces_with_one_mac_went_and_a_watcher_does() {
    let Some(libvirt) = Libvirt::start() else { return };
    let _watch = libvirt.watch();
    let guest = libvirt.create("same-mac", 2, &[Nic::on("br0", &mac(1)), Nic::on("br1", &mac(1))]);
    assert_agree(&libvirt, &guest, 2);
    let two = held_in_proc(&guest, true);
    let third = Nic::on("br0", &mac(1)).alias("ua-third");
    libvirt.attach(&guest, &third);
    assert_agree(&libvirt, &guest, 3);
    let went: Vec<_> = held_in_proc(&guest, true).into_iter().filter(|line| !two.contains(line)).collect();
    libvirt.device("detach-device", &guest, &Nic::on("br0", &mac(1))).fails(1, "multiple devices matching");
    assert_agree(&libvirt, &guest, 3);
    libvirt.detach(&guest, &third);
    assert_eq!(held_in_proc(&guest, true), two);
    // Until the log goes on, the unplug may be the first half of a change of bridge.
    libvirt.world.until("none is", || states(&libvirt.log(&guest.uuid)) == ["held ambiguous"; 3]);
    let log = libvirt.log(&guest.uuid);
    assert_eq!(findings(&log), ["duplicate-mac", "ambiguous-release"]);
    assert_eq!(
        rows_with_verdict(&libvirt.verify_log(0), &guest, "accounted"),
        two,
        "two of the three are enough"
    );
    assert_watcher_agrees(&libvirt, &guest, 2);
    let trail = libvirt.trail(&guest.uuid);
    assert_eq!(released(&trail), [format!("{} detach", went[0])]);
    assert_eq!(findings(&trail), ["duplicate-mac"]);
    libvirt.destroy(&guest);
    assert_agree(&libvirt, &guest, 0);
}

// Shows 10.17, 13.35.
#[test]
fn auditing_shows_what_fails_is_saved_and_crashes() {
    let Some(libvirt) = Libvirt::start() else { return };
    let _watch = libvirt.watch();
    let fails = [Nic::on("br0", &mac(3)).queues(2).rom("/no-such.rom"), Nic::on("lower", &mac(4))];
    libvirt.try_create("boot-fails", 3, &fails).fails(1, "Failed to create domain");
    for trail in [libvirt.log(&uuid(3)), libvirt.trail(&uuid(3))] {
        assert_eq!(states(&trail), ["never-granted inferred"; 2]);
        let each = ["false-start", "open-without-grant"];
        assert_eq!(findings(&trail), [each, each].concat(), "libvirt records a start");
    }
    assert_eq!(libvirt.world.links(), ["br1"]);
    assert_eq!(libvirt.verify(0)["devices"], Value::Array(vec![]));

    let nics = [Nic::on("br0", &mac(1)), Nic::on("lower", &mac(2)).queues(2)];
    let guest = libvirt.create("saved", 4, &nics);
    assert_agree(&libvirt, &guest, 2);
    let held = libvirt.world.taptrail(["nics", "saved", "--format", "json"]).ok();
    let held: Value = serde_json::from_str(&held.stdout).unwrap();
    let of = |nic: &Value| (nic["mac"].clone(), nic["backend"].clone(), nic["queues"].clone());
    let mut held: Vec<_> = held.as_array().unwrap().iter().map(of).collect();
    held.sort_by_key(|(_, backend, _)| backend.to_string());
    let row = |mac: Value, backend: &str, queues: u32| (mac, backend.into(), queues.into());
    // Only the watcher's ledger names the tap's MAC: this libvirtd keeps its state elsewhere.
    assert_eq!(held, [row(mac(1).into(), "bridge=br0", 1), row(mac(2).into(), "macvtap=lower", 2)]);
    for nic in fails {
        libvirt.device("attach-device", &guest, &nic.rom("/no-such.rom")).fails(1, "no-such.rom");
        libvirt.world.until("all is taken back", || guest.holds().len() == 2);
    }
    assert_agree(&libvirt, &guest, 2);
    let restored = libvirt.save_and_restore("saved", &guest);
    assert_agree(&libvirt, &restored, 2);
    restored.kill();
    wait_for_end(&libvirt, &restored);
    assert_agree(&libvirt, &restored, 0);
    let trail = libvirt.trail(&restored.uuid);
    let (had, failed) = (["released definitive"; 2], ["never-granted inferred"; 2]);
    assert_eq!(states(&trail), [had, failed, had].concat());
    let each = ["attach-failed", "open-without-grant"];
    assert_eq!(findings(&trail), [each, each].concat());
}

// Shows 10.18, 13.35.
#[test]
fn auditing_alone_misses_a_qemu_that_ended_while_no_libvirtd_ran_and_a_watcher_reports_it_at_once() {
    let Some(mut libvirt) = Libvirt::start() else { return };
    let _watch = libvirt.watch();
    let nics = [Nic::on("br0", &mac(1)), Nic::on("lower", &mac(2))];
    let killed = libvirt.create("killed", 5, &nics);
    let other = libvirt.create("other", 6, &[Nic::on("br0", &mac(3))]);
    assert_agree(&libvirt, &killed, 2);
    libvirt.kill_daemon();
    killed.kill();
    assert_watcher_agrees(&libvirt, &killed, 0);
    assert_agree_while_another_is_missing(&libvirt, &other);
    libvirt.start_daemon();
    wait_for_end(&libvirt, &killed);
    assert_agree_while_another_is_missing(&libvirt, &other);
    assert_eq!(
        held_in_trail(&libvirt.log(&killed.uuid)).len(),
        2,
        "no record of libvirt's shows that they are gone"
    );
    let again = libvirt.create("killed", 5, &nics);
    assert_agree(&libvirt, &again, 2);
    libvirt.destroy(&again);
    assert_agree(&libvirt, &again, 0);
    assert_eq!(findings(&libvirt.log(&again.uuid)), ["release-by-restart"; 2]);
    let trail = libvirt.trail(&again.uuid);
    let holdings = trail["holdings"].as_array().unwrap();
    assert_eq!(holdings.len(), 4);
    for holding in holdings {
        assert!(holding["state"] == "released" && is_definitive(holding), "{holding:#}");
    }
    assert_eq!(findings(&trail), Vec::<&str>::new());
    libvirt.destroy(&other);
    assert_agree(&libvirt, &other, 0);
}

/// Without the watcher, the devices of the ended QEMU are missing.
fn assert_agree_while_another_is_missing(libvirt: &Libvirt, other: &Domain) {
    let verified = libvirt.verify_log(1);
    let rows = verified["devices"].as_array().unwrap().iter();
    let verdicts: Vec<_> = rows.map(|row| row["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["accounted", "missing", "missing"]);
    assert_eq!(rows_with_verdict(&verified, other, "accounted"), held_in_proc(other, true));
    assert_watcher_agrees(libvirt, other, 1);
}

// Shows 13.36.
#[test]
fn auditing_and_a_watcher_that_was_away_show_what_is_held_and_what_ended() {
    let Some(libvirt) = Libvirt::start() else { return };
    // One guest runs before the first watcher does.
    let first = libvirt.create("before", 7, &[Nic::on("br0", &mac(1)).queues(2)]);
    libvirt.attach(&first, &Nic::on("lower", &mac(2)));
    let watch = libvirt.watch();
    assert_agree(&libvirt, &first, 2);
    let second = libvirt.create("ends", 8, &[Nic::on("br0", &mac(3))]);
    assert_agree(&libvirt, &second, 1);
    watch.stop();
    second.kill();
    wait_for_end(&libvirt, &second);
    libvirt.detach(&first, &Nic::on("lower", &mac(2)));
    libvirt.attach(&first, &Nic::on("br1", &mac(4)));
    let third = libvirt.create("meanwhile", 9, &[Nic::on("lower", &mac(5))]);
    let _watch = libvirt.watch();
    assert_agree(&libvirt, &first, 2);
    assert_agree(&libvirt, &second, 0);
    assert_agree(&libvirt, &third, 1);
    libvirt.destroy(&first);
    libvirt.destroy(&third);
    assert_agree(&libvirt, &first, 0);
    assert_agree(&libvirt, &third, 0);
    for domain in [&first, &second, &third] {
        assert_eq!(findings(&libvirt.trail(&domain.uuid)), Vec::<&str>::new());
    }
    // The end of a QEMU that nobody observed has a time span.
    assert!(libvirt.ledger(&second.uuid)["holdings"][0]["last_seen"].is_string());
    // An observed end has none. (The end of a macvtap shows a moment later, when libvirt has
    // deleted its link.)
    let holdings = libvirt.ledger(&first.uuid)["holdings"].as_array().unwrap().clone();
    let holding = holdings.iter().find(|holding| holding["mac"] == mac(1).as_str()).unwrap();
    assert!(holding["last_seen"].is_null(), "{holding:#}");
}

// Shows 10.19, 13.35.
#[test]
fn auditing_and_a_watcher_find_a_tap_that_qemu_opened_by_itself() {
    let Some(libvirt) = Libvirt::start_with(OWN_TUN) else { return };
    let _watch = libvirt.watch_with(&["--every", "1s"]);
    let guest = libvirt.create("opens-itself", 10, &[Nic::on("br0", &mac(1))]);
    assert_agree(&libvirt, &guest, 1);
    libvirt.monitor(&guest, "netdev_add tap,id=own,ifname=own0,script=no,downscript=no");
    let (own, given): (Vec<_>, Vec<_>) =
        held_in_proc(&guest, true).into_iter().partition(|line| line.contains(" own0 "));
    assert_eq!((own.len(), given.len()), (1, 1), "{own:?} {given:?}");
    let log = libvirt.log(&guest.uuid);
    assert_eq!(held_in_trail(&log).len(), 1, "libvirt knows nothing of it");
    assert_eq!(findings(&log), ["unmanaged-open"], "the kernel does");
    let record_lines = || libvirt.world.record_lines();
    libvirt.world.until("it is seen", || record_lines().contains(&"seen tun own0 q0".to_owned()));
    assert_eq!(findings(&libvirt.ledger(&guest.uuid)), ["unaccounted-device"]);
    for verified in [libvirt.verify_log(1), libvirt.verify(1)] {
        assert_eq!(rows_with_verdict(&verified, &guest, "accounted"), given);
        assert_eq!(rows_with_verdict(&verified, &guest, "unaccounted"), ["- tun /dev/net/tun 0A:C8 own0 x1"]);
    }
    libvirt.monitor(&guest, "netdev_del own");
    libvirt.world.until("it is gone", || record_lines().contains(&"gone tun own0 q0".to_owned()));
    assert_agree(&libvirt, &guest, 1);
    libvirt.destroy(&guest);
    assert_agree(&libvirt, &guest, 0);
}

#[test]
fn auditing_and_a_watcher_distinguish_an_interface_without_a_device_from_a_lost_open() {
    let Some(libvirt) = Libvirt::start() else { return };
    let watch = libvirt.watch_with(&["--every", "1s"]);
    let guest = libvirt.create("no-device", 11, &[Nic::on("br0", &mac(1))]);
    assert_agree(&libvirt, &guest, 1);
    let xml = libvirt.world.path("user-nic.xml");
    let nic = format!("<interface type='user'><mac address='{}'/><model type='virtio'/></interface>", mac(2));
    std::fs::write(&xml, nic).unwrap();
    virsh(&["attach-device", &guest.uuid, xml.to_str().unwrap(), "--live"]).ok();
    libvirt.world.until("the grant", || {
        let stderr = watch.stderr();
        stderr.lines().any(|line| line.contains(r#""kind":"granted""#) && line.contains(&mac(2)))
    });
    // The log alone can't show the difference, and a watcher that has scanned QEMU does not report
    // it.
    assert_eq!(findings(&libvirt.log(&guest.uuid)), ["grant-without-open"]);
    assert_agree(&libvirt, &guest, 1);
    libvirt.destroy(&guest);
    assert_agree(&libvirt, &guest, 0);
    assert!(!watch.stderr().contains("grant-without-open"), "{}", watch.stderr());
    watch.stop();
}

#[test]
fn auditing_has_no_record_of_virt_qemu_run_and_verify_names_it() {
    let Some(libvirt) = Libvirt::start() else { return };
    let root = libvirt.world.path("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::copy("/etc/libvirt/qemu.conf", root.join("etc/qemu.conf")).unwrap();
    let xml = libvirt.world.path("embedded.xml");
    let nic = format!(
        "<interface type='bridge'><mac address='{}'/><source bridge='br0'/><model type='virtio'/></interface>",
        mac(1)
    );
    let guest = format!(
        "<domain type='qemu'><name>embedded</name><uuid>{}</uuid><memory unit='MiB'>64</memory><os>\
         <type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>{nic}</devices></domain>",
        uuid(12)
    );
    std::fs::write(&xml, guest).unwrap();
    let mut runs = Command::new("/usr/bin/virt-qemu-run");
    runs.arg("--root").arg(&root).arg(&xml).stdin(Stdio::null());
    let mut runs = runs.spawn().unwrap();
    let pid = || std::fs::read_to_string(root.join("run/qemu/embedded.pid")).ok()?.trim().parse().ok();
    libvirt.world.until("QEMU runs", || {
        let ended = runs.try_wait().unwrap();
        assert!(ended.is_none(), "virt-qemu-run ended: {ended:?}");
        pid().is_some_and(|pid: u32| raw_devices(pid).is_ok_and(|held| !held.is_empty()))
    });
    let verified = libvirt.verify(1);
    let rows = verified["devices"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["verdict"]), (1, &"unaccounted".into()));
    assert_eq!(rows[0]["process"]["pid"], pid().unwrap());
    let manager = &rows[0]["process"]["manager"];
    assert_eq!(
        (&manager["kind"], &manager["path"]),
        (&"virt-qemu-run".into(), &root.to_str().unwrap().into())
    );
    let text = rows[0]["text"].as_str().unwrap();
    assert!(text.ends_with("writes no audit records"), "{text}");
    let trail = libvirt.log(&uuid(12));
    assert_eq!(trail["holdings"], Value::Array(vec![]), "it wrote no record");
    runs.kill().unwrap();
    runs.wait().unwrap();
}
