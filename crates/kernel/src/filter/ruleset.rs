//! The rules in the format of `libnftables-json(5)`.
//!
//! `nft` lists rules in a form of its own: it merges and names fields, drops what others imply and
//! names numbers. [`rule`] writes each rule in the form in which it is listed, and [`plain`] takes
//! the names of numbers back, which differ between versions.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use taptrail_record::MacAddr;

use super::rules::{Base, Field, Match, Ports, Rule, Value, Verdict};
use super::{Attachment, FilterError, FilterHook, InterfaceFilter};

const TABLE: &str = "taptrail_if";
const FAMILY: &str = "netdev";
/// The widest match that `nft` merges adjacent raw fields into, in bits.
const MAX_MERGED_BITS: u16 = 128;

pub(super) fn table_name(ifindex: u32) -> String {
    format!("{TABLE}{ifindex}")
}

/// Refuses names that `nft` takes for patterns, or can't quote.
pub(super) fn check(filter: &InterfaceFilter) -> Result<(), FilterError> {
    let ifname = filter.ifname.as_str();
    if ifname.contains(['*', '"', '\\']) {
        return Err(FilterError::Name { ifname: ifname.to_owned() });
    }
    Ok(())
}

/// One transaction that makes the table; refused if it is there.
pub(super) fn creation(filter: &InterfaceFilter) -> Vec<u8> {
    let mut commands = vec![json!({"create": table(filter.ifindex)})];
    commands.extend(add(filter));
    transaction(commands)
}

/// One transaction that makes the table in place of the one that is there.
pub(super) fn replacement(filter: &InterfaceFilter) -> Vec<u8> {
    let mut commands = removal_commands(filter.ifindex);
    commands.extend(add(filter));
    transaction(commands)
}

fn add(filter: &InterfaceFilter) -> impl Iterator<Item = Json> {
    wanted(filter).into_iter().map(|object| json!({"add": object}))
}

/// One transaction that removes the filter, be it there or not.
pub(super) fn removal(ifindex: u32) -> Vec<u8> {
    transaction(removal_commands(ifindex))
}

fn removal_commands(ifindex: u32) -> Vec<Json> {
    // "add" before "delete", for it may have gone by now, and then can't be deleted.
    vec![json!({"add": table(ifindex)}), json!({"delete": table(ifindex)})]
}

fn transaction(commands: Vec<Json>) -> Vec<u8> {
    json!({"nftables": commands}).to_string().into_bytes()
}

fn table(ifindex: u32) -> Json {
    json!({"table": {"family": FAMILY, "name": table_name(ifindex)}})
}

/// The whole table, in the order in which `nft` lists it: the chains, then the rules of each.
fn wanted(filter: &InterfaceFilter) -> Vec<Json> {
    let table_name = table_name(filter.ifindex);
    let rules = &filter.rules;
    let (out, to) = match filter.attachment {
        Attachment::Tap => ("ingress", "egress"),
        Attachment::Macvtap => ("egress", "ingress"),
    };
    let directions = [(out, &rules.from_guest), (to, &rules.to_guest)];
    let mut chains = vec![table(filter.ifindex)];
    let mut listed = Vec::new();
    for (hook, chain) in
        directions.into_iter().flat_map(|(hook, chains)| chains.iter().map(move |c| (hook, c)))
    {
        let mut object = json!({"family": FAMILY, "table": table_name, "name": chain.name});
        if let (Some(priority), Json::Object(object)) = (chain.entry, &mut object) {
            object.insert("type".into(), "filter".into());
            object.insert("hook".into(), hook.into());
            object.insert("prio".into(), priority.into());
            object.insert("dev".into(), filter.ifname.as_str().into());
            object.insert("policy".into(), "accept".into());
        }
        chains.push(json!({"chain": object}));
        for of_chain in &chain.rules {
            let expr = rule(of_chain);
            listed.push(json!({"rule": {
                "family": FAMILY, "table": table_name, "chain": chain.name, "expr": expr,
            }}));
        }
    }
    chains.extend(listed);
    chains
}

/// A rule as `nft` lists it: named fields by their place, and adjacent raw fields as one.
fn rule(rule: &Rule) -> Vec<Json> {
    let mut matches = rule.matches.clone();
    matches.sort_by_key(|of| of.field);
    let mut merged: Vec<Match> = Vec::new();
    for next in matches {
        if let Some(last) = merged.last_mut()
            && let Some(both) = merge(last, &next)
        {
            *last = both;
        } else {
            merged.push(next);
        }
    }
    let mut expr: Vec<Json> = merged.iter().map(statement).collect();
    expr.push(match &rule.verdict {
        Verdict::Accept => json!({"accept": null}),
        Verdict::Drop => json!({"drop": null}),
        Verdict::Return => json!({"return": null}),
        Verdict::Jump(chain) => json!({"jump": {"target": chain}}),
    });
    expr
}

/// Two raw fields as one, where `nft` lists them so.
fn merge(first: &Match, second: &Match) -> Option<Match> {
    let (Field::Raw { base, offset, bits }, Field::Raw { base: other, offset: next, bits: more }) =
        (first.field, second.field)
    else {
        return None;
    };
    let sum = bits.checked_add(more).filter(|sum| *sum <= MAX_MERGED_BITS)?;
    if base != other || offset.checked_add(bits)? != next || first.negated || second.negated {
        return None;
    }
    let number = first.value.number()? << more | second.value.number()?;
    Some(Match::is(Field::Raw { base, offset, bits: sum }, Value::Number(number)))
}

fn statement(of: &Match) -> Json {
    let field = field(of.field);
    let is_raw = matches!(of.field, Field::Raw { .. });
    // nft knows no kinds of raw fields.
    let mac = |mac: MacAddr| match Value::Mac(mac).number() {
        Some(number) if is_raw => number_json(number),
        _ => mac.to_string().into(),
    };
    let masked = |mask: Json| json!({"&": [field, mask]});
    let (left, right) = match of.value {
        Value::Number(number) => (field, number_json(number)),
        Value::Numbers(from, to) => (field, json!({"range": [from, to]})),
        Value::MaskedNumber { mask, number } => (masked(mask.into()), number.into()),
        Value::Mac(value) => (field, mac(value)),
        Value::MaskedMac { mask, mac: value } => (masked(mac(mask)), mac(value)),
        Value::Address(_) if is_raw => (field, number_json(of.value.number().unwrap_or_default())),
        Value::Address(address) => (field, address.to_string().into()),
        Value::Network(address, length) => {
            (field, json!({"prefix": {"addr": address.to_string(), "len": length}}))
        }
        Value::MaskedAddress { mask, address } => {
            (masked(mask.to_string().into()), address.to_string().into())
        }
        Value::Addresses(from, to) => (field, json!({"range": [from.to_string(), to.to_string()]})),
    };
    json!({"match": {"op": if of.negated { "!=" } else { "==" }, "left": left, "right": right}})
}

/// A number, in hexadecimal where it is too large for `nft`'s JSON.
fn number_json(number: u128) -> Json {
    match i64::try_from(number) {
        Ok(number) => number.into(),
        Err(_) => format!("{number:#x}").into(),
    }
}

fn field(field: Field) -> Json {
    let payload = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
    let meta = |key: &str| json!({"meta": {"key": key}});
    match field {
        Field::Protocol => meta("protocol"),
        Field::EtherDestination => payload("ether", "daddr"),
        Field::EtherSource => payload("ether", "saddr"),
        Field::EtherType => payload("ether", "type"),
        Field::ArpHardware => payload("arp", "htype"),
        Field::ArpProtocol => payload("arp", "ptype"),
        Field::ArpOperation => payload("arp", "operation"),
        Field::ArpSourceMac => payload("arp", "saddr ether"),
        Field::ArpSourceIp => payload("arp", "saddr ip"),
        Field::ArpTargetMac => payload("arp", "daddr ether"),
        Field::ArpTargetIp => payload("arp", "daddr ip"),
        Field::IpDscp => payload("ip", "dscp"),
        Field::IpProtocol => payload("ip", "protocol"),
        Field::IpSource => payload("ip", "saddr"),
        Field::IpDestination => payload("ip", "daddr"),
        Field::Ip6Length => payload("ip6", "length"),
        Field::Ip6Source => payload("ip6", "saddr"),
        Field::Ip6Destination => payload("ip6", "daddr"),
        Field::L4Protocol => meta("l4proto"),
        Field::SourcePort(ports) => payload(with_ports(ports), "sport"),
        Field::DestinationPort(ports) => payload(with_ports(ports), "dport"),
        Field::IcmpType => payload("icmp", "type"),
        Field::IcmpCode => payload("icmp", "code"),
        Field::Icmpv6Type => payload("icmpv6", "type"),
        Field::Icmpv6Code => payload("icmpv6", "code"),
        Field::Raw { base, offset, bits } => {
            let base = match base {
                Base::Ethernet => "ll",
                Base::Network => "nh",
                Base::Transport => "th",
            };
            json!({"payload": {"base": base, "offset": offset, "len": bits}})
        }
    }
}

fn with_ports(ports: Ports) -> &'static str {
    match ports {
        Ports::Tcp => "tcp",
        Ports::Udp => "udp",
        Ports::UdpLite => "udplite",
        Ports::Sctp => "sctp",
    }
}

/// Compares a listing of the table with the requested filter.
pub(super) fn compare(filter: &InterfaceFilter, listing: &[u8]) -> Result<(), FilterError> {
    let table = table_name(filter.ifindex);
    let read = |source| FilterError::Read { table: table.clone(), source };
    let mut listing: Json = serde_json::from_slice(listing).map_err(read)?;
    let found = match listing.get_mut("nftables").map(Json::take) {
        Some(Json::Array(objects)) => objects,
        _ => Vec::new(),
    };
    let mut found = found.into_iter().filter(|object| object.get("metainfo").is_none());
    let refuse = |what| Err(FilterError::Differs { table: table.clone(), what });
    for wanted in wanted(filter) {
        let Some(object) = found.next() else { return refuse(format!("{wanted} is missing")) };
        let (found, wanted) = (plain(object, &wanted), plain(wanted.clone(), &wanted));
        if found != wanted {
            return refuse(format!("{found} stands for {wanted}"));
        }
    }
    match found.next() {
        None => Ok(()),
        Some(_) => refuse("there is more than the filter".to_owned()),
    }
}

/// Compares the kernel's hooks of the table with the requested ones: the JSON of `nft` lacks flags
/// and, before 1.0.8, interfaces.
pub(super) fn check_hook(filter: &InterfaceFilter, hook: Option<&FilterHook>) -> Result<(), FilterError> {
    let refuse = |what| Err(FilterError::Differs { table: table_name(filter.ifindex), what });
    let chains = filter.rules.from_guest.iter().chain(&filter.rules.to_guest);
    let entries = chains.filter(|chain| chain.entry.is_some()).count();
    match hook {
        None if entries == 0 => Ok(()),
        None => refuse("there is none".to_owned()),
        Some(hook) if hook.has_flags => {
            refuse("it or its chain has flags: it may be dormant, or offloaded".to_owned())
        }
        Some(hook)
            if hook.devices.len() != entries
                || hook.devices.iter().any(|name| name != filter.ifname.as_str()) =>
        {
            let names: BTreeSet<&str> = hook.devices.iter().map(String::as_str).collect();
            let found = match names.into_iter().collect::<Vec<_>>().join("', '") {
                none if none.is_empty() => "to nothing".to_owned(),
                names => format!("to '{names}'"),
            };
            let of = if entries == 1 { "its chain is" } else { "each of its chains is" };
            refuse(format!("{of} not hooked to '{}' alone, but {found}", filter.ifname))
        }
        Some(_) => Ok(()),
    }
}

/// The interface whose filter a table of this name is.
pub(super) fn interface_of_table(name: &str) -> Option<u32> {
    name.strip_prefix(TABLE)?.parse().ok()
}

/// Removes handles, which the kernel assigns, and makes numbers of names.
fn plain(mut object: Json, wanted: &Json) -> Json {
    let Some(object_kind) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else {
        return object;
    };
    let (kind, body) = object_kind;
    let Some(body) = body.as_object_mut() else { return object };
    body.remove("handle");
    match kind.as_str() {
        // nft before 1.0.8 leaves the device out of its JSON; `check_hook` compares it.
        "chain" if !body.contains_key("dev") => {
            if let Some(device) = wanted["chain"].get("dev") {
                body.insert("dev".into(), device.clone());
            }
        }
        "rule" => {
            for statement in body.get_mut("expr").and_then(Json::as_array_mut).into_iter().flatten() {
                let Some(of) = statement.get_mut("match") else { continue };
                let names = names(&of["left"]);
                of["right"] = numeric(of["right"].take(), names);
            }
        }
        _ => {}
    }
    object
}

/// A value with numbers in one form.
fn numeric(value: Json, names: &[(&str, u32)]) -> Json {
    match value {
        Json::String(text) => {
            let named = names.iter().find(|(name, _)| *name == text).map(|(_, number)| u128::from(*number));
            let hexadecimal =
                text.strip_prefix("0x").and_then(|digits| u128::from_str_radix(digits, 16).ok());
            match named.or(hexadecimal) {
                Some(number) => number.to_string().into(),
                None => text.into(),
            }
        }
        Json::Number(number) => number.to_string().into(),
        Json::Array(values) => values.into_iter().map(|value| numeric(value, names)).collect(),
        Json::Object(fields) => fields.into_iter().map(|(key, value)| (key, numeric(value, names))).collect(),
        other => other,
    }
}

/// The names that `nft` gives to numbers of a field.
fn names(left: &Json) -> &'static [(&'static str, u32)] {
    let left = left.get("&").and_then(|operands| operands.get(0)).unwrap_or(left);
    if left["meta"]["key"] == "protocol" {
        return &ETHERTYPES;
    }
    let payload = &left["payload"];
    match (payload["protocol"].as_str().unwrap_or_default(), payload["field"].as_str().unwrap_or_default()) {
        ("ether", "type") | ("arp", "ptype") => &ETHERTYPES,
        ("arp", "operation") => &ARP_OPERATIONS,
        ("icmp", "type") => &ICMP_TYPES,
        ("icmp", "code") => &ICMP_CODES,
        ("icmpv6", "type") => &ICMPV6_TYPES,
        ("icmpv6", "code") => &ICMPV6_CODES,
        ("ip", "dscp") => &DSCP,
        _ => &[],
    }
}

// The tables of nftables (src/proto.c, src/payload.c), by the RFCs of the protocols.
const ETHERTYPES: [(&str, u32); 6] = [
    ("ip", 0x0800),
    ("arp", 0x0806),
    ("ip6", 0x86DD),
    ("8021q", 0x8100),
    ("vlan", 0x8100),
    ("8021ad", 0x88A8),
];
const ARP_OPERATIONS: [(&str, u32); 7] = [
    ("request", 1),
    ("reply", 2),
    ("rrequest", 3),
    ("rreply", 4),
    ("inrequest", 8),
    ("inreply", 9),
    ("nak", 10),
];
const ICMP_TYPES: [(&str, u32); 15] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("info-request", 15),
    ("info-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
];
const ICMP_CODES: [(&str, u32); 7] = [
    ("net-unreachable", 0),
    ("host-unreachable", 1),
    ("prot-unreachable", 2),
    ("port-unreachable", 3),
    ("net-prohibited", 9),
    ("host-prohibited", 10),
    ("admin-prohibited", 13),
];
const ICMPV6_TYPES: [(&str, u32); 19] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("mld-listener-reduction", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("nd-redirect", 137),
    ("router-renumbering", 138),
    ("ind-neighbor-solicit", 141),
    ("ind-neighbor-advert", 142),
    ("mld2-listener-report", 143),
];
const ICMPV6_CODES: [(&str, u32); 6] = [
    ("no-route", 0),
    ("admin-prohibited", 1),
    ("addr-unreachable", 3),
    ("port-unreachable", 4),
    ("policy-fail", 5),
    ("reject-route", 6),
];
const DSCP: [(&str, u32); 24] = [
    ("cs0", 0),
    ("df", 0),
    ("be", 0),
    ("lephb", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];
