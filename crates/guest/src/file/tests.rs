use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::chain;

fn read_as(text: &str, path: &str) -> Result<GuestFile, FileError> {
    parse(text, Path::new(path))
}

fn request(text: &str) -> GuestRequest {
    read_as(text, "/etc/taptrail/guests/web1.toml")
        .unwrap_or_else(|error| panic!("{}", error.render(false)))
        .request
}

fn refused(text: &str) -> FileError {
    read_as(text, "web1.toml").expect_err(text)
}

const FULL: &str = r#"
name = "front"
uuid = "2075bf55-5c6f-4153-a242-30d008f8ffb2"
nics = [
    "bridge=br0,mac=52:54:00:00:00:01", # the front
    'macvtap=eth0',
]
user = "qemu"
devices = ["/dev/vg/disk"]
private-dev = true
env = ["DISPLAY", "A=b=c"]
limits = ["memlock=unlimited"]
audit = "required"
allow = ["operator", "1000"]
revoke-unfiltered = true
bpf = true
hotplug-ports = 0x8
sandbox = false
nft = "/opt/nft"
stop-timeout = "2m"
command = ["qemu-system-x86_64", "-m", "1G", ""]
"#;

// Shows 12.1.
#[test]
fn every_key_is_taken() {
    assert_eq!(
        request(FULL),
        GuestRequest {
            name: "front".to_owned(),
            uuid: Some("2075bf55-5c6f-4153-a242-30d008f8ffb2".parse().unwrap()),
            nics: vec!["bridge=br0,mac=52:54:00:00:00:01".parse().unwrap(), "macvtap=eth0".parse().unwrap()],
            user: Some("qemu".to_owned()),
            devices: vec!["/dev/vg/disk".into()],
            private_dev: true,
            env: vec!["DISPLAY".into(), "A=b=c".into()],
            limits: vec!["memlock=unlimited".parse().unwrap()],
            audit: AuditMode::Required,
            allow: vec!["operator".to_owned(), "1000".to_owned()],
            revoke_unfiltered: true,
            bpf: true,
            hotplug_ports: 8,
            sandbox: false,
            nft: Some("/opt/nft".into()),
            stop_timeout: Duration::from_secs(120),
            command: ["qemu-system-x86_64", "-m", "1G", ""].map(OsString::from).to_vec(),
        }
    );
    for key in FileKey::ALL {
        assert!(FULL.contains(&format!("\n{key} = ")), "{key}");
        assert_eq!(key.as_str().parse(), Ok(key));
    }
}

// Shows 12.1.
#[test]
fn a_guest_is_called_like_its_file() {
    assert_eq!(request("command = ['q']").name, "web1");
    let error = read_as("command = ['q']", "/etc/.toml").unwrap_err();
    assert_eq!(
        error.to_string(),
        "/etc/.toml:1:1: The guest has no name, and the file's own can't be one; add name = \"…\""
    );
}

// Shows 12.2.
#[test]
fn what_is_wrong_is_shown_in_place() {
    insta::assert_snapshot!(refused("command = ['q']\nnic = []\n").render(false), @r"
    error: Key 'nic' is unknown
     --> web1.toml:2:1
      |
    2 | nic = []
      | ^^^
      |
      = help: did you mean 'nics'?
    ");
    let spec = "nics = [\n  'tap=tap0',\n  \"bridge=br0,quues=4\",\n]\n";
    insta::assert_snapshot!(refused(spec).render(false), @r#"
    error: Key 'quues' is unknown
     --> web1.toml:3:15
      |
    3 |   "bridge=br0,quues=4",
      |               ^^^^^
      |
      = help: did you mean 'queues'?
    "#);
    insta::assert_snapshot!(refused("nics = ['tap=tap0', 'tap=tap0']\n").render(false), @r"
    error: Link 'tap0' is used by another interface of this guest
     --> web1.toml:1:21
      |
    1 | nics = ['tap=tap0', 'tap=tap0']
      |         ----------  ^^^^^^^^^^
    ");
    insta::assert_snapshot!(refused("command = ['q'\nuser = 'x'\n").render(false), @r"
    error: The file is not valid TOML
     --> web1.toml:2:1
      |
    2 | user = 'x'
      | ^ missing comma between array elements, expected `,`
    ");
    insta::assert_snapshot!(refused("nics = 'tap=tap0'\n").render(false), @r"
    error: 'nics' can't be a string: a list of strings is needed
     --> web1.toml:1:8
      |
    1 | nics = 'tap=tap0'
      |        ^^^^^^^^^^
    ");
}

// Shows 12.2.
#[test]
fn an_escaped_spec_is_pointed_at_as_a_whole() {
    let error = refused("nics = [\"bridge=br0,\\u0071uues=4\"]\n");
    assert_eq!(error.to_string(), "web1.toml:1:9: Key 'quues' is unknown; did you mean 'queues'?");
    let error = refused("nics = [\"\"\"bridge=br0,quues=4\"\"\"]\n");
    assert_eq!(error.to_string(), "web1.toml:1:9: Key 'quues' is unknown; did you mean 'queues'?");
    let error = refused("nics = ['']\n");
    assert_eq!(error.to_string(), "web1.toml:1:9: The SPEC is empty");
}

// Shows 12.2.
#[test]
fn each_error_has_one_line() {
    for (text, line) in [
        ("", "1:1: Key 'command' is missing; add command = [\"qemu-system-x86_64\", \"-m\", \"1G\", …]"),
        ("command = []", "1:11: 'command' is empty"),
        ("command = ['']", "1:12: 'command' is empty"),
        ("command = 'q'", "1:11: 'command' can't be a string: a list of strings is needed"),
        ("command = ['q', 1]", "1:17: 'command' can't be a number: a list of strings is needed"),
        ("command = [\"q\", \"a\\u0000b\"]", "1:17: NUL characters are not allowed here"),
        ("[command]\na = 1", "1:1: 'command' can't be a table: a list of strings is needed"),
        (
            "name = 'a/b'",
            "1:8: Guest name 'a/b' can't be used: 1 to 64 bytes without '/', control characters or a leading '.' are needed",
        ),
        ("uuid = 'x'", "1:8: 'x' is not a uuid"),
        ("user = ''", "1:8: 'user' is empty"),
        ("private-dev = 'no'", "1:15: 'private-dev' can't be a string: true or false is needed"),
        (
            "private-dev = false\ndevices = ['/dev/sda']",
            "2:11: 'devices' have no meaning where 'private-dev' is false",
        ),
        ("devices = ['sda']", "1:12: 'sda' is not an absolute path"),
        (
            "limits = ['files=1']",
            "1:11: 'files=1' is not a limit: write core=N, memlock=N, nofile=N or nproc=N, where N may be 'unlimited'",
        ),
        ("audit = 'on'", "1:9: 'on' can't be 'audit': required, auto or off is needed"),
        ("hotplug-ports = 33", "1:17: '33' can't be 'hotplug-ports': a number from 0 to 32 is needed"),
        ("hotplug-ports = -1", "1:17: '-1' can't be 'hotplug-ports': a number from 0 to 32 is needed"),
        ("hotplug-ports = 1.5", "1:17: 'hotplug-ports' can't be a number: a number is needed"),
        ("nft = 'nft'", "1:7: 'nft' is not an absolute path"),
        ("stop-timeout = '30'", "1:16: '30' is not a time: write 30s, 500ms or 2m"),
        (
            "\"\\u001b\" = 1",
            "1:1: Key '\\u{1b}' is unknown; the keys are name, uuid, command, nics, user, private-dev, devices, env, limits, sandbox, hotplug-ports, audit, allow, revoke-unfiltered, bpf, nft, stop-timeout",
        ),
        ("user = 'a'\nuser = 'b'", "2:1: The file is not valid TOML: duplicate key"),
    ] {
        assert_eq!(chain(&refused(text)), format!("web1.toml:{line}"), "{text}");
    }
}

// Shows 12.3.
#[test]
fn what_the_host_shows_is_shown_in_place_too() {
    let file = read_as(FULL, "web1.toml").unwrap();
    for (part, place) in [
        (Part::User, "8:8"),
        (Part::Device(0), "9:12"),
        (Part::Variable(1), "11:19"),
        (Part::Caller(1), "14:22"),
        (Part::Command, "21:11"),
        (Part::Word(2), "21:40"),
    ] {
        let error = file.wrong(part, "No", Some("so".to_owned()));
        assert_eq!(error.to_string(), format!("web1.toml:{place}: No; so"));
    }
}

#[test]
fn more_interfaces_than_any_machine_has_are_refused() {
    let nics = vec!["'tap=t'"; NICS_LIMIT + 1].join(",");
    assert_eq!(
        refused(&format!("nics = [{nics}]")).to_string(),
        "web1.toml:1:8: 'nics' has more than 256 entries"
    );
}

// Shows 12.5.
#[test]
fn a_file_is_read_only_if_nobody_else_can_have_written_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web1.toml");
    let says = |path: &Path| chain(&read(path).unwrap_err()).replace(dir.path().to_str().unwrap(), "");
    assert_eq!(says(&path), "Guest file /web1.toml can't be read: No such file or directory (os error 2)");
    std::fs::write(&path, "command = []\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    assert_eq!(read(&path).unwrap(), "command = []\n");
    let link = dir.path().join("link.toml");
    symlink(&path, &link).unwrap();
    assert!(read(&link).is_ok(), "a link to a file that is root's alone is fine");
    for others in [0o664, 0o646] {
        mode(others);
        let text = format!("can be written by others than its owner (mode {others:04o}): chmod go-w");
        assert_eq!(says(&path), format!("Guest file /web1.toml {text}"));
        assert_eq!(says(&link), format!("Guest file /link.toml {text}"));
    }
    mode(0o644);
    std::fs::write(&path, b"a = 1\nb = '\xff'\n").unwrap();
    assert_eq!(says(&path), "Guest file /web1.toml is not UTF-8 text in line 2");
    std::fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert_eq!(says(&path), "Guest file /web1.toml is longer than 1048576 bytes");
    assert_eq!(says(dir.path()), "Guest file  is not a regular file");
    let pipe = dir.path().join("pipe.toml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    assert_eq!(says(&pipe), "Guest file /pipe.toml is not a regular file");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert_eq!(says(&path), "Guest file /web1.toml belongs to uid 12345, not to root or to us (uid 0)");
    }
}

proptest! {
    #[test]
    fn a_slip_anywhere_is_shown_or_harmless(at in 0..FULL.len(), gone in 0..9_usize, new in "[\\[\\]{}='\"\\\\u0,.#é\n a-d]{0,5}") {
        let end = FULL.len().min(at + gone);
        let text = format!("{}{new}{}", &FULL[..at], &FULL[end..]);
        let error = match read_as(&text, "web1.toml") {
            Ok(file) => file.wrong(Part::Word(file.request.command.len() - 1), "no", None),
            Err(error) => error,
        };
        prop_assert!(error.line <= text.lines().count() + 1);
        prop_assert_eq!(error.to_string().lines().count(), 1);
        prop_assert!(!error.render(false).is_empty());
    }
}
