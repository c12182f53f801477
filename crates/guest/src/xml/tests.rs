use proptest::prelude::*;

use super::*;

/// The interface as a SPEC; a virtio NIC, if the text names no model.
fn canonical(text: &str) -> String {
    let virtio = text.replace("</interface>", "<model type='virtio'/></interface>");
    let text = if text.contains("<model") { text } else { &virtio };
    parse(text, "nic.xml", &Networks::default()).unwrap_or_else(|error| panic!("{error}")).nic.to_string()
}

fn refused(text: &str) -> XmlError {
    parse(text, "nic.xml", &Networks::default()).expect_err(text)
}

/// As `virsh dumpxml` writes it, without `<address>`.
const LIVE: &str = "<interface type='bridge'>
  <mac address='52:54:00:6d:90:02'/>
  <source bridge='br0'/>
  <target dev='vnet3'/>
  <model type='virtio'/>
  <alias name='net0'/>
</interface>
";

const FULL: &str = "<?xml version='1.0' encoding='UTF-8'?>
<!-- the front -->
<interface type=\"bridge\">
  <mac address=\"52:54:00:12:34:56\"/>
  <source bridge=\"br&#48;\"/>
  <target dev=\"web1\"/>
  <model type=\"virtio-non-transitional\"/>
  <driver name=\"vhost\" queues=\"4\"/>
  <backend tap=\"/srv/dev/tun\" vhost=\"/srv/dev/a,b\"/>
  <mtu size=\"9000\"/>
  <port isolated=\"yes\"/>
  <vlan><tag id=\"42\"/></vlan>
  <filterref filter=\"no-mac-spoofing\"/>
  <alias name=\"ua-front\"/>
</interface>";

#[test]
fn a_live_guests_interface_is_usable_without_its_address() {
    assert_eq!(canonical(LIVE), "bridge=br0,mac=52:54:00:6d:90:02");
}

// Shows 6.2.
#[test]
fn every_element_has_its_key() {
    assert_eq!(
        canonical(FULL),
        "bridge=br0,mac=52:54:00:12:34:56,model=virtio-net-pci-non-transitional,queues=4,vhost=on,mtu=9000,\
         ifname=web1,filter=no-mac-spoofing,isolated=on,vlan=42,id=ua-front,tun-path=/srv/dev/tun,\
         vhost-path=/srv/dev/a,,b"
    );
}

// Shows 17.5.
#[test]
fn a_vdpa_interface_is_virtio_and_has_what_a_spec_may_have() {
    let of = |inside: &str| {
        format!("<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/>{inside}</interface>")
    };
    let text =
        of("<mac address='52:54:00:00:00:01'/><mtu size='1500'/><driver queues='2'/><alias name='net0'/>");
    let read = parse(&text, "nic.xml", &Networks::default()).unwrap();
    assert_eq!(
        (read.nic.to_string().as_str(), read.notes),
        ("vdpa=/dev/vhost-vdpa-0,mac=52:54:00:00:00:01,queues=2,mtu=1500", vec![])
    );
    for refused_element in
        ["<vlan><tag id='2'/></vlan>", "<port isolated='yes'/>", "<backend vhost='/dev/x'/>"]
    {
        refused(&of(refused_element));
    }
    for wrong in ["<model type='e1000'/>", "<driver name='vhost'/>", "<filterref filter='no-mac-spoofing'/>"]
    {
        assert!(matches!(*refused(&of(wrong)).problem, XmlProblem::Nic(_)), "{wrong}");
    }
    refused("<interface type='vdpa'><source dev='/dev/null'/></interface>");
    refused("<interface type='vdpa'/>");
}

// Shows 17.13.
#[test]
fn a_vhost_user_interface_is_one_to_whose_backend_qemu_connects() {
    let of = |mode: &str, inside: &str, after: &str| {
        format!(
            "<interface type='vhostuser'><source type='unix' path='/run/vhost0.sock' mode='{mode}'>{inside}</source>{after}</interface>"
        )
    };
    // What libvirt shows of a guest that runs.
    let live = "<mac address='52:54:00:00:00:01'/><target dev='vhost-user1'/><driver queues='2'/>";
    let read = parse(&of("client", "<reconnect enabled='no'/>", live), "nic.xml", &Networks::default());
    let read = read.unwrap();
    assert_eq!(
        (read.nic.to_string().as_str(), read.notes),
        ("vhostuser=/run/vhost0.sock,mac=52:54:00:00:00:01,queues=2", vec![])
    );
    let server = refused(&of("server", "", ""));
    assert_eq!(
        (server.problem.to_string().as_str(), server.help.as_deref()),
        (
            "<source> mode='server' is not supported: QEMU would take whoever connects, on no record",
            Some("have the backend listen, and use mode='client'")
        )
    );
    let reconnects = refused(&of("client", "<reconnect enabled='yes' timeout='10'/>", ""));
    assert!(reconnects.problem.to_string().contains("QEMU would connect again, on no record"));
    for wrong in ["<model type='e1000'/>", "<filterref filter='no-mac-spoofing'/>", "<driver name='vhost'/>"]
    {
        assert!(matches!(*refused(&of("client", "", wrong)).problem, XmlProblem::Nic(_)), "{wrong}");
    }
    refused("<interface type='vhostuser'/>");
    refused("<interface type='vhostuser'><source type='tcp' path='/run/x' mode='client'/></interface>");
    let domain = format!(
        "<domain><devices>{}{}</devices></domain>",
        of("server", "", ""),
        of("client", "", "<mac address='52:54:00:00:00:01'/>")
    );
    let domain = parse_domain(&domain, "web1.xml", &Networks::default()).unwrap();
    assert_eq!((domain.interfaces.len(), domain.left_out), (1, vec!["vhostuser".to_owned()]));
}

#[test]
fn what_a_running_guests_xml_says_of_a_network_is_taken() {
    let of = |source: &str| format!("<interface type='network'><source {source}/></interface>");
    let port = "portid='e7a1cf20-4c4f-4a1b-8a41-31d9b9ac8b07'";
    assert_eq!(canonical(&of(&format!("network='default' {port} bridge='virbr0'"))), "bridge=virbr0");
    assert_eq!(canonical(&of(&format!("network='lan' {port} dev='eth0' mode='bridge'"))), "macvtap=eth0");
    assert!(matches!(*refused(&of("network='default'")).problem, XmlProblem::UnknownNetwork(_)));
    let mixed = "<interface type='bridge'><source network='default' bridge='br0'/></interface>";
    assert!(matches!(*refused(mixed).problem, XmlProblem::Attribute { .. }));
}

#[test]
fn a_networks_definition_names_its_bridge_or_device() {
    let mut networks = Networks::default();
    for (name, inner) in [
        ("default", "<forward mode='nat'/><bridge name='virbr0'/>"),
        ("lan", "<forward mode='vepa' dev='eth0'/>"),
        ("cards", "<forward mode='hostdev' managed='yes'/>"),
    ] {
        networks.add(&format!("<network><name>{name}</name>{inner}</network>"), "n.xml").unwrap();
    }
    let of = |source: &str| {
        let text =
            format!("<interface type='network'>\n<source {source}/><model type='virtio'/></interface>");
        parse(&text, "nic.xml", &networks)
    };
    assert_eq!(of("network='default'").unwrap().nic.to_string(), "bridge=virbr0");
    assert_eq!(of("network='lan'").unwrap().nic.to_string(), "macvtap=eth0,mode=vepa");
    // What the guest has now counts.
    assert_eq!(of("network='default' bridge='virbr9'").unwrap().nic.to_string(), "bridge=virbr9");
    let refused = of("network='cards'").unwrap_err();
    assert_eq!((refused.line, refused.column), (2, 18));
    assert!(refused.to_string().contains("it has PCI devices"), "{refused}");
    let refused = of("network='default' portgroup='x'").unwrap_err();
    assert!(refused.to_string().contains("Network 'default' has no port group 'x'"), "{refused}");
}

// Shows 6.7.
#[test]
fn a_networks_port_groups_are_its_interfaces() {
    let mut networks = Networks::default();
    let ovs = "<network><name>ovs</name><forward mode='bridge'/><bridge name='ovsbr0'/>\
               <virtualport type='openvswitch'><parameters profileid='all'/></virtualport>\
               <vlan><tag id='9'/></vlan><bandwidth><inbound average='100000'/></bandwidth>\
               <portgroup name='plain' default='yes'/>\
               <portgroup name='web'><virtualport><parameters profileid='web'/></virtualport>\
               <vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='47'/></vlan></portgroup></network>";
    let lan = "<network><name>lan</name><bridge name='br0'/><port isolated='yes'/>\
               <portgroup name='slow'><bandwidth><inbound average='10' burst='5'/><outbound average='20'/></bandwidth>\
               </portgroup></network>";
    for text in [ovs, lan] {
        networks.add(text, "n.xml").unwrap();
    }
    let of = |inner: &str| {
        let text = format!("<interface type='network'>{inner}<model type='virtio'/></interface>");
        parse(&text, "nic.xml", &networks).unwrap().nic.to_string()
    };
    for (inner, spec) in [
        ("<source network='ovs'/>", "bridge=ovsbr0,vlan=9,ovs=on,ovs-profile=all"),
        (
            "<source network='ovs' portgroup='web'/>",
            "bridge=ovsbr0,vlan=42,trunk=42+47,ovs=on,ovs-profile=web",
        ),
        // The interface's own come first.
        (
            "<source network='ovs' portgroup='web'/><vlan><tag id='7'/></vlan><virtualport><parameters \
             interfaceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/></virtualport>",
            "bridge=ovsbr0,vlan=7,ovs=09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f,ovs-profile=web",
        ),
        // A network's bandwidth is its bridge's.
        ("<source network='lan'/>", "bridge=br0,isolated=on"),
        ("<source network='lan' portgroup='slow'/>", "bridge=br0,isolated=on,inbound=10::5,outbound=20"),
        (
            "<source network='lan' portgroup='slow'/><port isolated='no'/><bandwidth><inbound average='1' peak='2'/>\
             </bandwidth>",
            "bridge=br0,inbound=1:2",
        ),
    ] {
        assert_eq!(of(inner), spec, "{inner}");
    }
}

// Shows 6.7.
#[test]
fn settings_of_the_hosts_side_have_their_keys() {
    let of = |kind: &str, inner: &str| canonical(&format!("<interface type='{kind}'>{inner}</interface>"));
    let bridge = |inner: &str| of("bridge", &format!("<source bridge='b'/>{inner}"));
    for (inner, spec) in [
        ("<link state='down'/>", "link=down"),
        ("<tune><sndbuf>1600</sndbuf></tune>", "sndbuf=1600"),
        ("<coalesce><rx><frames max='7'/></rx></coalesce>", "rx-frames=7"),
        ("<vlan trunk='yes'><tag id='42'/><tag id='7'/></vlan>", "trunk=7+42"),
        (
            "<vlan><tag id='42' nativeMode='tagged'/><tag id='7'/></vlan>",
            "vlan=42,trunk=7+42,vlan-mode=tagged",
        ),
        (
            "<bandwidth><inbound average='1000' peak='4000' burst='1024'/><outbound average='128' burst='32768'/></bandwidth>",
            "inbound=1000:4000:1024,outbound=128::32768",
        ),
        ("<virtualport type='openvswitch'/>", "ovs=on"),
    ] {
        assert_eq!(bridge(inner), format!("bridge=b,{spec}"));
    }
    assert_eq!(bridge("<coalesce><rx/></coalesce><tune/><bandwidth/>"), "bridge=b");
    let host = "<source><ip address='192.168.125.1' family='ipv4' prefix='24' peer='192.168.125.2'/>\
                <ip family='ipv6' address='2001:db8::1'/><route address='10.20.0.0' gateway='192.168.125.2'/>\
                <route family='ipv6' address='::' gateway='2001:db8::2' metric='5'/>\
                <route address='10.30.0.0' netmask='255.255.128.0'/></source>\
                <script path='/etc/up'/><downscript path='/etc/down'/>";
    assert_eq!(
        of("ethernet", host),
        "new-tap=on,host-ip=192.168.125.1@192.168.125.2/24+2001:db8::1/64,\
         host-route=10.20.0.0/8@192.168.125.2+::/0@2001:db8::2@5+10.30.0.0/17,script=/etc/up,downscript=/etc/down"
    );
    for (kind, inner, refusal) in [
        (
            "bridge",
            "<virtualport type='802.1Qbg'/>",
            "<virtualport type='802.1Qbg'> is not supported: the switch",
        ),
        ("bridge", "<virtualport type='midonet'/>", "MidoNet's own program"),
        ("bridge", "<virtualport/>", "<virtualport> is not supported: it has no type"),
        (
            "bridge",
            "<bandwidth><inbound floor='200'/></bandwidth>",
            "'floor' is not supported: it is a share",
        ),
        ("bridge", "<vlan trunk='no'><tag id='1'/><tag id='2'/></vlan>", "they are a trunk"),
        (
            "bridge",
            "<vlan trunk='yes'><tag id='1+2'/></vlan>",
            "id='1+2' is not supported: a number is needed",
        ),
        ("bridge", "<bandwidth><inbound average='1:2'/></bandwidth>", "a number is needed"),
        ("bridge", "<bandwidth><outbound peak='2'/></bandwidth>", "Attribute 'average' is missing"),
        ("bridge", "<script path='/x'/>", "Element <script> is not supported"),
        ("direct", "<script path='/x'/>", "Element <script> is not supported"),
        ("bridge", "<tune><sndbuf>-1</sndbuf></tune>", "'-1' can't be 'sndbuf'"),
        (
            "direct",
            "<coalesce><rx><frames max='7'/></rx></coalesce>",
            "'rx-frames' has no meaning with 'macvtap'",
        ),
    ] {
        let source = if kind == "bridge" { "<source bridge='b'/>" } else { "<source dev='eth0'/>" };
        let text = format!("<interface type='{kind}'>{source}{inner}</interface>");
        assert!(refused(&text).to_string().contains(refusal), "{}", refused(&text));
    }
    let foreign = "<interface type='ethernet'><source><ip address='2001:db8::1'/></source></interface>";
    assert!(refused(foreign).to_string().contains("an IPv4 address is needed"), "{}", refused(foreign));
    let trusts = "<interface type='bridge' trustGuestRxFilters='yes'><source bridge='b'/></interface>";
    assert_eq!(canonical(trusts), "bridge=b");
    let follows = "<interface type='direct' trustGuestRxFilters='yes'><source dev='b'/></interface>";
    assert!(refused(follows).to_string().contains("keeps the MAC"), "{}", refused(follows));
}

// Shows 6.8.
#[test]
fn a_place_on_the_root_bus_is_kept() {
    let read = |model: &str, address: &str| {
        let text = format!(
            "<interface type='bridge'><source bridge='b'/><model type='{model}'/><address {address}/></interface>"
        );
        parse(&text, "nic.xml", &Networks::default()).map(|read| (read.nic.to_string(), read.notes.len()))
    };
    let pci = |of: &str| format!("type='pci' domain='0x0000' {of}");
    for (address, spec, notes) in [
        (pci("bus='0x00' slot='0x07' function='0x0'"), "bridge=b,address=07", 0),
        (pci("bus='0' slot='31' function='2'"), "bridge=b,address=1f.2", 0),
        (pci("bus='0x01' slot='0x00' function='0x0'"), "bridge=b", 1),
        (pci("bus='0x00' slot='0x00'"), "bridge=b", 1),
        ("type='ccw' cssid='0xfe' ssid='0x0' devno='0x00a1'".to_owned(), "bridge=b,devno=fe.0.00a1", 0),
        ("type='ccw'".to_owned(), "bridge=b", 0),
        ("type='virtio-mmio'".to_owned(), "bridge=b,model=virtio-net-device", 0),
    ] {
        assert_eq!(read("virtio", &address).unwrap(), (spec.to_owned(), notes), "{address}");
    }
    assert!(
        read("virtio", &pci("bus='0' slot='0x20'")).unwrap_err().to_string().contains("can't be 'address'")
    );
    assert!(read("virtio", &pci("bus='0' slot='0xx'")).unwrap_err().to_string().contains("can't be read"));
    assert!(read("virtio", &pci("bus='0' slot='3' multifunction='on'")).is_err());
    assert_eq!(read("usb-net", &pci("bus='0' slot='3'")).unwrap().1, 1);
    for (model, address, refusal) in [
        ("virtio", "type='ccw' cssid='0xff' ssid='0' devno='1'", "can't be read"),
        ("virtio", "type='ccw' cssid='0xfe' ssid='4' devno='1'", "can't be read"),
        ("virtio", "type='ccw' cssid='0xfe' ssid='0' devno='0x10000'", "can't be 'devno'"),
        ("virtio", "type='ccw' devno='1'", "'cssid' is missing"),
        ("virtio", "type='ccw' cssid='0xfe' ssid='0' devno='1' bus='0'", "'bus' is not supported"),
        ("virtio", "type='virtio-mmio' slot='1'", "'slot' is not supported"),
        ("e1000", "type='virtio-mmio'", "the model is not virtio"),
        ("e1000", "type='ccw' cssid='0xfe' ssid='0' devno='1'", "has no 'devno'"),
    ] {
        let error = read(model, address).unwrap_err().to_string();
        assert!(error.contains(refusal), "{address}: {error}");
    }
}

// Shows 6.8.
#[test]
fn a_domains_machine_says_the_default_model() {
    for (os, spec) in [
        ("<os><type arch='x86_64' machine='q35'>hvm</type></os>", "bridge=b,model=rtl8139"),
        ("<os><type arch='s390x'>hvm</type></os>", "bridge=b"),
        ("<os><type arch='aarch64' machine='virt'>hvm</type></os>", "bridge=b"),
        ("<os><type arch='ppc64'>hvm</type></os>", "bridge=b,model=rtl8139"),
        ("<os><type arch='riscv64' machine='virt-9.0'>hvm</type></os>", "bridge=b"),
        ("<os><type arch='riscv64' machine='sifive_u'>hvm</type></os>", "bridge=b,model=rtl8139"),
    ] {
        let text = format!(
            "<domain>{os}<devices><interface type='bridge'><source bridge='b'/></interface></devices></domain>"
        );
        let read = parse_domain(&text, "domain.xml", &Networks::default()).unwrap();
        assert_eq!(read.interfaces[0].nic.to_string(), spec, "{os}");
    }
    // On the board, where nothing can be plugged.
    let text = "<domain><os><type arch='armv7l' machine='vexpress-a15'>hvm</type></os><devices>\
                <interface type='bridge'><source bridge='b'/></interface></devices></domain>";
    let error = parse_domain(text, "domain.xml", &Networks::default()).unwrap_err().to_string();
    assert!(error.contains("the NIC of this machine's board can't be plugged"), "{error}");
}

#[test]
fn a_domains_interfaces_are_taken_and_the_others_named() {
    let text = "<domain type='kvm'><name>web1</name><devices><disk type='file'/>\
                <interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>\
                <interface type='user'/><interface type='hostdev'><source/></interface>\
                <interface type='direct'><source dev='eth0'/><model type='e1000'/></interface></devices></domain>";
    let read = parse_domain(text, "web1.xml", &Networks::default()).unwrap();
    let specs: Vec<String> = read.interfaces.iter().map(|read| read.nic.to_string()).collect();
    assert_eq!(specs, ["bridge=br0", "macvtap=eth0,mode=vepa,model=e1000"]);
    assert_eq!(read.left_out, ["user", "hostdev"]);
    let foreign = "<domain xmlns:q='urn:x'><devices><q:interface type='bridge'><source bridge='b'/></q:interface>\
                   </devices></domain>";
    assert!(parse_domain(foreign, "web1.xml", &Networks::default()).unwrap().interfaces.is_empty());
    let bad = text.replace("dev='eth0'", "dev=''");
    let error = parse_domain(&bad, "web1.xml", &Networks::default()).unwrap_err();
    assert!(error.to_string().contains("'dev' is empty"), "{error}");
    assert!(parse_domain(LIVE, "web1.xml", &Networks::default()).is_err());
}

#[test]
fn defaults_that_are_written_out_are_taken() {
    let text = "<interface type='direct'><mac address='52:54:00:00:00:01' type='static'/><source dev='eth0'/>\
                <target dev='macvtap0' managed='yes'/><model type='ViRtIo'/><link state='up'/><script path=''/>\
                <alias name='hostdev-like'/><rom enabled='yes'/></interface>";
    assert_eq!(canonical(text), "macvtap=eth0,mode=vepa,mac=52:54:00:00:00:01");
    let bridge =
        "<interface type='bridge'><source bridge='b'/><vlan trunk='no'><tag id='7'/></vlan></interface>";
    assert_eq!(canonical(bridge), "bridge=b,vlan=7");
    for (given, refusal) in [
        ("<link state='dow'/>", "'dow' can't be 'state': up or down is needed"),
        ("<vlan trunk='maybe'><tag id='7'/></vlan>", "'maybe' can't be 'trunk': yes or no is needed"),
    ] {
        let text = format!("<interface type='bridge'><source bridge='b'/>{given}</interface>");
        assert!(refused(&text).to_string().contains(refusal), "{}", refused(&text));
    }
}

#[test]
fn properties_of_the_device_have_their_keys() {
    let text = "<interface type='bridge'><source bridge='b'/><model type='virtio'/>\
                <driver name='vhost' txmode='iothread' ioeventfd='on' event_idx='off' queues='2' rx_queue_size='512' \
                tx_queue_size='1024' iommu='on' ats='on' packed='on' page_per_vq='off' rss='on' rss_hash_report='off'>\
                <host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off' mrg_rxbuf='off'/>\
                <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/></driver>\
                <boot order='2'/><acpi index='7'/><rom bar='off' file='/srv/x.rom'/></interface>";
    assert_eq!(
        canonical(text),
        "bridge=b,queues=2,vhost=on,boot=2,acpi-index=7,rom=/srv/x.rom,rom-bar=off,rx-queue-size=512,\
         tx-queue-size=1024,tx-mode=bh,ioeventfd=on,event-idx=off,iommu=on,ats=on,packed=on,page-per-vq=off,rss=on,\
         hash=off,csum=off,gso=off,host-tso4=off,host-tso6=off,host-ecn=off,host-ufo=off,mrg-rxbuf=off,\
         guest-csum=off,guest-tso4=off,guest-tso6=off,guest-ecn=off,guest-ufo=off"
    );
    let none = "<interface type='bridge'><source bridge='b'/><rom enabled='no'/></interface>";
    assert_eq!(canonical(none), "bridge=b,rom=off");
    for (model, inner) in
        [("virtio", "<rom enabled='no' file='/x'/>"), ("e1000", "<teaming type='persistent'/>")]
    {
        let text = format!(
            "<interface type='bridge'><source bridge='b'/><model type='{model}'/>{inner}</interface>"
        );
        refused(&text);
    }
    // libvirt reads a driver's attributes for virtio alone.
    let e1000 = "<interface type='bridge'><source bridge='b'/><model type='E1000'/>\
                 <driver name='vhost' queues='4' packed='on'/><boot order='1'/></interface>";
    assert_eq!(canonical(e1000), "bridge=b,model=e1000,boot=1");
}

#[test]
fn what_is_not_as_libvirt_has_it_is_noted() {
    let read = |inner: &str| {
        let text = format!("<interface type='bridge'><source bridge='b'/>{inner}</interface>");
        parse(&text, "nic.xml", &Networks::default()).unwrap()
    };
    let address = "<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>";
    let notes = read(&format!("<model type='virtio'/>{address}")).notes;
    assert!(notes.len() == 1 && notes[0].contains("<address>"), "{notes:?}");
    let bare = read("");
    assert!(bare.notes.len() == 1 && bare.notes[0].contains("<model>"), "{:?}", bare.notes);
    let default = if cfg!(target_arch = "x86_64") { "bridge=b,model=rtl8139" } else { "bridge=b" };
    assert_eq!(bare.nic.to_string(), default);
}

#[test]
fn ethernet_is_a_tap_that_is_there_or_a_new_one() {
    for (target, canonical_form) in [
        ("<target dev='tap0'/>", "tap=tap0"),
        ("<target dev='tap0' managed='no'/>", "tap=tap0"),
        ("<target dev='tap0' managed='yes'/>", "tap=tap0"),
        ("<source/><target dev='vnet7' managed='no'/>", "tap=vnet7"),
    ] {
        assert_eq!(canonical(&format!("<interface type='ethernet'>{target}</interface>")), canonical_form);
    }
    // Without a name of the user's it is a new one.
    for target in ["", "<target/>", "<target dev='vnet7'/>", "<target dev='vnet7' managed='yes'/>"] {
        assert_eq!(canonical(&format!("<interface type='ethernet'>{target}</interface>")), "new-tap=on");
    }
    assert!(matches!(
        *refused("<interface type='ethernet'><target managed='no'/></interface>").problem,
        XmlProblem::NoAttribute { .. }
    ));
}

#[test]
fn direct_is_a_macvtap_and_libvirts_default_is_vepa() {
    for (source, form) in [
        ("dev='eth0'", "macvtap=eth0,mode=vepa"),
        ("dev='eth0' mode='vepa'", "macvtap=eth0,mode=vepa"),
        ("dev='eth0' mode='bridge'", "macvtap=eth0"),
        ("dev='eth0' mode='private'", "macvtap=eth0,mode=private"),
        ("mode='passthrough' dev='eth0'", "macvtap=eth0,mode=passthru"),
    ] {
        assert_eq!(
            canonical(&format!(
                "<interface type='direct'><source {source}/><target dev='macvtap0'/></interface>"
            )),
            form
        );
    }
}

#[test]
fn a_name_that_libvirt_made_is_ignored_and_that_of_a_user_is_kept() {
    for (name, suffix) in
        [("vnet0", ""), ("vnetwork", ""), ("macvtap1", ""), ("macvlan1", ""), ("net0", ",ifname=net0")]
    {
        let text =
            format!("<interface type='bridge'><source bridge='br0'/><target dev='{name}'/></interface>");
        assert_eq!(canonical(&text), format!("bridge=br0{suffix}"));
    }
}

#[test]
fn text_comments_and_instructions_say_nothing() {
    let text = "\u{feff}<?xml version='1.0'?><!-- a --><interface type='bridge'>x<!-- b --><?c d?><source bridge='b'>y\
                </source><![CDATA[z]]></interface><!-- e -->";
    assert_eq!(canonical(text), "bridge=b");
}

#[test]
fn the_driver_says_whether_vhost_carries_the_queues() {
    for (driver, suffix) in [
        ("name='vhost'", ",vhost=on"),
        ("name='qemu'", ",vhost=off"),
        ("queues='2'", ",queues=2"),
        ("name='qemu' queues='2'", ",queues=2,vhost=off"),
    ] {
        let text = format!("<interface type='bridge'><source bridge='b'/><driver {driver}/></interface>");
        assert_eq!(canonical(&text), format!("bridge=b{suffix}"));
    }
}

#[test]
fn line_and_column_are_counted_in_characters() {
    let error = refused(
        "<!-- äöü\r\n名 --> <interface type='bridge'>\n  <source bridge='b'/><toon bar='on'/></interface>",
    );
    assert_eq!((error.line, error.column), (3, 23));
    assert!(error.to_string().starts_with("nic.xml:3:23: Element <toon> is not supported"), "{error}");
    let error = refused("<interface type='bridge'>\n <é></è></interface>");
    assert_eq!((error.line, error.column), (2, 5));
}

#[test]
fn the_limits_hold() {
    let padded = |length: usize| format!("{LIVE}<!--{}-->", " ".repeat(length - LIVE.len() - 7));
    assert!(parse(&padded(XML_LIMIT), "nic.xml", &Networks::default()).is_ok());
    assert!(matches!(*refused(&padded(XML_LIMIT + 1)).problem, XmlProblem::TooLong { .. }));
    let deep = format!("{}{}", "<a>".repeat(70_000), "</a>".repeat(70_000));
    assert!(matches!(*refused(&deep).problem, XmlProblem::Malformed(roxmltree::Error::NodesLimitReached)));
    let bomb = "<!DOCTYPE a [<!ENTITY a 'aaaa'>]><interface type='bridge'/>";
    assert!(matches!(*refused(bomb).problem, XmlProblem::Malformed(roxmltree::Error::DtdDetected)));
}

#[test]
fn what_is_wrong_with_the_xml_itself_is_the_errors_source() {
    let error = refused("<interface>");
    assert_eq!(error.to_string(), "nic.xml:1:1: The file is not well-formed XML");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_control_character_by_reference_is_refused() {
    let error = refused("<interface type='bridge'><source bridge='b&#10;r'/></interface>");
    assert_eq!(error.to_string(), "nic.xml:1:42: Control characters are not allowed here");
}

// Shows 6.2.
#[test]
fn errors_as_people_see_them() {
    let bridge =
        |inner: &str| format!("<interface type='bridge'>\n  <source bridge='br0'/>\n{inner}\n</interface>\n");
    let texts = [
        "not xml".to_owned(),
        "<interface type='bridge'>\n  <source bridge='br0'>\n</interface>\n".to_owned(),
        "<domain type='kvm'>\n  <name>web1</name>\n</domain>\n".to_owned(),
        "<interface xmlns='urn:x' type='bridge'/>".to_owned(),
        "<interface/>".to_owned(),
        "<interface type='network'>\n  <source network='default'/>\n</interface>\n".to_owned(),
        "<interface type='hostdev'/>".to_owned(),
        "<interface type='bridge'/>".to_owned(),
        "<interface type='ethernet'>\n  <script path='qemu-ifup'/>\n</interface>\n".to_owned(),
        "<interface type='direct'>\n  <source dev='eth0'/>\n  <script path='/etc/qemu-ifup'/>\n</interface>\n"
            .to_owned(),
        "<interface type='ethernet'>\n  <target managed='no'/>\n</interface>\n".to_owned(),
        "<interface type='direct'>\n  <source dev='eth0' mode='passthru'/>\n</interface>\n".to_owned(),
        "<interface type='direct' trustGuestRxFilters='yes'>\n  <source dev='eth0'/>\n</interface>\n"
            .to_owned(),
        "<interface type='direct'>\n  <source dev='eth0'/>\n  <vlan><tag id='2'/></vlan>\n</interface>\n"
            .to_owned(),
        bridge("  <virtualport type='802.1Qbg'/>"),
        bridge("  <virtualport type='openvswitch'/>\n  <filterref filter='no-mac-spoofing'/>"),
        bridge("  <bandwidth>\n    <inbound average='1000' floor='20'/>\n  </bandwidth>"),
        bridge("  <modell type='virtio'/>"),
        bridge("  <driver name='vhost' queues='4' rx_queue_sizes='1024'/>"),
        bridge("  <model type='virtio'/>\n  <driver rx_queue_size='1000'/>"),
        bridge("  <model type='virtio'/>\n  <driver name='vhots'/>"),
        bridge("  <model type='netfront'/>"),
        bridge("  <mac address='52:54:00:12:34'/>"),
        bridge("  <mac address=''/>"),
        bridge(
            "  <mac address='52:54:00:00:00:01'/>\n  <mtu size='9000'/>\n  <mac address='52:54:00:00:00:02'/>",
        ),
        bridge("  <target managed='no' dev='t0'/>"),
        bridge("  <filterref filter='clean-traffic'/>"),
        bridge(
            "  <filterref filter='clean-traffic'>\n    <parameter name='IP' value='192.0.2'/>\n  </filterref>",
        ),
        bridge(
            "  <filterref filter='clean-traffic'>\n    <parameter name='CTRL_IP_LEARNING' value='arp'/>\n  </filterref>",
        ),
        bridge("  <vlan trunk='yes'>\n    <tag id='4095'/>\n  </vlan>"),
        bridge("  <vlan trunk='no'>\n    <tag id='2'/>\n    <tag id='3'/>\n  </vlan>"),
        bridge("  <link state='dwon'/>"),
        bridge("  <mtu size='10'/>"),
        bridge("  <q:mtu xmlns:q='urn:x' size='1500'/>"),
    ];
    let pictures: Vec<String> = texts.iter().map(|text| refused(text).render(false)).collect();
    insta::assert_snapshot!(pictures.join("\n\n"));
}

/// A piece of a document that is often in its right place.
fn piece() -> impl Strategy<Value = String> {
    let pieces: Vec<String> = FULL.split_inclusive('>').map(str::to_owned).collect();
    prop_oneof![8 => prop::sample::select(pieces), 1 => "\\PC{0,4}", 1 => "[<>&'\"/= a-z]{0,6}"]
}

proptest! {
    #[test]
    fn no_text_brings_the_reader_or_its_errors_down(
        text in prop_oneof![".*".boxed(), prop::collection::vec(piece(), 0..24).prop_map(|all| all.concat()).boxed()],
    ) {
        if let Err(error) = parse(&text, "nic.xml", &Networks::default()) {
            prop_assert!(error.render(false).contains(&format!("nic.xml:{}:{}", error.line, error.column)), "{}", error);
            prop_assert!(!error.render(true).is_empty());
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn a_byte_out_of_place_brings_nothing_down(at in 0..FULL.len(), byte in "\\PC") {
        let mut text = FULL.to_owned();
        text.replace_range(at..=at, &byte);
        match parse(&text, "nic.xml", &Networks::default()) {
            Ok(read) => prop_assert_eq!(read.nic.to_string().parse(), Ok(read.nic)),
            Err(error) => prop_assert!(!error.render(false).is_empty()),
        }
    }
}
