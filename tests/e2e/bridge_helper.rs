//! `taptrail-bridge-helper`, as an unprivileged user starts it, by hand and by a real QEMU, beside
//! QEMU's own qemu-bridge-helper.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use taptrail_kernel::proc::ProcessId;
use taptrail_record::{BridgeOpen, Line, Outcome, Requester};

use crate::world::OwnedChild;
use crate::world::auditing::{Auditing, wait_for_log};
use crate::world::bridge_lab::{
    AUDIT_CONTROL, AUDIT_WRITE, Answer, CONF, Lab, NET_ADMIN, USER, UUID, as_user, receive,
};
use crate::world::libvirt::Keeper;
use crate::world::{CommandResult, Guest, World, contract};

/// The records of a lab's helpers in a log that auditd wrote, each with the kernel's uid. (Other
/// tests' helpers write there too.)
fn records(lab: &Lab, log: &Path) -> Vec<(BridgeOpen, Option<u32>)> {
    wait_for_log(log);
    let text = fs::read(log).unwrap();
    let exe = format!(" exe=\"{}/", lab.world.path("mnt").display());
    let record = |line: &[u8]| {
        if !String::from_utf8_lossy(line).contains(&exe) {
            return None;
        }
        let line = Line::parse(line).ok()?;
        let open = BridgeOpen::parse(line.record_type?, line.text?).expect("a whole record")?;
        Some((open, line.uid))
    };
    text.split(|byte| *byte == b'\n').filter_map(record).collect()
}

const LINES: [&str; 20] = [
    "",
    "allow br0",
    "allow br1",
    "allow all",
    "deny br0",
    "deny br1",
    "deny all",
    "  allow \t br0 \t",
    "allow\tbr0",
    "allow\tbr0 x",
    "allow br0 # x",
    "# allow br0",
    "  # deny br0",
    "Allow br0",
    "allow",
    "allow ",
    "allow abcdefghijklmnop",
    "deny all x",
    "include /etc/qemu/inner",
    "include /nosuch",
];

const TEXTS: [(&[u8], &str); 21] = [
    (b"allow br0", "br0"),
    (b"\x0ballow br0\n", "br0"),
    (b"\x0callow br0\n", "br0"),
    (b"allow br0\x0b\n", "br0"),
    (b"allow\x0bbr0\n", "br0"),
    (b"allow br0\r\n", "br0"),
    (b"allow br0\rdeny br0\r", "br0"),
    (b"allow br0 br1\n", "br0"),
    (b"allow \xc2\xa0br0\n", "br0"),
    (b"allow \xff\xfe\nallow br0\n", "br0"),
    (b"include\n", "br0"),
    (b"include /etc/qemu\nallow br0\n", "br0"),
    (b"include   /etc/qemu/inner  \n", "br0"),
    (b"include /etc/qemu/broken\n", "br0"),
    (b"include /etc/qemu/broken\nallow br0\n", "br0"),
    (b"include /etc/qemu/secret\nallow br0\n", "br0"),
    (b"include /etc/qemu/deep\n", "br0"),
    (b"allow all\n", "abcdefghijklmnop"),
    (b"allow abcdefghijklmno\n", "abcdefghijklmno"),
    (b"allow all\n", ""),
    (b"allow all\n", "lower"),
];

// Shows 1.17.
#[test]
fn the_acl_means_what_it_means_to_qemus_own_helper() {
    let lab = Lab::new();
    lab.world.ip("link add abcdefghijklmno type bridge");
    lab.file("/etc/qemu/inner", b"allow br0\n");
    lab.file("/etc/qemu/broken", b"allow br0\nnonsense\ndeny br0\n");
    lab.file("/etc/qemu/deep", b"include /etc/qemu/inner\n");
    lab.file("/etc/qemu/secret", b"deny br0\n");
    fs::set_permissions("/etc/qemu/secret", PermissionsExt::from_mode(0o600)).unwrap();
    let pairs = LINES.iter().flat_map(|first| LINES.iter().map(move |second| format!("{first}\n{second}\n")));
    let mut all: Vec<(Vec<u8>, &str)> = pairs.map(|text| (text.into_bytes(), "br0")).collect();
    all.extend(TEXTS.map(|(text, bridge)| (text.to_vec(), bridge)));
    let mut passed = 0;
    for (text, bridge) in &all {
        lab.acl(text);
        let [ours, theirs] = [&lab.ours, &lab.theirs].map(|helper| lab.ask(helper, bridge.as_bytes()));
        let shown = String::from_utf8_lossy(text);
        assert_eq!(ours.device.is_some(), theirs.device.is_some(), "{shown:?} {bridge} {ours:?} {theirs:?}");
        passed += usize::from(ours.device.is_some());
    }
    // Both answers occur often enough to mean something.
    assert!(passed > 50 && passed < all.len() - 50, "{passed} of {}", all.len());
    fs::remove_file(CONF).unwrap();
    lab.ask(&lab.theirs, b"br0").refused("");
    lab.ask(&lab.ours, b"br0").refused("/etc/qemu/bridge.conf can't be read");
    assert_eq!(lab.world.links(), ["abcdefghijklmno"], "each tap is gone with its descriptor");
}

// Shows 1.17.
#[test]
fn the_acl_differs_from_qemus_own_helper_where_that_is_unsafe() {
    let lab = Lab::new();
    lab.file("/etc/qemu/inner", b"allow br0\n");
    let long_comment = format!("#{}allow br0\n", "x".repeat(4094));
    // Two bugs: the end of a long comment is a rule, and a NUL hides what follows it.
    for text in [long_comment.as_bytes(), b"allow br0\0junk\n", b"\0deny br0\nallow br0\n"] {
        lab.acl(text);
        assert_eq!(lab.ask(&lab.theirs, b"br0").tap(), "tap0");
        lab.ask(&lab.ours, b"br0").refused("bridge.conf");
    }
    // A relative path is relative to what the caller chooses.
    lab.acl(b"include inner\n");
    let here = |command: &mut Command| {
        command.current_dir("/etc/qemu");
    };
    assert_eq!(lab.ask_with(&lab.theirs, b"br0", here).tap(), "tap0");
    lab.ask_with(&lab.ours, b"br0", here).refused("bridge.conf:1: the path of an included file");
    // Files that others can change.
    lab.acl(b"include /etc/qemu/inner\n");
    assert_eq!(lab.ask(&lab.ours, b"br0").tap(), "tap0");
    for path in [CONF, "/etc/qemu/inner"] {
        chown(path, Some(USER), None).unwrap();
        assert_eq!(lab.ask(&lab.theirs, b"br0").tap(), "tap0");
        lab.ask(&lab.ours, b"br0").refused(&format!("{path} can be changed by others than root"));
        chown(path, Some(0), None).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o664)).unwrap();
        lab.ask(&lab.ours, b"br0").refused(&format!("{path} can be changed by others than root"));
        fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    }
    // A bridge under another name than the ACL's.
    lab.world.ip("link property add dev br0 altname other");
    lab.acl(b"allow all\ndeny br0\n");
    assert_eq!(lab.ask(&lab.theirs, b"other").tap(), "tap0");
    lab.ask(&lab.ours, b"other").refused("alternative name of bridge 'br0'");
    assert_eq!(lab.world.links(), [""; 0]);
}

// Shows 1.17, 1.18.
#[test]
fn a_tap_is_as_qemus_own_helper_makes_it() {
    let lab = Lab::new();
    lab.world.ip("link set br0 mtu 1400");
    let setuid = lab.helper_with("setuid", &[], 0o4755);
    let mut shapes = Vec::new();
    for helper in [&lab.theirs, &lab.ours, &setuid] {
        for vnet in [true, false] {
            let answer = lab.ask_with(helper, b"br0", |command| {
                // The last argument counts.
                if !vnet {
                    let arguments: Vec<OsString> = command.get_args().skip(1).map(OsStr::to_owned).collect();
                    *command = as_user(helper);
                    command.args(arguments);
                }
            });
            assert_eq!(answer.tap(), "tap0");
            let link = lab.world.link("tap0");
            assert!(link["address"].as_str().unwrap().starts_with("fe:"), "{link}");
            let tun = &link["linkinfo"]["info_data"];
            let flags: Vec<_> =
                ["type", "pi", "vnet_hdr", "multi_queue", "persist"].map(|key| tun[key].to_string()).to_vec();
            assert_eq!(tun["vnet_hdr"], vnet, "{link}");
            let up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
            shapes.push((vnet, link["mtu"].to_string(), link["master"].to_string(), up, flags));
        }
    }
    assert_eq!((&*shapes[0].1, &*shapes[0].2, shapes[0].3), ("1400", "\"br0\"", true));
    for shape in &shapes {
        assert_eq!(*shape, shapes[usize::from(!shape.0)]);
    }
    assert_eq!(lab.world.links(), [""; 0]);
}

// Shows 1.17, 3.18.
#[test]
fn a_qemu_gets_a_tap_and_who_asked_is_on_record() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let lab = Lab::new();
    let log = auditing.start_daemon(&lab.world.path(""));
    auditing.packaged_rules();
    let helper = lab.ours.display();
    let netdev =
        ["-netdev", &format!("bridge,id=n0,br=br0,helper={helper}"), "-device", "virtio-net-pci,netdev=n0"];
    let nic = ["-nic", &format!("bridge,br=br0,model=virtio-net-pci,helper={helper}")];
    // With a blank in the helper, QEMU runs a shell.
    let shell = ["-nic", &format!("bridge,br=br0,model=virtio-net-pci,helper={helper} --br=br0")];
    for options in [&netdev[..], &nic, &shell] {
        let mut qemu = lab.qemu(options);
        let guest = Guest { name: "web1".to_owned(), pid: qemu.id() };
        lab.world.until("QEMU has the tap", || {
            if let Some(status) = qemu.try_wait().unwrap() {
                let mut text = String::new();
                qemu.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                panic!("{options:?}: {status} {text}");
            }
            guest.holds() == ["tun tap0"]
        });
        let id = ProcessId::of(guest.pid).unwrap();
        assert_eq!(lab.world.link("tap0")["master"], "br0");
        if options != shell {
            wait_for_log(&log);
            let pid = guest.pid.to_string();
            let verify = ["verify", "--pid", &pid, "--format", "json", log.to_str().unwrap()];
            let verified = lab.world.json(verify);
            assert_eq!(verified["devices"][0]["matched_by"], "bridge-helper", "{verified:#}");
        }
        qemu.kill().unwrap();
        qemu.wait().unwrap();
        lab.world.until("the tap is gone", || lab.world.links().is_empty());

        let (record, uid) = records(&lab, &log).pop().unwrap();
        assert_eq!(uid, Some(USER), "the kernel says the same user");
        assert_eq!(record.outcome, Outcome::Success);
        assert_eq!((&*record.bridge, record.refusal.as_deref(), record.errno), ("br0", None, None));
        let device = record.device.as_ref().unwrap();
        assert_eq!((&*device.path, device.dev.as_deref()), ("/dev/net/tun", Some("tap0")));
        assert_eq!((record.requester.uid, record.requester.auid), (USER, own_login_uid()));
        // A shell may replace itself by the helper, or stay its parent.
        let parent = (record.requester.pid, record.start_time);
        assert!(options == shell || parent == (id.pid, Some(id.start_time)), "{record:?}");
        assert!(record.start_time.is_some());
        assert_eq!(record.claimed_name.as_deref(), Some("web1"));
        assert_eq!(record.claimed_uuid.map(|uuid| uuid.to_string()).as_deref(), Some(UUID));
    }

    // A bridge that is not listed.
    lab.world.ip("link add br1 type bridge");
    let refused = lab.qemu(&["-nic", &format!("bridge,br=br1,helper={helper}")]).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("does not allow bridge 'br1'"), "{text}");
    let (record, uid) = records(&lab, &log).pop().unwrap();
    assert_eq!((record.outcome, uid), (Outcome::Failed, Some(USER)));
    assert_eq!((&*record.bridge, record.refusal.as_deref(), record.device), ("br1", Some("acl"), None));
    assert_eq!(record.claimed_name.as_deref(), Some("web1"));
    auditing.end_daemon();

    // The reader understands all of them: the opens are accounted for, and nothing is unreadable.
    let trail = lab.world.json(["trail", "--format", "json", log.to_str().unwrap()]);
    // Other tests run QEMU's own helper meanwhile, which is on no record.
    let helpers = lab.world.path("mnt").display().to_string();
    let about_us = |value: &serde_json::Value| {
        let text = value.to_string();
        text.contains(&helpers) || text.contains("tap0") || text.contains(UUID)
    };
    assert!(!trail["findings"].as_array().unwrap().iter().any(about_us), "{trail:#}");
    assert!(!trail["holdings"].as_array().unwrap().iter().any(about_us), "{trail:#}");
    let explained = lab.world.taptrail(["explain", "web1", log.to_str().unwrap()]);
    assert!(
        !explained.stderr.contains("not read") && !explained.stderr.contains("unread"),
        "{}",
        explained.stderr
    );
}

/// A user's own libvirtd (`qemu:///session`), with the helper in its qemu.conf.
struct Session<'a> {
    world: &'a World,
    home: PathBuf,
    daemon: OwnedChild,
    // libvirt's QEMUs are no children of the test.
    _keeper: Keeper,
}

impl<'a> Session<'a> {
    fn start(lab: &'a Lab) -> Self {
        let home = lab.world.path("mnt/home");
        let config = home.join(".config/libvirt");
        fs::create_dir_all(&config).unwrap();
        let settings = format!("bridge_helper = \"{}\"\nstdio_handler = \"file\"\n", lab.ours.display());
        fs::write(config.join("qemu.conf"), settings).unwrap();
        for directory in [&home, &home.join(".config"), &config] {
            chown(directory, Some(USER), Some(USER)).unwrap();
        }
        let keeper = Keeper::start();
        let daemon = Self::command(&home, "/usr/sbin/libvirtd").stderr(Stdio::null()).spawn().unwrap();
        let mut session = Self { world: &lab.world, home, daemon: daemon.into(), _keeper: keeper };
        lab.world.until("the user's libvirtd answers", || {
            assert_eq!(session.daemon.try_wait().unwrap(), None, "libvirtd ended");
            session.virsh(&["list"]).success()
        });
        session
    }

    fn command(home: &Path, program: &str) -> Command {
        let mut command = as_user(Path::new(program));
        command.env_clear().env("PATH", "/usr/bin:/usr/sbin").env("HOME", home).env("XDG_RUNTIME_DIR", home);
        command
    }

    fn virsh(&self, arguments: &[&str]) -> CommandResult {
        let mut command = Self::command(&self.home, "/usr/bin/virsh");
        CommandResult::from(command.args(["-c", "qemu:///session"]).args(arguments).output().unwrap())
    }

    /// Starts a guest with an interface on this bridge, and stopped processors.
    fn create(&self, bridge: &str) -> CommandResult {
        let file = self.world.path("domain.xml");
        fs::write(
            &file,
            format!(
                "<domain type='qemu'><name>web1</name><uuid>{UUID}</uuid><memory unit='MiB'>32</memory>\
                 <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
                 <emulator>/usr/bin/qemu-system-x86_64</emulator><memballoon model='none'/>\
                 <interface type='bridge'><source bridge='{bridge}'/><model type='virtio'/></interface>\
                 </devices></domain>"
            ),
        )
        .unwrap();
        self.virsh(&["create", file.to_str().unwrap(), "--paused"])
    }
}

// Shows 1.17, 3.18, 14.21.
#[test]
fn libvirts_session_daemon_gets_a_tap_and_verify_accounts_for_it() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let lab = Lab::new();
    let log = auditing.start_daemon(&lab.world.path(""));
    let session = Session::start(&lab);
    // libvirt reads the helper's stderr in a thread, and its error has what was read by then.
    lab.world.until("the helper's reason", || {
        let refused = session.create("br7");
        assert!(!refused.success() && refused.stderr.contains("bridge helper"), "{}", refused.stderr);
        refused.stderr.contains("does not allow bridge 'br7'")
    });
    session.create("br0").ok();
    let pid: u32 =
        fs::read_to_string(session.home.join("libvirt/qemu/run/web1.pid")).unwrap().trim().parse().unwrap();
    let guest = Guest { name: "web1".to_owned(), pid };
    assert_eq!(guest.holds(), ["tun tap0"]);
    assert_eq!(lab.world.link("tap0")["master"], "br0");
    let (record, uid) = records(&lab, &log).pop().unwrap();
    assert_eq!((record.outcome, uid, &*record.bridge), (Outcome::Success, Some(USER), "br0"));
    // The daemon asked, and QEMU has it.
    assert_eq!((record.requester.pid, record.requester.uid), (session.daemon.id(), USER));

    let (pid, log) = (pid.to_string(), log.to_str().unwrap());
    let verified = || {
        let done = lab.world.taptrail(["verify", "--pid", &pid, "--settle", "0s", "--format", "json", log]);
        let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        contract::assert_valid("verify", &json);
        (done.code(), json["devices"][0]["verdict"].clone(), json["devices"][0]["matched_by"].clone())
    };
    assert_eq!(verified(), (0, "accounted".into(), "bridge-helper".into()));
    // On another bridge it is not what the record says.
    lab.world.ip("link add br1 type bridge");
    lab.world.ip("link set tap0 master br1");
    assert_eq!(verified(), (1, "unaccounted".into(), serde_json::Value::Null));

    session.virsh(&["destroy", "web1"]).ok();
    lab.world.until("the tap is gone", || lab.world.links().iter().all(|link| link != "tap0"));
    auditing.end_daemon();
}

fn own_login_uid() -> u32 {
    taptrail_kernel::proc::login_uid(std::process::id()).unwrap().unwrap_or(Requester::UNSET)
}

// Shows 1.18.
#[test]
fn what_a_caller_lets_it_inherit_changes_nothing() {
    let lab = Lab::new();
    let quiet = |answer: &Answer| {
        assert_eq!((answer.tap(), &*answer.stderr), ("tap0".to_owned(), ""));
    };
    for (name, value) in [
        ("LD_PRELOAD", "/nosuch.so"),
        ("LD_AUDIT", "/nosuch.so"),
        ("HOME", "/nosuch"),
        ("PATH", "/nosuch"),
        ("RUST_BACKTRACE", "full"),
        ("RUST_LOG", "trace"),
        ("TMPDIR", "/nosuch"),
        ("LC_ALL", "x".repeat(10_000).as_str()),
    ] {
        quiet(&lab.ask_with(&lab.ours, b"br0", |command| {
            command.env(name, value);
        }));
    }
    quiet(&lab.ask_with(&lab.ours, b"br0", |command| {
        command.env_clear().arg0("");
    }));
    // By a shell: no stdio, a umask, limits, other descriptors, another directory.
    for before in [
        "exec <&- >&- 2>&-",
        "exec <&- ",
        "umask 0; exec 9</etc/passwd 8</dev/null",
        "ulimit -c unlimited; ulimit -f 0; ulimit -n 20",
        "trap '' TERM CHLD PIPE USR1",
        "cd /proc/self/fd",
    ] {
        let answer = lab.ask_with(&lab.ours, b"br0", |command| {
            let arguments: Vec<OsString> = command.get_args().map(OsStr::to_owned).collect();
            *command = as_user(Path::new("/bin/sh"));
            command.args(["-c", &format!("{before}; exec \"$0\" \"$@\"")]).arg(&lab.ours).args(arguments);
        });
        assert_eq!(answer.tap(), "tap0", "{before}");
    }
    // No limit makes it pass over a denial: neither of descriptors, nor of memory.
    lab.acl(b"allow all\ninclude /etc/qemu/denied.conf\n");
    lab.file("/etc/qemu/denied.conf", &[b"deny br0\n".to_vec(), b"# pad\n".repeat(40_000)].concat());
    for limits in [("-n", 3..14), ("-d", 200..520), ("-v", 2500..4200)] {
        let (option, range) = limits;
        for limit in range.step_by(if option == "-n" { 1 } else { 20 }) {
            let answer = lab.ask_with(&lab.ours, b"br0", |command| {
                let arguments: Vec<OsString> = command.get_args().map(OsStr::to_owned).collect();
                *command = as_user(Path::new("/usr/bin/timeout"));
                command.args([
                    "10",
                    "/bin/sh",
                    "-c",
                    &format!("ulimit {option} {limit}; exec \"$0\" \"$@\""),
                ]);
                command.arg(&lab.ours).args(arguments);
            });
            assert!(answer.device.is_none(), "ulimit {option} {limit}: {answer:?}");
        }
    }
    // None of it helps a caller whose bridge is not listed.
    lab.acl(b"allow br1\n");
    for (name, value) in [("HOME", "/tmp"), ("QEMU_BRIDGE_CONF", "/tmp/x"), ("TAPTRAIL_STATE_DIR", "/tmp")] {
        lab.ask_with(&lab.ours, b"br0", |command| {
            command.env(name, value);
        })
        .refused("does not allow");
    }
    assert_eq!(lab.world.links(), [""; 0]);
}

// Shows 1.18.
#[test]
fn only_a_connected_unix_socket_is_answered_over() {
    let lab = Lab::new();
    let usage = "Usage: taptrail-bridge-helper";
    let (socket, peer) = UnixStream::pair().unwrap();
    for arguments in [
        &["--br=br0"][..],
        &["--fd=FD"],
        &["--help"],
        &["--br=br0", "--fd=FD", "--fd=-1"],
        &["--br=br0", "--fd=99999999999"],
        &["--br=br0", "--fd=FD", "x"],
        &["--br", "br0", "--fd", "FD"],
    ] {
        lab.ask_over(&socket, arguments).fails(1, usage);
    }
    let none = "is no connected Unix socket";
    for fd in ["0", "1", "2", "x", "777", "2147483647"] {
        lab.ask_over(&socket, &["--br=br0", &format!("--fd={fd}")]).fails(1, none);
    }
    let ask = |fd: &dyn AsFd| lab.ask_over(fd.as_fd(), &["--br=br0", "--fd=FD"]);
    ask(&fs::File::open("/etc/passwd").unwrap()).fails(1, none);
    ask(&rustix::pipe::pipe().unwrap().1).fails(1, none);
    let listener = UnixListener::bind(lab.world.path("socket")).unwrap();
    ask(&listener).fails(1, none);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    ask(&TcpStream::connect(tcp.local_addr().unwrap()).unwrap()).fails(1, none);
    ask(&std::os::unix::net::UnixDatagram::unbound().unwrap()).fails(1, none);
    // The socket itself is good, and stays so.
    lab.ask_over(&socket, &["--br=br0", "--fd= +FDx"]).ok();
    assert!(receive(&peer).is_some());
    assert_eq!(lab.world.links(), [""; 0]);
}

// Shows 1.18, 3.18.
#[test]
fn a_caller_that_is_gone_gets_nothing_and_leaves_nothing() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let lab = Lab::new();
    let log = auditing.start_daemon(&lab.world.path(""));
    // Its end of the socket is closed.
    let (socket, peer) = UnixStream::pair().unwrap();
    drop(peer);
    lab.ask_over(&socket, &["--br=br0", "--fd=FD"]).fails(1, "can't be passed over the socket");
    let outcomes = |records: &[(BridgeOpen, Option<u32>)]| {
        let word = |(record, _): &(BridgeOpen, Option<u32>)| {
            (record.outcome, record.refusal.clone().unwrap_or_default())
        };
        records.iter().map(word).collect::<Vec<_>>()
    };
    let all = records(&lab, &log);
    assert_eq!(outcomes(&all), [(Outcome::Success, "".into()), (Outcome::Failed, "hand-over".into())]);
    assert_eq!(all[1].0.errno, Some(32), "EPIPE");
    assert_eq!(all[1].0.device, all[0].0.device);
    assert_eq!(lab.world.links(), [""; 0]);

    // Its process has ended: the helper's parent is the one that adopted it, and has no guest's name.
    let (socket, peer) = UnixStream::pair().unwrap();
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    // A shell gives its background an empty stdin.
    let script = "exec 3<&0; (read go <&3; exec \"$0\" --br=br0 --fd=\"$1\") & exit";
    let mut shell = as_user(Path::new("/bin/sh"));
    shell.args(["-c", script]).arg(&lab.ours).arg(socket.as_raw_fd().to_string()).args(["-name", "web1"]);
    let mut shell = shell.stdin(reader).spawn().unwrap();
    let pid = shell.id();
    shell.wait().unwrap();
    drop((socket, writer));
    lab.world.until("the answer", || {
        let mut polled = [rustix::event::PollFd::new(&peer, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).unwrap() > 0
    });
    let device = receive(&peer);
    assert!(device.is_some());
    let (record, _) = records(&lab, &log).pop().unwrap();
    assert_ne!(record.requester.pid, pid);
    assert_eq!((record.claimed_name, record.claimed_uuid), (None, None));
    drop(device);
    assert_eq!(lab.world.links(), [""; 0]);
}

// Shows 1.1, 3.18.
#[test]
fn nothing_is_passed_without_a_record_while_auditing_is_on() {
    let Some(mut auditing) = Auditing::switch(true) else { return };
    let lab = Lab::new();
    let log = auditing.start_daemon(&lab.world.path(""));
    let mute = lab.helper_with("mute", &[NET_ADMIN], 0o755);
    let strict = lab.helper_with("strict", &[NET_ADMIN, AUDIT_WRITE, AUDIT_CONTROL], 0o755);
    let setuid = lab.helper_with("setuid", &[], 0o4755);
    lab.ask(&mute, b"br0").refused("CAP_AUDIT_WRITE is missing");
    assert_eq!(lab.world.links(), [""; 0]);
    assert!(records(&lab, &log).is_empty());
    // A refusal stays one.
    lab.ask(&mute, b"br1").refused("does not allow bridge 'br1'");
    for helper in [&lab.ours, &strict, &setuid] {
        assert_eq!(lab.ask(helper, b"br0").tap(), "tap0");
        let (record, uid) = records(&lab, &log).pop().unwrap();
        assert_eq!((record.outcome, record.requester.uid, uid), (Outcome::Success, USER, Some(USER)));
    }
    assert_eq!(records(&lab, &log).len(), 3);
    // A helper without any right can't make a tap, and says so on record where it can.
    let bare = lab.helper_with("bare", &[AUDIT_WRITE], 0o755);
    lab.ask(&bare, b"br0").refused("can't be made queue 0 of 'tap%d'");
    let (record, _) = records(&lab, &log).pop().unwrap();
    assert_eq!(
        (record.outcome, record.refusal.as_deref(), record.errno),
        (Outcome::Failed, Some("device"), Some(1))
    );
}

// Shows 3.18.
#[test]
fn where_auditing_is_off_a_tap_is_passed() {
    let Some(_auditing) = Auditing::switch(false) else { return };
    let lab = Lab::new();
    let strict = lab.helper_with("strict", &[NET_ADMIN, AUDIT_WRITE, AUDIT_CONTROL], 0o755);
    let setuid = lab.helper_with("setuid", &[], 0o4755);
    for helper in [&lab.ours, &strict, &setuid] {
        assert_eq!(lab.ask(helper, b"br0").tap(), "tap0");
    }
    assert_eq!(lab.world.links(), [""; 0]);
}
