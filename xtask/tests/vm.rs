//! `cargo xtask vm` on a real virtual machine. The first of these tests fetches its kernel.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// `xtask vm` with these arguments.
fn vm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("vm").args(arguments);
    command
}

fn done(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn a_command_runs_as_root_beside_a_real_vhost_net_and_changes_nothing_here() {
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("given"), "from the host\n").unwrap();
    let script = "
        exec 2>&1
        id -u; pwd; cat given
        stat -c '%F %t:%T' /dev/vhost-net /dev/net/tun
        ip tuntap add dev t0 mode tap && ls /sys/class/net
        echo \"$TAPTRAIL_WORD\" \"$ASKED\" \"$SET\" [$HIDDEN]
        echo overwritten >given; echo new >new; cat given new
        sleep 1000 &
        exit 7";
    let mut command = vm(&["--env", "ASKED", "--env", "SET=set = here", "--", "sh", "-c", script]);
    command.env("TAPTRAIL_WORD", "word").env("ASKED", "asked").env("HIDDEN", "hidden");
    let (code, stdout, stderr) = done(command.current_dir(&here));
    let expected = format!(
        "0\n{}\nfrom the host\ncharacter special file a:ee\ncharacter special file a:c8\nlo\nt0\n\
         word asked set = here []\noverwritten\nnew\n",
        here.path().display()
    );
    assert_eq!((code, stdout), (Some(7), expected), "{stderr}");

    assert_eq!(std::fs::read_to_string(here.path().join("given")).unwrap(), "from the host\n");
    assert!(!here.path().join("new").exists());
    assert!(!Path::new("/sys/class/net/t0").exists());
}

#[test]
fn both_outputs_come_whole_and_apart_whatever_ends_the_command() {
    let script = "seq 1 200000; seq 1 200000 | sed s/^/-/ >&2; kill -KILL $$";
    let (code, stdout, stderr) = done(&mut vm(&["--", "sh", "-c", script]));
    assert_eq!(code, Some(128 + 9), "{stderr}");
    assert!(stdout.lines().map(str::to_owned).eq((1..=200_000).map(|line| line.to_string())));
    let stderr = stderr.lines().filter(|line| !line.starts_with("xtask: fetching")).map(str::to_owned);
    assert!(stderr.eq((1..=200_000).map(|line| format!("-{line}"))));
}

#[test]
fn a_boot_that_fails_is_125_with_the_end_of_the_console() {
    let (code, stdout, stderr) = done(&mut vm(&["--append", "rdinit=/nothing", "--", "true"]));
    assert_eq!((code, stdout.as_str()), (Some(125), ""), "{stderr}");
    assert!(stderr.contains("Kernel panic - not syncing: VFS"), "{stderr}");
    assert!(stderr.ends_with("xtask: The virtual machine ended at its boot\n"), "{stderr}");
}

#[test]
fn a_virtual_machine_that_dies_under_its_command_is_125() {
    let script = "echo before; sync; echo b >/proc/sysrq-trigger; sleep 1000";
    let (code, _, stderr) = done(&mut vm(&["--", "sh", "-c", script]));
    assert_eq!(code, Some(125), "{stderr}");
    assert!(stderr.contains("ended before the command did"), "{stderr}");
}

#[test]
fn a_command_that_can_not_be_run_is_126_or_127() {
    let (code, _, stderr) = done(&mut vm(&["--", "/nothing"]));
    assert_eq!(code, Some(127), "{stderr}");
    assert!(stderr.contains("can't run /nothing: No such file"), "{stderr}");
}

#[test]
fn a_command_that_takes_too_long_is_124() {
    let (code, stdout, stderr) =
        done(&mut vm(&["--timeout", "15s", "--", "sh", "-c", "echo begun; sleep 1000"]));
    assert_eq!((code, stdout.as_str()), (Some(124), "begun\n"), "{stderr}");
    assert!(stderr.contains("did not end within 15s"), "{stderr}");
}

#[test]
fn arguments_that_can_not_be_used_are_125() {
    let (code, _, stderr) = done(&mut vm(&["--kernel", "hurd", "--", "true"]));
    assert_eq!(code, Some(125));
    assert!(stderr.contains("stable"), "{stderr}");
}

#[test]
fn ctrl_c_ends_the_virtual_machine() {
    let (mut xtask, qemu) = running();
    kill_process(Pid::from_child(&xtask), Signal::INT).unwrap();
    assert_eq!(xtask.wait().unwrap().code(), Some(130));
    // It was waited for.
    assert!(!Path::new(&format!("/proc/{qemu}")).exists());
}

#[test]
fn the_virtual_machine_ends_even_with_a_killed_xtask() {
    let (mut xtask, qemu) = running();
    xtask.kill().unwrap();
    xtask.wait().unwrap();
    while is_alive(qemu) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A virtual machine whose command runs: xtask and QEMU's pid.
fn running() -> (Child, u32) {
    let mut command = vm(&["--", "sh", "-c", "echo running; sleep 1000"]);
    let mut xtask = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(xtask.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "running\n");
    let id = xtask.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    (xtask, children.trim().parse().unwrap())
}

/// Is it more than a dead process that nobody has waited for yet?
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}
