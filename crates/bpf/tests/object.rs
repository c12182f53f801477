//! The committed object file is compiled from the source beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_object_is_made_of_the_source_beside_it() {
    let source = fs::read(here().join("program/witness.bpf.c")).unwrap();
    let object = fs::read(here().join("program/witness.bpf.o")).unwrap();
    assert!(
        object.windows(source.len()).any(|bytes| bytes == source),
        "program/witness.bpf.o has another source than program/witness.bpf.c in it: run 'make bpf'"
    );
}

/// Only Debian 12's compiler produces exactly these bytes.
#[test]
fn the_object_is_what_the_compiler_makes_of_it() {
    let compiler = Command::new("clang-14").arg("--version").output();
    let debian_12 = "Debian clang version 14.0.6\n";
    if !compiler.is_ok_and(|compiler| compiler.stdout.starts_with(debian_12.as_bytes())) {
        eprintln!("not compared: there is no {debian_12}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("witness.bpf.o");
    let make = Command::new("make")
        .arg("--silent")
        .arg("--directory")
        .arg(here())
        .arg(format!("OBJECT={}", made.display()))
        .output()
        .unwrap();
    assert!(make.status.success(), "{}", String::from_utf8_lossy(&make.stderr));
    let committed = fs::read(here().join("program/witness.bpf.o")).unwrap();
    assert!(fs::read(made).unwrap() == committed, "program/witness.bpf.o is not what 'make bpf' makes");
}
