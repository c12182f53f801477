//! `cargo xtask record-libvirt` on a real virtual machine with a real libvirt (`scripts/setup test`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_scenario_is_recorded_with_its_truth() {
    let to = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let done = command.args(["record-libvirt", "--only", "15-ethernet"]).arg(to.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let read = |name: &str| fs::read_to_string(to.path().join("15-ethernet").join(name)).unwrap();

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
}
