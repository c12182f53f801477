use proptest::prelude::*;

use super::*;

const FULL: &str = "bridge=br0,mac=52:54:00:12:34:56,queues=4,vhost=on,mtu=9000,ifname=web1,filter=no-mac-spoofing,\
                    isolated=on,vlan=42,id=ua-front,tun-path=/srv/dev/tun,vhost-path=/srv/dev/vhost-net";

fn spec(text: &str) -> NicSpec {
    text.parse().unwrap_or_else(|error: SpecError| panic!("{error}"))
}

fn problem(text: &str) -> Problem {
    *text.parse::<NicSpec>().expect_err(text).problem
}

/// The place that an error points at.
fn place(error: &SpecError) -> &str {
    &error.spec[error.span.clone()]
}

#[test]
fn a_backend_alone_has_every_default() {
    let nic = spec("bridge=br0");
    assert_eq!(nic, NicSpec::new(Backend::Bridge("br0".parse().unwrap())));
    assert_eq!(nic.model.qemu_driver(), "virtio-net-pci");
    assert_eq!((nic.queues.get(), nic.vhost), (1, Vhost::Auto));
    assert_eq!(spec("tap=tap0").backend, Backend::Tap("tap0".parse().unwrap()));
    let lower: IfName = "eth0".parse().unwrap();
    assert_eq!(
        spec("macvtap=eth0").backend,
        Backend::Macvtap { lower: lower.clone(), mode: MacvtapMode::Bridge }
    );
    assert_eq!(spec("macvtap=eth0,mode=vepa,mtu=1500").backend.to_string(), "macvtap=eth0,mode=vepa");
    assert_eq!(
        spec("mode=passthru,macvtap=eth0").backend,
        Backend::Macvtap { lower, mode: MacvtapMode::Passthru }
    );
}

#[test]
fn every_key_is_read() {
    let nic = spec(FULL);
    assert_eq!(nic.mac, Some("52:54:00:12:34:56".parse().unwrap()));
    assert_eq!((nic.queues.get(), nic.vhost, nic.mtu), (4, Vhost::On, Some(9000)));
    assert_eq!(nic.ifname, Some("web1".parse().unwrap()));
    assert_eq!(nic.filter.unwrap().filters(), ["no-mac-spoofing"]);
    assert_eq!((nic.isolated, nic.vlan), (true, Some(42)));
    assert_eq!(nic.id, Some("ua-front".parse().unwrap()));
    assert_eq!(nic.tun_path, Some("/srv/dev/tun".into()));
    assert_eq!(nic.vhost_path, Some("/srv/dev/vhost-net".into()));
}

#[test]
fn the_canonical_form_keeps_the_order_and_drops_defaults() {
    assert_eq!(spec(FULL).to_string(), FULL);
    for (text, canonical) in [
        ("queues=1,vhost=auto,model=virtio,isolated=off,bridge=br0", "bridge=br0"),
        ("mode=bridge,macvtap=eth0", "macvtap=eth0"),
        ("macvtap=eth0,mode=vepa,mac=52:54:00:AB:CD:EF", "macvtap=eth0,mode=vepa,mac=52:54:00:ab:cd:ef"),
        ("tap=t0,model=e1000,vhost=off", "tap=t0,model=e1000"),
        ("tap=t0,vhost=off", "tap=t0,vhost=off"),
        ("ifname=web1,new-tap=on", "new-tap=on,ifname=web1"),
    ] {
        assert_eq!(spec(text).to_string(), canonical);
    }
}

#[test]
fn a_property_of_the_device_is_kept_and_only_where_the_model_has_it() {
    let text = "bridge=br0,boot=1,rom=off,rx-queue-size=1024,packed=on,guest-ufo=off";
    assert_eq!(spec(text).to_string(), text);
    assert_eq!(spec("packed=on,boot=1,bridge=br0").to_string(), "bridge=br0,boot=1,packed=on");
    assert_eq!(spec("bridge=br0,model=e1000,boot=1").properties.len(), 1);
    assert!(matches!(problem("bridge=br0,model=e1000,packed=on"), Problem::NoProperty { .. }));
    for text in ["boot=0", "boot=-1", "rom=x", "rx-queue-size=300", "packed=yes", "acpi-index=16384"] {
        assert!(format!("bridge=br0,{text}").parse::<NicSpec>().is_err(), "{text}");
    }
}

#[test]
fn auto_is_off_for_a_model_that_cannot_use_vhost() {
    assert_eq!(spec("bridge=br0,model=e1000").vhost, Vhost::Off);
    assert_eq!(spec("bridge=br0,model=e1000,vhost=auto").vhost, Vhost::Off);
    assert!(matches!(problem("bridge=br0,model=e1000,vhost=on"), Problem::NoVhostModel(_)));
}

#[test]
fn a_doubled_comma_is_one_of_the_value() {
    let nic = spec("bridge=a,,b,tun-path=/dev/,,,,x,,,mtu=1500");
    assert_eq!(nic.backend, Backend::Bridge("a,b".parse().unwrap()));
    assert_eq!(nic.tun_path, Some("/dev/,,x,".into()));
    assert_eq!(nic.mtu, Some(1500));
    assert_eq!(spec(&nic.to_string()), nic);
}

#[test]
fn a_value_may_have_an_equals_sign() {
    assert_eq!(spec("tap=a=b").backend, Backend::Tap("a=b".parse().unwrap()));
}

// Shows 17.5.
#[test]
fn a_vdpa_device_is_named_by_its_node_and_has_no_link() {
    let text = "vdpa=/dev/vhost-vdpa-3,mac=52:54:00:00:00:01,queues=2,mtu=1500,packed=on";
    let nic = spec(text);
    assert_eq!(nic.to_string(), text);
    assert_eq!((nic.vhost, nic.makes_link(), nic.closes_after_unplug()), (Vhost::Off, false, true));
    let Backend::Vdpa(node) = &nic.backend else { panic!("{nic}") };
    assert_eq!((node.name().as_str(), node.path()), ("vhost-vdpa-3", "/dev/vhost-vdpa-3".into()));
    assert_eq!(NicSpec::new(nic.backend.clone()), spec("vdpa=/dev/vhost-vdpa-3"));
    for other in [
        "/dev/vhost-vdpa-",
        "/dev/vhost-vdpa-x",
        "/dev/vdpa/../vhost-vdpa-0",
        "vhost-vdpa-0",
        "/dev/vhost-net",
    ] {
        assert_eq!(problem(&format!("vdpa={other}")), Problem::VdpaNode(other.to_owned()));
    }
    for (key, value) in [
        (Key::Vhost, "off"),
        (Key::VhostPath, "/dev/vhost-net"),
        (Key::Filter, "no-mac-spoofing"),
        (Key::Ifname, "x"),
        (Key::Vlan, "2"),
        (Key::TunPath, "/dev/net/tun"),
    ] {
        let text = format!("vdpa=/dev/vhost-vdpa-0,{key}={value}");
        assert_eq!(problem(&text), Problem::WrongBackend { key, backend: Key::Vdpa });
    }
    assert!(matches!(problem("vdpa=/dev/vhost-vdpa-0,model=e1000"), Problem::NoVirtioModel { .. }));
    let twice = [spec("vdpa=/dev/vhost-vdpa-0,id=a"), spec("vdpa=/dev/vhost-vdpa-0,id=b")];
    assert!(matches!(*check_unique(&twice).unwrap_err().problem, Problem::VdpaInUse(_)));
}

// Shows 17.13.
#[test]
fn a_vhost_user_backend_is_named_by_its_socket_and_has_no_link() {
    let text = "vhostuser=/run/vhost0.sock,mac=52:54:00:00:00:01,queues=2,mtu=1500,rx-queue-size=512";
    let nic = spec(text);
    assert_eq!(nic.to_string(), text);
    assert_eq!(nic.vhost, Vhost::Off);
    let name = |path: &str| SocketPath::new(path).unwrap().name().to_string();
    assert_eq!(name("/run/vhost0.sock"), "vhost0.sock");
    assert_eq!(name("/run/a socket"), "vhost-user");
    assert_eq!(name("/run/a-name-that-is-too-long"), "vhost-user");
    let longest = format!("/{}", "a".repeat(106));
    spec(&format!("vhostuser={longest}"));
    for other in ["vhost0.sock", "./vhost0.sock", &format!("{longest}a")] {
        assert_eq!(problem(&format!("vhostuser={other}")), Problem::SocketPath(quoted(other)));
    }
    for (key, value) in [
        (Key::Vhost, "off"),
        (Key::Filter, "no-mac-spoofing"),
        (Key::Ifname, "x"),
        (Key::Vlan, "2"),
        (Key::SendBuffer, "1"),
        (Key::Inbound, "1"),
        (Key::Script, "/bin/true"),
    ] {
        let text = format!("vhostuser=/run/vhost0.sock,{key}={value}");
        assert_eq!(problem(&text), Problem::WrongBackend { key, backend: Key::VhostUser });
    }
    let model = problem("vhostuser=/run/vhost0.sock,model=e1000");
    assert_eq!(model.to_string(), "Model 'e1000' can't have a vhost-user backend: it does virtio");
    let twice = [spec("vhostuser=/run/x,id=a"), spec("vhostuser=/run/x,id=b")];
    assert!(matches!(*check_unique(&twice).unwrap_err().problem, Problem::SocketInUse(_)));
}

#[test]
fn what_can_not_be_together_is_refused() {
    let wrong = |key, backend| Problem::WrongBackend { key, backend };
    for (text, expected) in [
        ("tap=t0,isolated=on", wrong(Key::Isolated, Key::Tap)),
        ("macvtap=eth0,isolated=off", wrong(Key::Isolated, Key::Macvtap)),
        ("macvtap=eth0,vlan=2", wrong(Key::Vlan, Key::Macvtap)),
        ("tap=t0,ifname=t1", wrong(Key::Ifname, Key::Tap)),
        ("bridge=br0,mode=vepa", wrong(Key::Mode, Key::Bridge)),
        ("macvtap=eth0,tun-path=/dev/net/tun", wrong(Key::TunPath, Key::Macvtap)),
        ("tap=t0,bridge=br0", Problem::TwoBackends(Key::Tap, Key::Bridge)),
        ("new-tap=on,isolated=on", wrong(Key::Isolated, Key::NewTap)),
        ("new-tap=on,vlan=2", wrong(Key::Vlan, Key::NewTap)),
        ("bridge=br0,new-tap=on", Problem::TwoBackends(Key::Bridge, Key::NewTap)),
        ("mac=52:54:00:00:00:01", Problem::NoBackend),
        ("bridge=br0,bridge=br0", Problem::RepeatedKey(Key::Bridge)),
        ("bridge=br0,vhost=off,vhost-path=/dev/x", Problem::VhostPathUnused),
        ("bridge=br0,ifname=br0", Problem::NameOfBackend("br0".parse().unwrap())),
        ("bridge=br0,model=e1000,queues=2", Problem::OneQueueModel(Model::parse("e1000").unwrap())),
    ] {
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn numbers_have_their_bounds() {
    for text in ["queues=1", "queues=256", "mtu=68", "mtu=65535", "vlan=1", "vlan=4094"] {
        spec(&format!("bridge=br0,{text}"));
    }
    for text in [
        "queues=0",
        "queues=257",
        "queues=+2",
        "queues=-1",
        "queues=65537",
        "mtu=67",
        "mtu=65536",
        "vlan=0",
        "vlan=4095",
        "vlan=99999999999",
        "vlan=4294967297",
        "vlan= 2",
        "vlan=0x2",
    ] {
        let text = format!("bridge=br0,{text}");
        assert!(matches!(problem(&text), Problem::Number { .. }), "{text}");
    }
}

// Shows 2.19.
#[test]
fn settings_of_the_hosts_side_are_read_and_written() {
    for text in [
        "bridge=br0,vlan=42,link=down,sndbuf=0,trunk=7+47,vlan-mode=tagged,rx-frames=64",
        "bridge=ovs0,vlan=42,trunk=7,ovs=09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f,ovs-profile=a,,b",
        "bridge=br0,inbound=1000:4000:1024,outbound=128::32768",
        "macvtap=eth0,inbound=1000:2000,outbound=1",
        "new-tap=on,host-ip=192.0.2.1@192.0.2.2/24+2001:db8::1/64,host-route=198.51.100.0/24@192.0.2.2@5+::/0@7",
        "tap=tap0,script=/etc/qemu-ifup,downscript=/etc/qemu-ifdown",
    ] {
        assert_eq!(spec(text).to_string(), text);
    }
    // What holds anyway is left out.
    assert_eq!(
        spec("bridge=br0,link=up,vlan=1,trunk=2+2,vlan-mode=untagged").to_string(),
        "bridge=br0,vlan=1,trunk=2"
    );
    let many: Vec<String> = (1..=4094).map(|tag: u16| tag.to_string()).collect();
    assert!(matches!(problem(&format!("bridge=b,trunk={}", many.join("+"))), Problem::TooLong { .. }));
}

#[test]
fn control_characters_are_refused_and_never_shown() {
    let error = "bridge=br0,id=a\u{1b}[31m".parse::<NicSpec>().expect_err("an escape");
    assert_eq!(*error.problem, Problem::ControlCharacter);
    assert!(!error.to_string().contains('\u{1b}') && !error.render(false).contains('\u{1b}'));
    assert_eq!(problem("bridge=br0\nmtu=1"), Problem::ControlCharacter);
}

#[test]
fn a_spec_has_its_limit() {
    let id = |length: usize| format!("bridge=br0,id={}", "é".repeat(length));
    assert!(matches!(problem(&id(1000)), Problem::Id(_)));
    let error = id(3000).parse::<NicSpec>().expect_err("too long");
    assert_eq!(*error.problem, Problem::TooLong { limit: SPEC_LIMIT });
    assert!(error.spec.len() <= SPEC_LIMIT && error.to_string().len() < 400);
}

#[test]
fn the_longest_values_together_are_read_back() {
    let path = format!("/{}", ",".repeat(511));
    let nic = NicSpec {
        mac: Some("52:54:00:12:34:56".parse().unwrap()),
        model: Model::parse("virtio-net-pci-non-transitional").unwrap(),
        queues: NonZeroU16::new(256).unwrap(),
        vhost: Vhost::On,
        mtu: Some(65535),
        ifname: Some(",".repeat(15).parse().unwrap()),
        filter: Some(FilterChoice::new(vec!["a".repeat(64)])),
        isolated: true,
        vlan: Some(4094),
        id: Some("a".repeat(NicId::LIMIT).parse().unwrap()),
        tun_path: Some(path.clone().into()),
        vhost_path: Some(path.into()),
        ..NicSpec::new(Backend::Bridge(",a".repeat(7).parse().unwrap()))
    };
    assert_eq!(spec(&nic.to_string()), nic);
}

#[test]
fn serde_carries_the_canonical_form() {
    let json = serde_json::to_string(&spec(FULL)).unwrap();
    assert_eq!(json, format!("\"{FULL}\""));
    assert_eq!(serde_json::from_str::<NicSpec>(&json).unwrap(), spec(FULL));
    let error = serde_json::from_str::<NicSpec>("\"brige=br0\"").unwrap_err();
    assert!(error.to_string().contains("did you mean 'bridge'?"), "{error}");
}

// Shows 2.17.
#[test]
fn filters_and_their_parameters_are_read_and_written_back() {
    let text =
        "bridge=br0,filter=clean-traffic,filter=clean-traffic-v6,ip=192.0.2.6,ip=192.0.2.5,ipv6=2001:db8::5";
    let nic = spec(text);
    assert_eq!(nic.to_string(), text);
    assert_eq!(nic.filter.unwrap().filters(), ["clean-traffic", "clean-traffic-v6"]);
    // In whatever order, and under the variable's own name.
    let other = "ip=192.0.2.6,filter-parameter=IPV6=2001:db8::5,bridge=br0,filter=clean-traffic,\
         filter=clean-traffic-v6,filter-parameter=IP=192.0.2.5";
    assert_eq!(spec(other).to_string(), text);
    let own = "bridge=br0,filter=/srv/web,,1.xml,filter-parameter=PORTS=80";
    assert_eq!(spec(own).to_string(), own);
}

// Shows 5.13.
#[test]
fn one_guest_uses_an_address_an_id_and_a_link_once() {
    let nics = |texts: &[&str]| texts.iter().map(|text| spec(text)).collect::<Vec<_>>();
    check_unique(&nics(&["bridge=br0", "bridge=br0", "macvtap=eth0", "macvtap=eth0", "tap=t0", "tap=t1"]))
        .unwrap();
    for (second, pointed) in [
        ("bridge=br1,mac=52:54:00:00:00:01", "52:54:00:00:00:01"),
        ("macvtap=eth0,id=n0", "n0"),
        ("macvtap=eth0,ifname=web", "web"),
        ("tap=web", "web"),
        ("bridge=br1,address=3.0", "3.0"),
    ] {
        let first = "bridge=br0,mac=52:54:00:00:00:01,ifname=web,id=n0,address=03";
        let error = check_unique(&nics(&[first, "tap=other", second])).expect_err(second);
        assert_eq!((place(&error), error.spec.as_str()), (pointed, second));
    }
}

// Shows 5.13.
#[test]
fn a_random_address_is_one_that_a_guest_can_own() {
    let macs: Vec<MacAddr> = (0..8).map(|_| random_mac().unwrap()).collect();
    assert!(macs.iter().all(|mac| mac.0.starts_with(&[0x52, 0x54, 0x00])));
    assert!(macs.iter().any(|mac| *mac != macs[0]));
}

#[test]
fn an_error_is_one_line_and_a_picture() {
    let error = "bridge=br0,quues=4".parse::<NicSpec>().expect_err("a slip");
    assert_eq!(place(&error), "quues");
    assert_eq!(
        error.to_string(),
        "Key 'quues' is unknown, at character 12 of SPEC 'bridge=br0,quues=4'; did you mean 'queues'?"
    );
    assert!(error.render(true).contains("\u{1b}["));
    assert!(!error.render(false).contains('\u{1b}'));
}

// Shows 5.12.
#[test]
fn errors_as_people_see_them() {
    let texts = [
        "",
        "brige=br0",
        "bridge=br0,firewall=off",
        "bridge=br0,",
        "bridge=bridge0,,mtu=9000",
        "bridge",
        "bridge=",
        "bridge=br0,mac=52:54:00:12:34:56,queues=4,mac=52:54:00:12:34:57",
        "bridge=br0,tap=tap0",
        "mac=52:54:00:12:34:56",
        "bridge=br0,mac=52:54:00:12:34",
        "bridge=br0,mac=01:00:5e:00:00:01",
        "bridge=br0,mac=00:00:00:00:00:00",
        "bridge=a-name-far-too-long",
        "bridge=br0,queues=300",
        "bridge=br0,model=e1000,queues=4",
        "bridge=br0,model=e1000,vhost=on",
        "bridge=br0,vhost=onn",
        "bridge=br0,filter=clean-traffic",
        "bridge=br0,filter=clean-traffic,ip=192.0.2",
        "bridge=br0,filter=no-mac-spoofing,ip=192.0.2.5",
        "bridge=br0,ip=192.0.2.5",
        "bridge=br0,filter=clean-traffic,filter-parameter=CTRL_IP_LEARNING=arp",
        "bridge=br0,filter=clean-traffic,ip-learning=dhcp,filter-parameter=CTRL_IP_LEARNING=any",
        "bridge=br0,filter=clean-traffic,ip=192.0.2.5,ip-learning=dhcp",
        "bridge=br0,filter=no-mac-spoofing,ip-learning=dhcp",
        "bridge=br0,filter=clean-traffic,ip-learning=dhcp,dhcpserver=2001:db8::1",
        "bridge=br0,ip-learning=dhcp",
        "bridge=br0,filter=clean-traffic,filter-parameter=ip",
        "bridge=br0,filter=../clean-traffic",
        "macvtap=eth0,mode=passthrough",
        "tap=tap0,isolated=on",
        "macvtap=eth0,tun-path=/dev/net/tun",
        "bridge=br0,tun-path=dev/net/tun",
        "bridge=br0,model=rtl8139,vhost-path=/dev/vhost-net",
        "vhostuser=run/vhost0.sock",
        "vhostuser=/run/vhost0.sock,model=e1000",
        "vhostuser=/run/vhost0.sock,filter=no-mac-spoofing",
        "bridge=br0,id=0net",
        "bridge=brücke-名前,mtu=9",
        "bridge=br0,id=a\tb",
        "bridge=br0,trunk=20+4095",
        "bridge=br0,vlan-mode=tagged,trunk=7",
        "bridge=br0,ovs=yes",
        "bridge=br0,ovs=on,filter=no-mac-spoofing",
        "bridge=br0,inbound=1000:2000:10:4",
        "tap=tap0,inbound=1000",
        "new-tap=on,host-ip=192.0.2.1",
        "new-tap=on,host-ip=192.0.2.1@2001:db8::1/24",
        "new-tap=on,host-route=198.51.100.0/24@192.0.2.1@5@6",
        "new-tap=on,script=qemu-ifup",
        "bridge=br0,address=20",
        "bridge=br0,model=usb-net,address=3",
    ];
    let pictures = texts.map(|text| text.parse::<NicSpec>().expect_err(text).render(false));
    insta::assert_snapshot!(pictures.join("\n\n"));
}

fn text_of(all: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(all).prop_map(str::to_owned)
}

/// A value that is more often right than not.
fn value_of(key: Key) -> BoxedStrategy<String> {
    let likely = match key {
        Key::Bridge | Key::Tap | Key::Macvtap | Key::Ifname => "[a-z0-9,=.é-]{1,7}".boxed(),
        Key::Mode => text_of(&["bridge", "vepa", "private", "passthru"]).boxed(),
        Key::Mac => "5[02468]:[0-9a-fA-F]{2}(:[0-9a-f]{2}){4}".boxed(),
        Key::Model => text_of(&["virtio", "e1000", "e1000e", "virtio-transitional"]).boxed(),
        Key::Vdpa => (0..=9999u32).prop_map(|n| format!("/dev/vhost-vdpa-{n}")).boxed(),
        Key::VhostUser => "/[a-z0-9,=/ é]{0,20}".boxed(),
        Key::Queues => (1..=256u32).prop_map(|n| n.to_string()).boxed(),
        Key::Vhost => text_of(&["on", "off", "auto"]).boxed(),
        Key::Mtu => (68..=65535u32).prop_map(|n| n.to_string()).boxed(),
        Key::Filter => text_of(&["no-mac-spoofing", "clean-traffic", "my-own", "/a,b"]).boxed(),
        Key::Ip => text_of(&["192.0.2.5", "192.0.2.6"]).boxed(),
        Key::Ipv6 => text_of(&["2001:db8::5", "::"]).boxed(),
        Key::Dhcpserver => text_of(&["192.0.2.1", "2001:db8::1"]).boxed(),
        Key::GatewayMac => text_of(&["52:54:00:00:00:fe"]).boxed(),
        Key::IpLearning => text_of(&["dhcp", "any", "none"]).boxed(),
        Key::FilterParameter => text_of(&["A=1", "IP=192.0.2.7", "CTRL_IP_LEARNING=none", "_x=,"]).boxed(),
        Key::NewTap => Just("on".to_owned()).boxed(),
        Key::Isolated => text_of(&["on", "off"]).boxed(),
        Key::Vlan => (1..=4094u32).prop_map(|n| n.to_string()).boxed(),
        Key::Id => "[a-zA-Z][a-zA-Z0-9._-]{0,9}".boxed(),
        Key::TunPath | Key::VhostPath => "/[a-z0-9,=/ é]{0,20}".boxed(),
        Key::LinkState => text_of(&["up", "down"]).boxed(),
        Key::SendBuffer => any::<i32>().prop_map(|n| n.unsigned_abs().to_string()).boxed(),
        Key::Trunk => "[1-9][0-9]{0,2}([+][1-9][0-9]{0,2}){0,4}".boxed(),
        Key::VlanMode => text_of(&["tagged", "untagged"]).boxed(),
        Key::Ovs => text_of(&["on", "09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f"]).boxed(),
        Key::OvsProfile => "[a-z ,]{1,5}".boxed(),
        Key::RxFrames => (0..=64u32).prop_map(|n| n.to_string()).boxed(),
        Key::Inbound | Key::Outbound => "[1-9][0-9]{0,3}(:[1-9]?(:[1-9][0-9]{0,3})?)?".boxed(),
        Key::HostIp => text_of(&["192.0.2.1/24", "192.0.2.1@192.0.2.2/32+2001:db8::1/64"]).boxed(),
        Key::HostRoute => text_of(&["198.51.100.0/24", "198.51.100.0/24@192.0.2.2@5+::/0@7"]).boxed(),
        Key::Script | Key::Downscript => "/[a-z0-9,=/ é]{0,20}".boxed(),
        Key::Device(_) => text_of(&["on", "off", "1", "512", "/a,b", "bh"]).boxed(),
    };
    prop_oneof![15 => likely, 1 => "\\PC{0,6}"].boxed()
}

/// A SPEC that is often right.
fn any_spec() -> impl Strategy<Value = String> {
    let backend = prop::sample::select(&[Key::Bridge, Key::Tap, Key::NewTap, Key::Macvtap, Key::Vdpa][..]);
    let others = prop::sample::subsequence(Key::all().skip(5).collect::<Vec<_>>(), 0..6);
    (backend, others).prop_flat_map(|(backend, mut keys)| {
        keys.push(backend);
        let pair =
            |key: Key| value_of(key).prop_map(move |value| format!("{key}={}", value.replace(',', ",,")));
        keys.into_iter().map(pair).collect::<Vec<_>>().prop_shuffle().prop_map(|pairs| pairs.join(","))
    })
}

proptest! {
    #[test]
    fn what_is_read_is_read_back_the_same(text in any_spec()) {
        if let Ok(nic) = text.parse::<NicSpec>() {
            let canonical = nic.to_string();
            let again = spec(&canonical);
            prop_assert_eq!(&again, &nic);
            prop_assert_eq!(again.to_string(), canonical);
        }
    }

    #[test]
    fn no_text_brings_the_reader_or_its_errors_down(text in prop_oneof![".*", any_spec()], cut in any::<prop::sample::Index>()) {
        let half = &text[..text.floor_char_boundary(cut.index(text.len() + 1))];
        for text in [&text, half] {
            if let Err(error) = text.parse::<NicSpec>() {
                prop_assert!(error.spec.get(error.span.clone()).is_some());
                prop_assert_eq!(error.to_string().lines().count(), 1);
                prop_assert!(!error.render(false).is_empty());
                prop_assert!(!error.render(true).is_empty());
            }
        }
    }
}

#[test]
fn most_of_the_properties_specs_are_sound() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let sound = (0..1000)
        .filter(|_| any_spec().new_tree(&mut runner).unwrap().current().parse::<NicSpec>().is_ok())
        .count();
    assert!(sound > 150, "only {sound} in 1000");
}
