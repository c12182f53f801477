//! What a guest's QEMU may do and see, and what it may not, with a real QEMU.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::auditing::Auditing;
use crate::world::qmp::{self, Qmp};
use crate::world::{EMPTY, Guest, World, exists};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

const ONE: &str = "bridge=br0,mac=52:54:00:00:00:01,vhost=off";
const NO_CAPABILITY: &str = "0000000000000000";

/// As root, and as another user.
const USERS: [&[&str]; 2] = [&[], &["--user", "nobody"]];

/// A guest with a monitor of the test's own.
fn start(world: &World, name: &str, options: &[&str]) -> (Guest, Qmp) {
    let socket = world.path(&format!("{name}.qmp"));
    // So that another user's QEMU can make its socket here.
    fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    let option = qmp::option(&socket);
    let qemu: Vec<_> = EMPTY.iter().copied().chain(["-qmp", &option]).collect();
    let guest = world.start_with(name, options, &qemu);
    let qmp = Qmp::connect(socket);
    (guest, qmp)
}

fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn supervisor(world: &World, guest: &Guest) -> u32 {
    fs::read_to_string(world.run_dir().join(&guest.name).join("lock")).unwrap().trim().parse().unwrap()
}

/// All device nodes below a guest's own `/dev`, except terminals.
fn nodes(guest: &Guest) -> BTreeSet<String> {
    let root = PathBuf::from(format!("/proc/{}/root/dev", guest.pid));
    let mut nodes = BTreeSet::new();
    let mut left = vec![root.clone()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let name = path.strip_prefix(&root).unwrap();
            if kind.is_dir() && name != Path::new("pts") {
                left.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                nodes.insert(name.display().to_string());
            }
        }
    }
    nodes
}

/// The nodes that every guest sees here.
fn usual_nodes() -> BTreeSet<String> {
    let all = ["null", "zero", "full", "random", "urandom", "kvm", "ptmx", "net/tun", "vhost-net"];
    all.iter().filter(|name| exists(&Path::new("/dev").join(name))).map(|name| (*name).to_owned()).collect()
}

// Shows 5.8.
#[test]
fn qemu_has_no_capability_and_gets_none_back() {
    for user in USERS {
        let world = World::new();
        let guest = world.start("web1", &[&["--nic", ONE], user].concat());
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(guest.pid, set), NO_CAPABILITY, "{set}");
        }
        assert_eq!(status(guest.pid, "NoNewPrivs"), "1");
        assert_eq!(status(guest.pid, "Umask"), "0077");
        assert_eq!(status(guest.pid, "Seccomp"), "2", "QEMU's sandbox is on");
        let uid = if user.is_empty() { "0 0 0 0" } else { "65534 65534 65534 65534" };
        assert_eq!(status(guest.pid, "Uid"), uid);
        assert_eq!(guest.holds(), ["tun vnet0"]);
        // The guest still works without them.
        world.attach(&guest, "macvtap=lower,mac=52:54:00:00:00:02,vhost=off").ok();
        world.detach(&guest, 2, &["--timeout", "20s"]).ok();
        world.stop(&guest);
        world.assert_clean();
    }
}

/// The bits of these numbers (linux/capability.h), as /proc shows them.
fn capabilities(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0_u64, |all, number| all | 1 << number))
}

// Shows 5.36.
#[test]
fn a_supervisor_keeps_the_rights_that_its_guest_takes_and_no_others() {
    // DAC_READ_SEARCH, KILL, NET_ADMIN, NET_RAW, SYS_PTRACE, AUDIT_WRITE, AUDIT_CONTROL
    let kept = capabilities(&[2, 5, 12, 13, 19, 29, 30]);
    for user in USERS {
        let world = World::new();
        let guest = world.start("web1", &[&["--nic", ONE], user].concat());
        for adopted in [false, true] {
            if adopted {
                world.kill_supervisor("web1");
                world.taptrail(["adopt", "--background", "web1"]).ok();
            }
            let supervisor = world.supervisor("web1").pid;
            for set in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(status(supervisor, set), kept, "{set}");
            }
            assert_eq!(status(supervisor, "NoNewPrivs"), "1");
            for task in fs::read_dir(format!("/proc/{supervisor}/task")).unwrap() {
                let task: u32 = task.unwrap().file_name().to_str().unwrap().parse().unwrap();
                assert_eq!(status(task, "Seccomp"), "2", "no thread is left out");
                if task != supervisor {
                    assert_eq!(status(task, "CapPrm"), NO_CAPABILITY, "the API thread has no capability");
                }
            }
            // The supervisor still works without them: links, nodes, filters, clients, the end of
            // another user's QEMU.
            let spec = "macvtap=lower,mac=52:54:00:00:00:02,vhost=off,filter=no-mac-spoofing";
            world.attach(&guest, spec).ok();
            world.detach(&guest, 2, &["--timeout", "20s"]).ok();
        }
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 5.23.
#[test]
fn qemus_environment_and_limits_are_the_ones_meant_for_it() {
    let mut world = World::new();
    let ours = [
        ("LD_BIND_NOW", "1"),
        ("SECRET", "s"),
        ("LC_TIME", "C"),
        ("DISPLAY", ":7"),
        ("PATH", "/usr/bin:/bin"),
    ];
    world.extra.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let options = ["--env", "DISPLAY", "--env", "QEMU_AUDIO_DRV=none", "--limit", "nofile=500"];
    let guest = world.start("web1", &[&["--nic", ONE], &options[..]].concat());
    let environ = fs::read_to_string(format!("/proc/{}/environ", guest.pid)).unwrap();
    let given: BTreeSet<&str> = environ.split_terminator('\0').collect();
    for expected in ["LC_TIME=C", "DISPLAY=:7", "PATH=/usr/bin:/bin", "QEMU_AUDIO_DRV=none"] {
        assert!(given.contains(expected), "{expected} is not in {given:?}");
    }
    let names = given.iter().map(|variable| variable.split('=').next().unwrap());
    let known = ["DISPLAY", "HOME", "LANG", "LANGUAGE", "PATH", "QEMU_AUDIO_DRV", "TERM", "TMPDIR", "TZ"];
    for name in names {
        assert!(known.contains(&name) || name.starts_with("LC_"), "{name}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", guest.pid)).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        (limit("Max core file size"), limit("Max open files")),
        ("0 0".to_owned(), "500 500".to_owned())
    );
    world.stop(&guest);
    world
        .try_start("web2", &["--env", "NO_SUCH_VARIABLE"], &EMPTY)
        .fails(2, "NO_SUCH_VARIABLE is not set here");
    world.try_start("web2", &["--limit", "nofile=many"], &EMPTY).fails(2, "'nofile=many' is not a limit");
}

// Shows 5.24.
#[test]
fn qemu_sees_a_dev_of_its_own_and_the_host_keeps_its_own() {
    // Only mounts at `/dev`: other tests may mount elsewhere meanwhile.
    let mounts = || {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_dev = |line: &&str| line.split(' ').nth(4).is_some_and(|path| path.starts_with("/dev"));
        all.lines().filter(of_dev).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = mounts();
    for user in USERS {
        let world = World::new();
        let guest = world.start("web1", &[&["--nic", ONE], user].concat());
        assert_eq!(nodes(&guest), usual_nodes());
        let dev = format!("/proc/{}/root/dev", guest.pid);
        let shm = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino())).unwrap();
        assert_eq!(shm(&format!("{dev}/shm")), shm("/dev/shm"), "shared memory is the host's");
        assert_eq!(fs::read_link(format!("{dev}/stdin")).unwrap(), Path::new("/proc/self/fd/0"));
        let mode = |path: &str| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&dev), 0o755);
        let theirs = fs::read_to_string(format!("/proc/{}/mountinfo", guest.pid)).unwrap();
        let own = theirs
            .lines()
            .find(|line| line.contains(" /dev ") && line.contains(" - tmpfs taptrail "))
            .unwrap();
        assert!(own.contains(" ro,nosuid,noexec"), "{own}");
        let root = theirs.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.split(' ').nth(5).unwrap().contains("nodev"), "{root}");
        world.stop(&guest);
    }
    assert_eq!(mounts(), before, "nothing got out");
}

/// A device node of the host that no other test knows: it has a directory of its own.
struct OwnNode(PathBuf);

impl OwnNode {
    fn new(world: &World, name: &str, (major, minor): (u32, u32)) -> Self {
        let directory = Path::new("/dev").join(world.path("").components().next_back().unwrap()).join(name);
        fs::create_dir_all(&directory).unwrap();
        let node = Self(directory.join(name));
        mknodat(CWD, &node.0, FileType::CharacterDevice, Mode::from(0o600), makedev(major, minor)).unwrap();
        node
    }

    /// A second node of urandom.
    fn random(world: &World) -> Self {
        Self::new(world, "random", (1, 9))
    }

    /// A macvtap's node. The one in `/dev` comes and goes with macvtaps of other namespaces that
    /// have its number.
    fn macvtap(world: &World) -> Self {
        let devices = fs::read_to_string("/proc/devices").unwrap();
        let major = devices.lines().find_map(|line| line.trim().strip_suffix(" macvtap")).unwrap();
        Self::new(world, "macvtap", (major.parse().unwrap(), 4095))
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        let own = self.0.parent().unwrap();
        let _ = fs::remove_dir_all(own);
        // Removes the directory with the last node.
        let _ = fs::remove_dir(own.parent().unwrap());
    }
}

// Shows 5.25.
#[test]
fn a_device_may_be_allowed_but_no_raw_network_device() {
    let world = World::new();
    let node = OwnNode::random(&world);
    let object = format!("rng-random,id=r,filename={}", node.0.display());
    let qemu: Vec<_> = EMPTY.iter().copied().chain(["-object", &object]).collect();
    let device = node.0.to_str().unwrap();
    world.try_start("web1", &["--nic", ONE], &qemu).fails(2, &format!("allow it with --device {device}"));
    assert!(!exists(&world.state()), "nothing was begun");
    let guest = world.start_with("web1", &["--nic", ONE, "--device", device], &qemu);
    let mut expected = usual_nodes();
    expected.insert(device.strip_prefix("/dev/").unwrap().to_owned());
    assert_eq!(nodes(&guest), expected);
    world.stop(&guest);

    let macvtap = OwnNode::macvtap(&world);
    for (device, says) in [
        ("/dev/net/tun", "a raw network device (tun), which a guest gets with --nic"),
        (macvtap.0.to_str().unwrap(), "a raw network device (macvtap), which a guest gets with --nic"),
        ("/dev/net", "it is no character or block device"),
        ("/dev/no-such-disk", "No such file"),
        ("/etc/passwd", "an absolute path below /dev is needed"),
    ] {
        world.try_start("web1", &["--device", device], &EMPTY).fails(2, says);
    }
}

// Shows 5.26.
#[test]
fn a_taken_over_qemu_opens_no_tap_by_itself() {
    for user in USERS {
        let world = World::new();
        // Without the sandbox, which would end QEMU when it tries to run a helper.
        let (guest, mut qmp) = start(&world, "web1", &[&["--nic", ONE, "--no-sandbox"], user].concat());
        let socket = fs::symlink_metadata(world.path("web1.qmp")).unwrap();
        assert_eq!(
            socket.permissions().mode() & 0o777,
            0o700,
            "a socket that QEMU makes is for its user alone"
        );
        let before = guest.holds();
        let tap = json!({"type": "tap", "id": "x", "ifname": "tap9", "script": "no", "downscript": "no"});
        let refused = qmp.refused("netdev_add", tap);
        assert!(refused.contains("could not open /dev/net/tun: Permission denied"), "{refused}");
        let bridge = json!({"type": "bridge", "id": "y", "br": "br0"});
        qmp.refused("netdev_add", bridge);
        assert_eq!(guest.holds(), before);
        assert_eq!(world.links(), ["vnet0"]);
        world.stop(&guest);
        world.assert_clean();
    }
}

/// Ways around the confinement, as shell commands with QEMU's view and rights. A command that
/// succeeds exits with 0.
fn escape_attempts(world: &World, supervisor: u32) -> Vec<String> {
    let node = world.path("tun");
    mknodat(CWD, &node, FileType::CharacterDevice, Mode::from(0o666), makedev(10, 200)).unwrap();
    fs::set_permissions(&node, PermissionsExt::from_mode(0o666)).unwrap();
    fs::set_permissions(world.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    let made = world.path("made");
    vec![
        "exec 3<>/dev/net/tun".to_owned(),
        "exec 3<>/proc/1/root/dev/net/tun".to_owned(),
        format!("exec 3<>/proc/{supervisor}/root/dev/net/tun"),
        format!("exec 3<>{}", node.display()),
        format!("mknod {0} c 10 200 && exec 3<>{0}", made.display()),
        "mknod /dev/tun c 10 200".to_owned(),
        "umount -l /dev".to_owned(),
        "mount -o remount,bind,dev /dev/net/tun".to_owned(),
        "mount -t devtmpfs none /mnt && exec 3<>/mnt/net/tun".to_owned(),
        "chmod 666 /dev/null".to_owned(),
        "touch /dev/new".to_owned(),
        "unshare --mount true".to_owned(),
        "nsenter --mount=/proc/1/ns/mnt true".to_owned(),
        "unshare --user --map-root-user --mount sh -c 'umount -l /dev && exec 3<>/dev/net/tun'".to_owned(),
        "unshare --user --map-root-user --mount sh -c 'mount -o remount,bind,dev /dev/net/tun && exec 3<>/dev/net/tun'"
            .to_owned(),
    ]
}

// Shows 5.26.
#[test]
fn no_other_way_leads_to_a_raw_network_device() {
    for user in USERS {
        let world = World::new();
        let guest = world.start("web1", &[&["--nic", ONE], user].concat());
        let pid = guest.pid.to_string();
        let like_qemu = |script: &str| {
            let mut command = Command::new("/usr/bin/nsenter");
            command.args(["--target", &pid, "--mount", "/usr/bin/setpriv"]);
            command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
            if !user.is_empty() {
                command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
            }
            command.args(["/bin/sh", "-c", script]).output().unwrap()
        };
        let caps = like_qemu("grep CapEff /proc/self/status; exec 3<>/dev/null");
        assert!(
            caps.status.success() && String::from_utf8_lossy(&caps.stdout).contains(NO_CAPABILITY),
            "{caps:?}"
        );
        for script in escape_attempts(&world, supervisor(&world, &guest)) {
            let tried = like_qemu(&script);
            assert!(!tried.status.success(), "{script} works: {tried:?}");
        }
        world.stop(&guest);
        world.assert_clean();
    }
}

// Shows 5.30.
#[test]
fn no_private_dev_leaves_qemu_the_hosts_mount_namespace() {
    let world = World::new();
    let guest = world.start("web1", &["--nic", ONE, "--no-private-dev"]);
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(namespace(guest.pid), namespace(std::process::id()));
    assert_eq!(status(guest.pid, "CapEff"), NO_CAPABILITY);
    world.stop(&guest);
    world
        .try_start("web1", &["--no-private-dev", "--device", "/dev/full"], &EMPTY)
        .fails(2, "cannot be used with");
}

// Shows 5.30.
#[test]
fn a_supervisor_that_cannot_confine_its_qemu_does_not_start_it() {
    let world = World::new();
    let taptrail = world.command(["run", "--name", "web1", "--nic", ONE, "--"]);
    let mut weak = Command::new("/usr/bin/setpriv");
    weak.args(["--bounding-set=-sys_admin", "--inh-caps=-all"]).arg(taptrail.get_program());
    weak.args(taptrail.get_args()).args(EMPTY);
    weak.envs(taptrail.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let stderr = String::from_utf8(weak.output().unwrap().stderr).unwrap();
    assert!(
        stderr.contains("--no-private-dev does without") && stderr.contains("Operation not permitted"),
        "{stderr}"
    );
    assert_eq!(world.record_lines().last().unwrap(), "guest booted FAILED");
    world.assert_clean();
}

// Shows 5.27.
#[test]
fn auditing_shows_a_qemu_that_tried_to_open_a_tap() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let world = World::new();
    let log = auditing.start_daemon(&world.path(""));
    auditing.packaged_rules();
    let (guest, mut qmp) = start(&world, "web1", &["--nic", ONE]);
    let tap = json!({"type": "tap", "id": "x", "ifname": "tap9", "script": "no", "downscript": "no"});
    qmp.refused("netdev_add", tap);
    // QEMU can open its own descriptor again. Here another program does so, which QEMU's sandbox
    // would not let it run.
    let again = format!("/proc/{}/fd/{}", guest.pid, world.nics(&guest)[0]["devices"][0]["qemu_fd"]);
    assert!(Command::new("/usr/bin/head").args(["--bytes=0", &again]).status().unwrap().success());
    world.stop(&guest);
    auditing.end_daemon();

    let trail = world.json(["trail", "--format", "json", log.to_str().unwrap()]);
    let uuid = world.records()[0].guest.uuid.to_string();
    let findings = trail["findings"].as_array().unwrap().iter();
    let refused: Vec<_> = findings
        .filter(|finding| finding["kind"] == "refused-open" && finding["guest"]["uuid"] == uuid.as_str())
        .collect();
    assert_eq!(refused.len(), 1, "{trail:#}");
    let text = refused[0]["text"].as_str().unwrap();
    assert!(text.contains("tried to open /dev/net/tun") && text.contains("Permission denied"), "{text}");
    assert_eq!(refused[0]["device"]["rdev"], "0A:C8");
    let is_expected = |finding: &&serde_json::Value| {
        finding["kind"] == "unmanaged-open" && finding["device"]["path"] == again.as_str()
    };
    assert_eq!(trail["findings"].as_array().unwrap().iter().filter(is_expected).count(), 1, "{trail:#}");
}
