//! Command lines that users write, and what becomes of them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use taptrail_record::GuestId;
use uuid::Uuid;

use super::{Additions, CommandLine, CommandLineError, NicOnCommandLine, Ports, device_properties};
use crate::spec::NicSpec;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

fn parse(words: &[&str]) -> Result<CommandLine, CommandLineError> {
    CommandLine::parse(QEMU, words.iter().map(OsString::from))
}

fn refusal(words: &[&str]) -> String {
    match parse(words) {
        Ok(command) => panic!("not refused: {command}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_ordinary_command_line_is_left_as_it_is() {
    let words =
        ["-m", "512", "-nographic", "-netdev", "user,id=n0", "-device", "e1000,netdev=n0", "disk.qcow2"];
    let command = parse(&words).unwrap();
    assert_eq!(command.args, words);
    assert_eq!((command.machine.as_deref(), command.paused, command.sandbox), (None, false, false));
    assert_eq!(
        command.to_string(),
        format!("{QEMU} -m 512 -nographic -netdev user,id=n0 -device e1000,netdev=n0 disk.qcow2")
    );
    assert!(parse(&[]).is_ok());
}

#[test]
fn what_the_user_settled_is_seen() {
    let command = parse(&["-S", "--sandbox", "off", "-M", "q35", "-machine", "accel=tcg"]).unwrap();
    assert_eq!((command.machine.as_deref(), command.paused, command.sandbox), (Some("q35"), true, true));
    assert!(command.needs_ports());
    let command = parse(&["-machine", "accel=kvm,type=q35", "-M", "pc", "-append", "-S"]).unwrap();
    assert_eq!((command.machine.as_deref(), command.paused), (Some("pc"), false));
    assert!(!command.needs_ports());
}

// Shows 5.4.
#[test]
fn a_tap_of_qemus_own_is_refused_with_what_to_use_instead() {
    for (words, spec) in [
        (vec!["-netdev", "tap,id=n0,ifname=vnet5,script=no"], "--nic tap=vnet5 in its place"),
        (vec!["-netdev", "bridge,id=n0,br=br0"], "--nic bridge=br0 in its place"),
        (
            vec!["--netdev", "type=tap,id=n0,fds=7:8,vhost=on"],
            "--nic tap=NAME,queues=2,vhost=on in its place",
        ),
        (vec!["-netdev", "id=n0,type=tap,type=user"], "--nic bridge=BRIDGE in its place"),
        (
            vec!["-netdev", r#"{"type": "tap", "id": "n0", "br": "b", "helper": "x"}"#],
            "--nic bridge=b in its place",
        ),
        (
            vec!["-nic", "tap,mac=52:54:00:00:00:07,model=e1000"],
            "--nic bridge=BRIDGE,mac=52:54:00:00:00:07,model=e1000 in its place",
        ),
        (vec!["-nic", "model=virtio,type=bridge"], "--nic bridge=br0 in its place"),
        (
            vec!["-net", "nic,model=rtl8139", "-net", "tap,ifname=t,script=no"],
            "--nic tap=t,model=rtl8139 in its place and in that of argument 1",
        ),
        (
            vec![
                "-netdev",
                "bridge,id=n0",
                "-device",
                "e1000,netdev=n1",
                "-device",
                "virtio-net,netdev=n0,mac=52:54:00:00:00:01",
            ],
            "--nic bridge=br0,mac=52:54:00:00:00:01 in its place and in that of argument 5",
        ),
        (vec!["-netdev", "user,id=n0", "-set", "netdev.n0.type=tap"], "--nic bridge=BRIDGE in its place"),
        (vec!["-from-the-future", "-netdev", "tap,id=n0"], "--nic bridge=BRIDGE in its place"),
        (vec!["-from-the-future", "x", "-netdev", "tap,id=n0"], "--nic bridge=BRIDGE in its place"),
    ] {
        let text = refusal(&words);
        assert!(text.ends_with(&format!("use {spec}")), "{words:?}: {text}");
    }
    assert_eq!(
        refusal(&["-m", "1G", "--netdev", "tap,id=n0"]),
        "Argument 3 of QEMU, '-netdev tap,id=n0', would open a tap that nobody records: \
         use --nic bridge=BRIDGE in its place"
    );
}

#[test]
fn what_only_looks_like_a_tap_is_not_refused() {
    for words in [
        vec!["-netdev", "user,id=tap"],
        vec!["-netdev", "socket,id=n0,connect=bridge:1"],
        vec!["-netdev", "vhost-user,id=n0,chardev=tap"],
        vec!["-append", "-netdev tap,id=n0"],
        vec!["-kernel", "-netdev"],
        vec!["tap"],
        vec!["-nic", "none"],
        vec!["-net", "none"],
        vec!["-set", "device.n0.type=tap"],
        vec!["-object", "tap,id=x"],
    ] {
        assert!(parse(&words).is_ok(), "{words:?}");
    }
}

#[test]
fn what_taptrail_sets_is_refused_with_its_own_option() {
    for (words, instead) in [
        (vec!["-name", "web1"], "--name"),
        (vec!["--name", "web1"], "--name"),
        (vec!["-uuid", "0"], "--uuid"),
        (vec!["-daemonize"], "--background"),
        (vec!["-runas", "nobody"], "--user"),
        (vec!["-run-with", "chroot=/,user=nobody"], "--user"),
    ] {
        let text = refusal(&words);
        assert!(text.ends_with(&format!("is taptrail's own to set: use {instead} instead")), "{text}");
    }
    assert!(parse(&["-run-with", "chroot=/"]).is_ok());
}

#[test]
fn an_option_without_its_value_would_swallow_ours() {
    assert_eq!(refusal(&["-S", "-kernel"]), "Argument 2 of QEMU, '-kernel', needs a value");
}

#[test]
fn json_that_only_qemu_can_read_is_refused() {
    assert!(matches!(
        parse(&["-netdev", "{'type': 'tap'}"]),
        Err(CommandLineError::Json { position: 1, .. })
    ));
}

// Shows 5.4.
#[test]
fn a_configuration_file_is_read_too() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("guest.conf");
    let path = path.to_str().unwrap();
    let with = |text: &str| {
        std::fs::write(path, text).unwrap();
        parse(&["-readconfig", path])
    };
    let command =
        with("[machine]\n type = \"q35\"\n[sandbox]\n enable = \"on\"\n[netdev \"n0\"]\n type = \"user\"\n");
    let command = command.unwrap();
    assert_eq!((command.machine.as_deref(), command.sandbox), (Some("q35"), true));

    let refused = with("\n[netdev \"n0\"]\n type = \"bridge\"\n br = \"br7\"\n").unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "Section [netdev] in line 2 of QEMU's configuration {path} would open a tap that nobody records: \
             use --nic bridge=br7 in its place"
        )
    );
    assert!(matches!(with("[name]\n guest = \"x\"\n"), Err(CommandLineError::ConfigReserved { .. })));
    assert!(matches!(parse(&["-readconfig", "/no/such"]), Err(CommandLineError::Config { .. })));
}

#[test]
fn words_that_are_no_text_pass_unchanged() {
    let word = OsString::from_vec(b"-drive".to_vec());
    let value = OsString::from_vec(b"file=\xff.img".to_vec());
    let command = CommandLine::parse(QEMU, [word.clone(), value.clone()]).unwrap();
    assert_eq!(command.args, [word, value]);
}

#[test]
fn a_refusal_shows_no_control_characters_and_not_everything() {
    let text = refusal(&["-netdev", &format!("tap,id=\u{1b}[31m{}", "x".repeat(500))]);
    assert!(text.contains(r"tap,id=\u{1b}[31mxxx") && text.contains('…') && text.len() < 300, "{text}");
}

fn guest() -> GuestId {
    GuestId { name: "web,1".into(), uuid: Uuid::nil() }
}

fn nic(queues: u16, vhost: bool) -> NicOnCommandLine {
    let fds = |from: i32| (from..from + i32::from(queues)).collect();
    NicOnCommandLine {
        id: "nic0".to_owned(),
        netdev_id: "net0".to_owned(),
        spec: format!("tap=tap0,queues={queues}").parse().unwrap(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        fds: fds(10),
        vhost_fds: if vhost { fds(20) } else { Vec::new() },
        bus: None,
    }
}

fn added(command: &CommandLine, nics: &[NicOnCommandLine], ports: &Ports, sandbox: bool) -> Vec<String> {
    let additions = Additions { guest: &guest(), monitor_fd: 5, nics, ports, sandbox };
    let words = command.with(&additions);
    assert_eq!(words[..command.args.len()], command.args);
    words[command.args.len()..].iter().map(|word| word.to_str().unwrap().to_owned()).collect()
}

// Shows 5.6.
#[test]
fn what_is_added_stands_behind_what_the_user_wrote() {
    let command = parse(&["-m", "512"]).unwrap();
    let spec = "tap=tap0,mtu=9000".parse().unwrap();
    let tap = NicOnCommandLine { bus: Some("taptrail-port0".to_owned()), spec, ..nic(1, false) };
    assert_eq!(
        added(&command, &[tap, nic(2, true)], &Ports::new(2), true),
        [
            "-name",
            "guest=web,,1",
            "-uuid",
            "00000000-0000-0000-0000-000000000000",
            "-chardev",
            "socket,id=taptrail-monitor,fd=5,server=on,wait=on",
            "-mon",
            "chardev=taptrail-monitor,mode=control",
            "-device",
            "pcie-root-port,id=taptrail-port0,bus=pcie.0,chassis=255,slot=255",
            "-device",
            "pcie-root-port,id=taptrail-port1,bus=pcie.0,chassis=254,slot=254",
            "-netdev",
            "tap,id=net0,fd=10,vhost=off",
            "-device",
            "driver=virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,host_mtu=9000,bus=taptrail-port0",
            "-netdev",
            "tap,id=net0,fds=10:11,vhost=on,vhostforce=on,vhostfds=20:21",
            "-device",
            "driver=virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,mq=on,vectors=6",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-S",
        ]
    );
}

// Shows 5.6.
#[test]
fn what_the_user_settled_is_not_added() {
    let words = added(&parse(&["-S", "-sandbox", "off"]).unwrap(), &[], &Ports::default(), true);
    assert!(!words.iter().any(|word| word == "-S" || word == "-sandbox"), "{words:?}");
    let words = added(&parse(&[]).unwrap(), &[], &Ports::default(), false);
    assert!(
        words.iter().any(|word| word == "-S") && !words.iter().any(|word| word == "-sandbox"),
        "{words:?}"
    );
}

#[test]
fn a_model_gets_only_the_properties_that_it_has() {
    let of = |model: &str, queues: u16| {
        let mac = "52:54:00:00:00:01".parse().unwrap();
        let spec: NicSpec = format!("tap=tap0,model={model},queues={queues},mtu=1400").parse().unwrap();
        let properties = device_properties("a", "b", &spec, mac, Some("port"));
        properties.keys().skip(4).cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("virtio", 1), "host_mtu bus");
    assert_eq!(of("virtio", 4), "mq vectors host_mtu bus");
    assert_eq!(of("virtio-net-ccw", 4), "mq host_mtu");
    assert_eq!(of("e1000e", 1), "bus");
    assert_eq!(of("usb-net", 1), "");
}

#[test]
fn there_are_no_more_ports_than_a_bus_has_slots() {
    assert_eq!(Ports::new(1000).names.len(), Ports::LIMIT);
    assert_eq!(Ports::new(2).names, ["taptrail-port0", "taptrail-port1"]);
}
