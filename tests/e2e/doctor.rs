//! `taptrail doctor` on this machine: as root, with fewer rights, and with less of a host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use taptrail_ledger::Ledger;

use crate::world::auditing::Auditing;
use crate::world::{CommandResult, EMPTY, World, contract};

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";

/// The checks of an answer, by id, and the verdicts, by job.
struct Answer {
    code: i32,
    checks: BTreeMap<String, Value>,
    jobs: BTreeMap<String, Value>,
}

impl Answer {
    #[track_caller]
    fn of(done: &CommandResult) -> Self {
        let json: Value = serde_json::from_str(&done.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", done.stdout, done.stderr));
        contract::assert_valid("doctor", &json);
        let by = |rows: &Value, key: &str| {
            let rows = rows.as_array().unwrap().iter();
            rows.map(|row| (row[key].as_str().unwrap().to_owned(), row.clone())).collect()
        };
        Self { code: done.code(), checks: by(&json["checks"], "id"), jobs: by(&json["jobs"], "job") }
    }

    #[track_caller]
    fn status(&self, id: &str) -> &str {
        self.checks.get(id).unwrap_or_else(|| panic!("no {id} in {:?}", self.checks))["status"]
            .as_str()
            .unwrap()
    }

    #[track_caller]
    fn found(&self, id: &str) -> &str {
        self.checks.get(id).unwrap_or_else(|| panic!("no {id} in {:?}", self.checks))["found"]
            .as_str()
            .unwrap()
    }

    #[track_caller]
    fn way_out(&self, id: &str) -> &str {
        self.checks.get(id).unwrap_or_else(|| panic!("no {id} in {:?}", self.checks))["way_out"]
            .as_str()
            .unwrap()
    }

    fn verdict(&self, job: &str) -> &Value {
        &self.jobs[job]["verdict"]
    }
}

fn ask(world: &World, more: &[&str]) -> Answer {
    Answer::of(&world.taptrail([&["doctor", "--json"], more].concat()))
}

/// As [`ask`], in the namespaces or with the rights that `wrapper` makes. Other users can't reach
/// the built program, so a copy is run.
fn ask_by(world: &World, wrapper: &[&str], more: &[&str]) -> Answer {
    let program = copy(world);
    let mut command = Command::new(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(program)
        .args([&["doctor", "--json"], more].concat())
        .env("TAPTRAIL_STATE_DIR", world.state())
        .env("TAPTRAIL_RUN_DIR", world.run_dir())
        .env("TAPTRAIL_AUDIT_LOG", world.path("audit.log"))
        .current_dir("/")
        .stdin(Stdio::null());
    Answer::of(&CommandResult::from(command.output().unwrap()))
}

fn copy(world: &World) -> PathBuf {
    let program = world.path("taptrail");
    if !program.exists() {
        fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_taptrail"), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    program
}

const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];

/// A wrapper that runs a shell's commands in a mount namespace of its own, and then the program.
fn after(script: &str) -> Vec<String> {
    let script = format!("mount --make-rprivate / && {script} && exec \"$@\"");
    ["unshare", "--mount", "sh", "-ec", &script, "sh"].iter().map(ToString::to_string).collect()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

// Shows 16.1.
#[test]
fn root_is_told_what_is_there_and_nothing_is_changed() {
    let world = World::new();
    let modules = fs::read_to_string("/proc/modules").unwrap_or_default();
    let answer = ask(&world, &[]);
    // These are what the tests themselves need.
    for id in ["user-namespace", "cap-net-admin", "cap-own-dev", "pidfd", "kcmp", "tun", "bridge", "macvtap"]
    {
        assert_eq!(answer.status(id), "ok", "{id}: {}", answer.found(id));
    }
    assert_eq!(answer.status("nft-netdev"), "ok", "{}", answer.found("nft-netdev"));
    assert!(answer.found("nft-netdev").contains("on taps and macvtaps"), "it was tried");
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output().unwrap();
    let qemu = String::from_utf8(qemu.stdout).unwrap();
    let version = qemu.lines().next().unwrap().strip_prefix("QEMU emulator version ").unwrap();
    assert!(answer.found("qemu").ends_with(version), "{}", answer.found("qemu"));
    assert_eq!(answer.verdict("run"), "ready", "{}", answer.jobs["run"]);
    // No log, no ledger: nothing to read.
    assert_eq!(
        (answer.code, answer.verdict("read"), answer.status("trail")),
        (1, &json!("lacking"), "missing")
    );
    for check in answer.checks.values() {
        assert_eq!(check["way_out"].is_null(), check["status"] == "ok", "{check}");
    }
    assert_eq!((world.links(), world.tables()), (Vec::new(), String::new()));
    assert!(!world.state().exists() && !world.run_dir().exists());
    assert_eq!(fs::read_to_string("/proc/modules").unwrap_or_default(), modules);
    // What people read has the same, without colours where nobody sees them.
    let text = world.taptrail(["doctor", "--for", "run"]).ok().stdout;
    assert!(text.starts_with("Rights of the caller\nok       user-namespace      root, "), "{text}");
    assert!(
        text.contains("\nready    run ") && !text.contains('\x1b') && !text.contains("\nlacking"),
        "{text}"
    );
    let text = world.taptrail(["--color=always", "doctor", "--for", "run"]).ok().stdout;
    assert!(text.contains("\x1b[38;5;2mok      \x1b[39m "), "{text}");
}

// Shows 16.2.
#[test]
fn nobody_is_told_what_is_not_known_to_him() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    fs::create_dir(world.path("private")).unwrap();
    fs::set_permissions(world.path("private"), fs::Permissions::from_mode(0o700)).unwrap();
    let log = world.path("private/audit.log");
    fs::write(&log, "").unwrap();
    let answer = ask_by(&world, &AS_NOBODY, &["--log", log.to_str().unwrap()]);
    // The rights of his own are known.
    assert_eq!(answer.status("cap-net-admin"), "missing");
    assert_eq!(answer.status("user-namespace"), "ok");
    // What he may not look at is not missing.
    for id in ["audit", "audit-daemon", "audit-queue", "audit-rules", "audit-log", "trail", "ledger"] {
        assert_eq!(answer.status(id), "unknown", "{id}: {}", answer.found(id));
    }
    assert_eq!(answer.status("nft-netdev"), "unknown");
    assert_eq!(answer.status("pidfd"), "ok");
    let tun = fs::metadata("/dev/net/tun").unwrap().permissions().mode() & 0o006 == 0o006;
    assert_eq!(answer.status("tun"), if tun { "ok" } else { "unknown" });
    assert_eq!((answer.verdict("run"), answer.verdict("read")), (&json!("lacking"), &json!("unknown")));
    // An exit code of a job that is asked for: not known.
    let read = ask_by(&world, &AS_NOBODY, &["--for", "read", "--log", log.to_str().unwrap()]);
    assert_eq!((read.code, read.jobs.len()), (4, 1));
    assert!(read.checks.keys().all(|id| id != "tun"), "only what the job needs is shown");
    world.stop(&guest);
}

// Shows 16.1, 16.3.
#[test]
fn without_tun_no_guest_runs_and_the_device_is_named() {
    let world = World::new();
    let wrapper = after("mount -t tmpfs none /dev/net");
    let answer = ask_by(&world, &words(&wrapper), &["--for", "run"]);
    assert_eq!((answer.code, answer.status("tun")), (1, "missing"));
    assert_eq!(answer.found("tun"), "there is no /dev/net/tun");
    assert_eq!(answer.jobs["run"]["missing"], json!(["tun"]));
    // Another file in its place is not it.
    let wrapper = after("mount -t tmpfs none /dev/net && mknod /dev/net/tun c 1 3");
    let answer = ask_by(&world, &words(&wrapper), &["--for", "run,bridge-helper"]);
    assert!(answer.found("tun").contains("is not the character device 10:200"), "{}", answer.found("tun"));
    assert_eq!(answer.jobs.len(), 2);
}

// Shows 16.3.
#[test]
fn a_capability_that_is_essential_is_one_without_which_a_start_fails() {
    let world = World::new();
    for (bounded, essential) in
        [("net_admin", true), ("sys_admin", true), ("mknod", true), ("audit_write", false), ("kill", false)]
    {
        let wrapper = ["setpriv", &format!("--bounding-set=-{bounded}")];
        let answer = ask_by(&world, &wrapper, &["--for", "run"]);
        assert_eq!(answer.code, i32::from(essential), "{bounded}: {}", answer.jobs["run"]);
        let program = copy(&world);
        let mut command = Command::new(wrapper[0]);
        let run = ["run", "--background", "--name", "web1", "--nic", ONE, "--"];
        command.arg(wrapper[1]).arg(program).args(run.iter().chain(&EMPTY));
        command.env("TAPTRAIL_STATE_DIR", world.state()).env("TAPTRAIL_RUN_DIR", world.run_dir());
        let started = CommandResult::from(command.stdin(Stdio::null()).output().unwrap());
        assert_eq!(started.success(), !essential, "{bounded}: {}", started.stderr);
        if started.success() {
            world.stop(&world.last_guest().unwrap());
        }
    }
    world.assert_clean();
}

// Shows 16.1.
#[test]
fn in_a_container_the_host_is_out_of_reach() {
    let world = World::new();
    let wrapper = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let answer = ask_by(&world, &wrapper, &[]);
    assert_eq!((answer.status("user-namespace"), answer.status("pid-namespace")), ("missing", "missing"));
    assert_eq!(answer.verdict("verify"), "lacking");
    assert_eq!(answer.status("audit"), "unknown", "{}", answer.found("audit"));
}

// Shows 16.1.
#[test]
fn the_kernels_auditing_its_daemon_and_its_rules_are_seen() {
    let world = World::new();
    {
        let Some(_off) = Auditing::switch(false) else { return };
        let answer = ask(&world, &["--for", "watch"]);
        assert_eq!(
            (answer.code, answer.status("audit"), answer.status("audit-daemon")),
            (1, "missing", "missing")
        );
        assert!(answer.found("audit").starts_with("off"), "{}", answer.found("audit"));
        assert_eq!(answer.status("audit-rules"), "missing");
    }
    let Some(mut on) = Auditing::switch(true) else { return };
    on.packaged_rules();
    let log = on.start_daemon(&world.path(""));
    world.until("auditd has its log", || log.exists());
    let answer = ask(&world, &["--for", "watch", "--log", log.to_str().unwrap()]);
    assert_eq!((answer.status("audit"), answer.found("audit")), ("ok", "on"));
    assert!(answer.found("audit-daemon").starts_with("auditd (pid "), "{}", answer.found("audit-daemon"));
    assert_eq!(answer.status("audit-log"), "ok", "{}", answer.found("audit-log"));
    let packaged = include_str!("../../packaging/taptrail.rules").lines();
    let count = packaged.filter(|line| line.starts_with("-a ")).count();
    assert_eq!(answer.found("audit-rules"), format!("{count} of taptrail's rules are loaded"));
}

// Shows 16.1.
#[test]
fn libvirts_settings_and_a_units_file_are_read() {
    let world = World::new();
    let settings = world.path("libvirtd.conf");
    fs::write(&settings, "audit_level = 0\n").unwrap();
    let over = world.path("over");
    fs::create_dir(&over).unwrap();
    let over = over.display();
    let bind = format!(
        "mount -t tmpfs none {over} && mkdir {over}/up {over}/work && \
         mount -t overlay -o lowerdir=/etc,upperdir={over}/up,workdir={over}/work overlay /etc && \
         mkdir -p /etc/libvirt /etc/systemd/system /etc/qemu && cp {} /etc/libvirt/libvirtd.conf && \
         cp {} /etc/systemd/system/taptrail-watch.service && echo 'allow br7' >/etc/qemu/bridge.conf",
        settings.display(),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/taptrail-watch.service"),
    );
    let answer = ask_by(&world, &words(&after(&bind)), &[]);
    assert_eq!(answer.status("libvirt-audit"), "missing");
    assert!(answer.found("libvirt-audit").contains("audit_level = 0"), "{}", answer.found("libvirt-audit"));
    assert!(answer.jobs["watch"]["missing"].as_array().unwrap().contains(&json!("libvirt-audit")));
    // Whether systemd runs here or not, the unit's file is found.
    let unit = answer.found("unit-watch");
    assert!(!unit.contains("is not installed"), "{unit}");
    assert_eq!(answer.status("bridge-acl"), "missing", "{}", answer.found("bridge-acl"));
    assert!(
        answer.found("bridge-acl").contains("none of the bridges here: br0"),
        "{}",
        answer.found("bridge-acl")
    );
}

// Shows 16.1.
#[test]
fn the_ledgers_health_is_seen() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE]);
    let answer = ask(&world, &["--for", "read"]);
    assert_eq!((answer.code, answer.status("ledger"), answer.status("ledger-chain")), (0, "ok", "ok"));
    assert!(
        answer.found("ledger").contains(&format!("version {}", Ledger::VERSION)),
        "{}",
        answer.found("ledger")
    );
    world.stop(&guest);
    let ledger = Ledger::file(&world.state());
    let raw = rusqlite::Connection::open(&ledger).unwrap();
    raw.execute("UPDATE record SET text = text || ' ' WHERE id = 2", []).unwrap();
    drop(raw);
    let altered = ask(&world, &[]);
    assert_eq!((altered.status("ledger"), altered.status("ledger-chain")), ("ok", "missing"));
    assert!(
        altered.found("ledger-chain").starts_with("1 records or rows"),
        "{}",
        altered.found("ledger-chain")
    );
    fs::set_permissions(world.state(), fs::Permissions::from_mode(0o777)).unwrap();
    let open = ask(&world, &["--for", "run"]);
    assert_eq!((open.code, open.status("state-dir"), open.status("ledger")), (1, "missing", "missing"));
    fs::set_permissions(world.state(), fs::Permissions::from_mode(0o700)).unwrap();
    world.assert_clean();
}

// Shows 16.1.
#[test]
fn the_bridge_helper_is_known_by_its_files_capabilities() {
    let world = World::new();
    // In a file system in memory: its files can have capabilities.
    let helper = "/usr/libexec/taptrail-bridge-helper";
    let install = |rights: &str| {
        after(&format!(
            "mkdir -p /usr/libexec && mount -t tmpfs none /usr/libexec && cp /bin/true {helper} && {rights}"
        ))
    };
    let asked = |rights: &str| ask_by(&world, &words(&install(rights)), &[]);
    let none = asked("true");
    assert_eq!(none.status("bridge-helper"), "missing");
    assert!(none.found("bridge-helper").ends_with("has neither file capabilities nor setuid"));
    assert!(none.jobs.contains_key("bridge-helper"), "an installed helper is a job of this host");
    let one = asked(&format!("setcap cap_net_admin+ep {helper}"));
    assert!(one.found("bridge-helper").ends_with("lacks cap_audit_write"), "{}", one.found("bridge-helper"));
    let both = asked(&format!("setcap cap_net_admin,cap_audit_write+ep {helper}"));
    assert_eq!(both.status("bridge-helper"), "ok", "{}", both.found("bridge-helper"));
    let setuid = asked(&format!("chmod 4755 {helper}"));
    assert!(setuid.found("bridge-helper").ends_with("setuid root"), "{}", setuid.found("bridge-helper"));
    let absent = ask(&world, &[]);
    assert!(!absent.jobs.contains_key("bridge-helper"));

    // Each fault has its own way out, which leads to an ok.
    let caps = "setcap cap_net_admin,cap_audit_write+ep";
    for (rights, way_out) in [
        (format!("chmod 0777 {helper} && {caps} {helper}"), format!("chmod 0755 {helper}")),
        (format!("chmod 4775 {helper}"), format!("chmod 4755 {helper}")),
        (
            format!("chown 7 {helper} && {caps} {helper}"),
            format!("chown root {helper}; chmod 0755 {helper}; {caps} {helper}"),
        ),
        (format!("chmod 0744 {helper} && {caps} {helper}"), format!("chmod 0755 {helper}")),
        (format!("chmod 0644 {helper} && {caps} {helper}"), format!("chmod 0755 {helper}")),
        (format!("{caps} {helper} && chmod 0700 /usr/libexec"), "chmod 0755 /usr/libexec".to_owned()),
        (
            format!("{caps} {helper} && mount -o remount,nosuid /usr/libexec"),
            format!(
                "mount -o remount,suid \"$(findmnt -no TARGET -T {helper})\", and no nosuid for it in /etc/fstab"
            ),
        ),
    ] {
        let wrong = asked(&rights);
        assert_eq!(wrong.status("bridge-helper"), "missing", "{rights}");
        assert_eq!(wrong.way_out("bridge-helper"), way_out, "{rights}");
        let command = way_out.split(", and ").next().unwrap_or_default();
        let corrected = asked(&format!("{rights} && {command}"));
        assert_eq!(corrected.status("bridge-helper"), "ok", "{rights}: {}", corrected.found("bridge-helper"));
    }
    let group = asked(&format!("chgrp daemon {helper} && chmod 0750 {helper} && {caps} {helper}"));
    assert_eq!(
        (group.status("bridge-helper"), group.found("bridge-helper")),
        ("ok", &*format!("{helper}, with file capabilities, for the group daemon alone"))
    );
}

// Shows 16.1.
#[test]
fn the_bridge_helpers_acl_must_be_readable_for_its_callers() {
    let world = World::new();
    let asked = |modes: &str| {
        let over = world.path("over");
        let over = over.display();
        fs::create_dir_all(world.path("over")).unwrap();
        let wrapper = after(&format!(
            "mount -t tmpfs none {over} && mkdir {over}/up {over}/work && \
             mount -t overlay -o lowerdir=/etc,upperdir={over}/up,workdir={over}/work overlay /etc && umask 022 && \
             mkdir -p /etc/qemu && echo 'allow br0' >/etc/qemu/bridge.conf && {modes}"
        ));
        ask_by(&world, &words(&wrapper), &[])
    };
    let readable = asked("true");
    assert_eq!(readable.found("bridge-acl"), "/etc/qemu/bridge.conf allows br0");
    for (modes, way_out) in [
        ("chmod 0600 /etc/qemu/bridge.conf", "chmod 0644 /etc/qemu/bridge.conf"),
        ("chmod 0700 /etc/qemu", "chmod 0755 /etc/qemu"),
    ] {
        let closed = asked(modes);
        assert_eq!((closed.status("bridge-acl"), closed.way_out("bridge-acl")), ("missing", way_out));
        assert_eq!(asked(&format!("{modes} && {way_out}")).status("bridge-acl"), "ok");
    }
    let group = asked("chgrp daemon /etc/qemu/bridge.conf && chmod 0640 /etc/qemu/bridge.conf");
    assert_eq!(group.found("bridge-acl"), "/etc/qemu/bridge.conf allows br0, for the group daemon alone");
}
