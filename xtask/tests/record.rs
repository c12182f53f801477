//! `cargo xtask record-libvirt` in a real virtual machine with a real libvirt: this machine's
//! (`scripts/setup test`), and that of another Debian, which is fetched.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use serde_json::Value;

/// Records the scenario `15-ethernet`; the name of the folder with the recording, and what its
/// audit log and its truth have in common.
fn record(options: &[&str]) -> String {
    let to = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["record-libvirt", "--only", "15-ethernet"]).args(options).arg(to.path());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut folders = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let folder = folders.next().unwrap().into_string().unwrap();
    assert_eq!(folders.next(), None);
    let read =
        |name: &str| fs::read_to_string(to.path().join(&folder).join("15-ethernet").join(name)).unwrap();

    let records = |text: &str, what: &str| text.lines().filter(|line| line.contains(what)).count();
    for (what, count) in [("path=\"/dev/net/tun\"", 2), ("path=\"/dev/vhost-net\"", 2), ("op=stop", 1)] {
        assert_eq!(records(&read("audit.log"), what), count, "{what}");
        assert_eq!(records(&read("libvirtd.log"), what), count, "{what}");
    }
    let truth: Value = serde_json::from_str(&read("truth.json")).unwrap();
    let seen = truth["fd_intervals"].as_array().unwrap();
    let of = |kind: &str, mac: &str| {
        seen.iter().filter(|one| one["kind"] == kind && one["guest_mac"] == mac).count()
    };
    for kind in ["tun", "vhost-net"] {
        assert_eq!((of(kind, "52:54:00:77:15:01"), of(kind, "52:54:00:77:15:02")), (2, 1), "{kind}");
    }
    assert!(read("README").contains("type='ethernet'"));
    // `libvirt 11.3.0 (libvirtd), QEMU 10.0.13, auditd 4.0.2`
    assert!(read("README").contains(&format!("\n{}.", folder.replace('-', " "))), "{}", read("README"));
    folder
}

#[test]
fn a_scenario_is_recorded_with_its_truth() {
    assert!(record(&[]).starts_with("libvirt-"));
}

#[test]
fn another_debians_libvirt_is_recorded_like_this_machines() {
    assert_eq!(record(&["--suite", "trixie"]), "libvirt-11.3");
}
