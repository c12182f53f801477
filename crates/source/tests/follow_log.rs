//! The example `follow_log`, on a real log.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[test]
fn the_example_prints_who_held_what() {
    // Beside this test: target/PROFILE/deps and target/PROFILE/examples.
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().parent().unwrap().join("examples/follow_log");
    let log = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/libvirt/libvirt-12.9/02-macvtap/audit.log");
    let output = Command::new(program).arg("--once").arg(log).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(": macvtap0 released at 2026-"), "{text}");
}
