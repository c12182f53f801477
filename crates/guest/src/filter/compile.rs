//! Makes the kernel's rules of filters: references are followed, variables have their values, and
//! rules are sorted by priority into the chains of both directions.
//!
//! A frame takes the root chain, from the lowest priority to the highest: the root's own rules, and
//! the other chains, each where its priority stands. `return` leads back to the root chain; `accept`
//! and `drop` are final. What no rule decides on passes.
//!
//! A frame in a VLAN tag is of another protocol for libvirt. Here a rule that accepts a protocol's
//! frames takes untagged ones alone, too; but all others look into the tag, where the kernel has
//! removed it, so that a tag evades no check.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use taptrail_kernel::filter::{Base, Chain, Field, Match, Rule, Rules, Value, Verdict};
use taptrail_record::MacAddr;

use super::attribute::{Attribute, ICMPV6, Kind, Part, Protocol, Transport, VLAN_TAG, ports};
use super::definition::{
    Action, ChainName, Definition, Direction, FilterRule, Reference, Setting, State, Term,
};
use super::error::FilterProblem;
use super::store::Store;
use crate::spec::{closest, quoted};

/// How many rules an interface can have: each takes about 300 bytes of nft's output.
pub(crate) const MAX_RULES: usize = 1000;
/// How deep references can be nested.
const MAX_DEPTH: usize = 16;
/// How many filters an interface can have, those that are referred to included.
pub(crate) const MAX_FILTERS: usize = 256;
/// How many values one variable can have.
pub(crate) const MAX_VALUES: usize = 256;

/// The destination of BPDUs (IEEE 802.1D, table 7-10).
const BRIDGE_GROUP: MacAddr = MacAddr([0x01, 0x80, 0xC2, 0, 0, 0]);
const VLAN: u128 = 0x8100;
const SERVICE_VLAN: u128 = 0x88A8;

/// The values of variables, by name.
type Variables = BTreeMap<String, Vec<String>>;

/// Compiles the filters of an interface.
///
/// # Errors
/// A filter that is not there, a variable without a value, and what can't be used.
pub(crate) fn compile(references: &[Reference], store: &Store, mac: MacAddr) -> Result<Rules, FilterProblem> {
    let mut compiler = Compiler { store, stack: Vec::new(), seen: Vec::new(), found: Vec::new() };
    let own = BTreeMap::from([
        ("MAC".to_owned(), vec![mac.to_string()]),
        // RFC 4291, appendix A.
        ("IPV6_LINK_LOCAL".to_owned(), vec![link_local(mac).to_string()]),
    ]);
    for reference in references {
        compiler.follow(reference, &own)?;
    }
    let mut rules = Rules {
        from_guest: direction(&compiler.found, Direction::Out, "from-guest")?,
        to_guest: direction(&compiler.found, Direction::In, "to-guest")?,
    };
    if rules.from_guest.is_empty() {
        // A filter that only lets pass is hooked all the same: so its interface is known.
        rules.from_guest.push(Chain { name: "from-guest".to_owned(), entry: Some(0), rules: Vec::new() });
    }
    if rules.count() > MAX_RULES {
        return Err(FilterProblem::TooManyRules { count: rules.count(), limit: MAX_RULES });
    }
    Ok(rules)
}

fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xFE80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xFF), pair(0xFE, d), pair(e, f))
}

/// A filter with the values of its variables.
struct Instance<'s> {
    definition: &'s Definition,
    variables: Variables,
}

struct Compiler<'s> {
    store: &'s Store,
    /// The filters that lead to the one in hand.
    stack: Vec<String>,
    /// What was followed already, so that no filter is there twice.
    seen: Vec<(String, Variables)>,
    found: Vec<Instance<'s>>,
}

impl Compiler<'_> {
    fn follow(&mut self, reference: &Reference, around: &Variables) -> Result<(), FilterProblem> {
        let name = &reference.filter;
        let Some(definition) = self.store.find(name) else {
            return Err(FilterProblem::Unknown {
                name: quoted(name),
                by: self.stack.last().cloned(),
                meant: closest(name, self.store.names()).map(str::to_owned),
            });
        };
        let name = &definition.name;
        if self.stack.contains(name) || self.stack.len() >= MAX_DEPTH {
            return Err(FilterProblem::Loop { name: quoted(name) });
        }
        let mut variables = around.clone();
        let mut own: Variables = BTreeMap::new();
        for (name, value) in &reference.parameters {
            own.entry(name.clone()).or_default().push(value.clone());
        }
        variables.extend(own);
        let key = (name.clone(), variables.clone());
        if self.seen.contains(&key) {
            return Ok(());
        }
        self.seen.push(key);
        if self.seen.len() > MAX_FILTERS {
            return Err(FilterProblem::TooManyFilters { limit: MAX_FILTERS });
        }
        self.stack.push(name.clone());
        for reference in &definition.references {
            self.follow(reference, &variables)?;
        }
        self.stack.pop();
        self.found.push(Instance { definition, variables });
        Ok(())
    }
}

/// One chain of one direction in the making.
#[derive(Default)]
struct Draft {
    priority: i32,
    /// Rules with their priorities.
    rules: Vec<(i32, Rule)>,
}

impl Draft {
    fn sorted(mut self) -> Vec<Rule> {
        self.rules.sort_by_key(|(priority, _)| *priority);
        self.rules.into_iter().map(|(_, rule)| rule).collect()
    }
}

/// The chains of one direction.
fn direction(
    found: &[Instance<'_>],
    direction: Direction,
    prefix: &str,
) -> Result<Vec<Chain>, FilterProblem> {
    let mut root: Vec<(i32, Vec<Rule>)> = Vec::new();
    let mut drafts: BTreeMap<&str, (&ChainName, Draft)> = BTreeMap::new();
    let mut above: BTreeMap<bool, Draft> = BTreeMap::new();
    let mut count = 0;
    for Instance { definition, variables } in found {
        for (number, rule) in definition.rules.iter().enumerate() {
            let made = instances(rule, &definition.chain, variables, direction).map_err(|source| {
                let filter = definition.name.clone();
                match source {
                    FilterProblem::Variable { name, .. } => FilterProblem::Variable { filter, name },
                    source => FilterProblem::Rule { filter, number: number + 1, source: Box::new(source) },
                }
            })?;
            count += made.len();
            if count > MAX_RULES {
                return Err(FilterProblem::TooManyRules { count, limit: MAX_RULES });
            }
            let made = made.into_iter().map(|made| (rule.priority, made));
            if let Some(Protocol::Transport(transport)) = rule.protocol {
                above.entry(transport.v6).or_default().rules.extend(made);
            } else if definition.chain.protocol.is_none() {
                root.extend(made.map(|(priority, rule)| (priority, vec![rule])));
            } else {
                let (_, draft) = drafts
                    .entry(&definition.chain.name)
                    .or_insert_with(|| (&definition.chain, Draft::default()));
                draft.priority = definition.priority;
                draft.rules.extend(made);
            }
        }
    }

    let mut chains = Vec::new();
    // At one priority chains come before the root's own rules.
    let mut entry: Vec<((i32, bool), Vec<Rule>)> =
        root.into_iter().map(|(priority, rules)| ((priority, true), rules)).collect();
    for (_, (chain, draft)) in drafts.into_iter().filter(|(_, (_, draft))| !draft.rules.is_empty()) {
        let key = (draft.priority, false);
        let rules = draft.sorted();
        let name = format!("{prefix}-{}", chain.name);
        let matches = entrance(chain.protocol);
        // Without a way back they may as well stand in the root chain.
        if matches.is_empty() && rules.iter().all(|rule| rule.verdict != Verdict::Return) {
            entry.push((key, rules));
            continue;
        }
        entry.push((key, vec![Rule { matches, verdict: Verdict::Jump(name.clone()) }]));
        chains.push(Chain { name, entry: None, rules });
    }
    entry.sort_by_key(|(key, _)| *key);
    let rules: Vec<Rule> = entry.into_iter().flat_map(|(_, rules)| rules).collect();
    if !rules.is_empty() {
        chains.insert(0, Chain { name: prefix.to_owned(), entry: Some(0), rules });
    }

    let mut entry = Vec::new();
    for (v6, draft) in above.into_iter().filter(|(_, draft)| !draft.rules.is_empty()) {
        let name = format!("{prefix}-{}", if v6 { "above-ipv6" } else { "above-ipv4" });
        let protocol = if v6 { Protocol::Ipv6 } else { Protocol::Ip };
        entry.push(Rule { matches: entrance(Some(protocol)), verdict: Verdict::Jump(name.clone()) });
        chains.push(Chain { name, entry: None, rules: draft.sorted() });
    }
    if !entry.is_empty() {
        // Another entry chain: whatever the first one accepted.
        chains.push(Chain { name: format!("{prefix}-above-ip"), entry: Some(1), rules: entry });
    }
    Ok(chains)
}

/// What a frame must have to get into a chain of a protocol.
fn entrance(protocol: Option<Protocol>) -> Vec<Match> {
    match protocol {
        None | Some(Protocol::Mac) => Vec::new(),
        Some(Protocol::Stp) => vec![Match::is(Field::EtherDestination, Value::Mac(BRIDGE_GROUP))],
        Some(Protocol::Vlan) => vec![Match::is(Field::EtherType, Value::Number(VLAN))],
        Some(protocol) => {
            let number = protocol.ethertype().unwrap_or_default();
            vec![Match::is(Field::Protocol, Value::Number(number.into()))]
        }
    }
}

/// The rules that one rule of a filter is in this direction: one for each combination of values.
fn instances(
    rule: &FilterRule,
    chain: &ChainName,
    variables: &Variables,
    direction: Direction,
) -> Result<Vec<Rule>, FilterProblem> {
    let own = rule.direction == direction;
    let reversed = match rule.protocol {
        Some(Protocol::Transport(transport)) => {
            if !answers_too(rule, transport)? && !own && rule.direction != Direction::Both {
                return Ok(Vec::new());
            }
            // As the rule has it for what comes in, where it is for both.
            if rule.direction == Direction::Both { direction == Direction::Out } else { !own }
        }
        _ if own => false,
        _ if rule.direction == Direction::Both => direction == Direction::Out,
        _ => return Ok(Vec::new()),
    };
    let verdict = match rule.action {
        Action::Continue => return Ok(Vec::new()),
        Action::Accept => Verdict::Accept,
        Action::Drop => Verdict::Drop,
        Action::Return => Verdict::Return,
    };
    let mut made = Vec::new();
    for values in combinations(rule, variables)? {
        let matches = matches(rule, chain, &values, reversed, &verdict)?;
        made.push(Rule { matches, verdict: verdict.clone() });
        if made.len() > MAX_RULES {
            return Err(FilterProblem::TooManyRules { count: made.len(), limit: MAX_RULES });
        }
    }
    Ok(made)
}

/// Whether a rule on a protocol above IP is for the answers, too, with source and destination
/// exchanged.
///
/// # Errors
/// The rule needs to know which connection a packet belongs to.
fn answers_too(rule: &FilterRule, transport: Transport) -> Result<bool, FilterProblem> {
    let has_type = rule.settings.iter().any(|setting| setting.attribute.name == "type");
    match rule.state {
        State::OneWay => Ok(false),
        // A type of ICMP's is of one direction.
        _ if has_type && matches!(transport.number, Some(1 | ICMPV6)) => Ok(false),
        State::Ignored => Ok(true),
        State::Default if rule.direction == Direction::Both || rule.action != Action::Accept => Ok(true),
        State::Default => Err(FilterProblem::Stateful),
    }
}

/// The values of each setting of a rule, one list for each combination.
fn combinations<'v>(
    rule: &'v FilterRule,
    variables: &'v Variables,
) -> Result<Vec<Vec<&'v str>>, FilterProblem> {
    let values = |name: &'v str| {
        let found = variables.get(name).filter(|values| !values.is_empty());
        found.ok_or_else(|| FilterProblem::Variable { filter: String::new(), name: name.to_owned() })
    };
    // How many values each iterator goes through.
    let mut iterators: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
    for setting in &rule.settings {
        let Term::Each { name, iterator } = &setting.term else { continue };
        let count = values(name)?.len();
        let (known, other) = *iterators.entry(*iterator).or_insert((count, name));
        if known != count {
            return Err(FilterProblem::Unequal { first: other.to_owned(), second: name.clone() });
        }
    }
    let mut all: Vec<BTreeMap<u32, usize>> = vec![BTreeMap::new()];
    for (iterator, (count, _)) in iterators {
        if all.len().saturating_mul(count) > MAX_RULES {
            let count = all.len().saturating_mul(count);
            return Err(FilterProblem::TooManyRules { count, limit: MAX_RULES });
        }
        all = all
            .into_iter()
            .flat_map(|at| {
                (0..count)
                    .map(move |index| at.iter().map(|(k, v)| (*k, *v)).chain([(iterator, index)]).collect())
            })
            .collect();
    }
    let value = |setting: &'v Setting, at: &BTreeMap<u32, usize>| match &setting.term {
        Term::Literal(text) => Ok(text.as_str()),
        Term::Item { name, index } => {
            let values = values(name)?;
            let found = values.get(*index).map(String::as_str);
            found.ok_or_else(|| FilterProblem::NoItem {
                name: name.clone(),
                index: *index,
                count: values.len(),
            })
        }
        Term::Each { name, iterator } => {
            let index = at.get(iterator).copied().unwrap_or_default();
            Ok(values(name)?.get(index).map_or("", String::as_str))
        }
    };
    all.iter().map(|at| rule.settings.iter().map(|setting| value(setting, at)).collect()).collect()
}

/// A field with the parts of its comparison.
struct Comparison<'v> {
    field: Field,
    kind: Kind,
    negated: bool,
    attribute: &'static str,
    value: Option<&'v str>,
    end: Option<&'v str>,
    mask: Option<&'v str>,
}

fn matches(
    rule: &FilterRule,
    chain: &ChainName,
    values: &[&str],
    reversed: bool,
    verdict: &Verdict,
) -> Result<Vec<Match>, FilterProblem> {
    let mut comparisons: Vec<Comparison<'_>> = Vec::new();
    for (setting, value) in rule.settings.iter().zip(values) {
        let attribute = setting.attribute;
        let field = if reversed { attribute.reversed } else { attribute.field };
        let at = comparisons.iter().position(|known| known.field == field).unwrap_or_else(|| {
            comparisons.push(Comparison {
                field,
                kind: attribute.kind,
                negated: setting.negated,
                attribute: attribute.name,
                value: None,
                end: None,
                mask: None,
            });
            comparisons.len() - 1
        });
        let comparison = &mut comparisons[at];
        let slot = match attribute.part {
            Part::Value => &mut comparison.value,
            Part::End => &mut comparison.end,
            Part::Mask => &mut comparison.mask,
        };
        if slot.replace(value).is_some() {
            return Err(FilterProblem::Twice(attribute.name));
        }
    }
    let mut matches: Vec<Match> = Vec::new();
    for comparison in &comparisons {
        matches.push(Match {
            field: comparison.field,
            negated: comparison.negated,
            value: comparison.read()?,
        });
    }
    protocols(rule, chain, &mut matches, verdict)?;
    Ok(matches)
}

/// Adds what the rule's protocol is known by, where its fields do not show it.
fn protocols(
    rule: &FilterRule,
    chain: &ChainName,
    matches: &mut Vec<Match>,
    verdict: &Verdict,
) -> Result<(), FilterProblem> {
    let accepts = *verdict == Verdict::Accept;
    match rule.protocol {
        None => {}
        Some(Protocol::Mac) => {
            for of in matches.iter_mut().filter(|of| of.field == Field::EtherType) {
                // A check looks into the tag.
                if !accepts && !of.negated {
                    of.field = Field::Protocol;
                }
            }
        }
        Some(Protocol::Stp) if chain.protocol == Some(Protocol::Stp) => {}
        Some(Protocol::Stp) => matches.extend(entrance(rule.protocol)),
        Some(Protocol::Vlan) => {
            matches.push(Match::is(
                Field::Raw { base: Base::Ethernet, offset: 96, bits: 16 },
                Value::Number(VLAN),
            ));
            for of in matches.iter_mut().filter(|of| of.field == VLAN_TAG) {
                if let Value::Number(number) = of.value {
                    let number = u64::try_from(number).unwrap_or_default();
                    of.value = Value::MaskedNumber { mask: 0xFFF, number };
                }
            }
        }
        Some(Protocol::Arp | Protocol::Rarp | Protocol::Ip | Protocol::Ipv6 | Protocol::Transport(_)) => {
            network(rule, chain, matches)?;
        }
    }
    let is_named = |protocol: Option<Protocol>| {
        !matches!(protocol, None | Some(Protocol::Mac | Protocol::Stp | Protocol::Vlan))
    };
    let names_protocol = is_named(rule.protocol) || is_named(chain.protocol);
    if accepts && names_protocol {
        for tag in [VLAN, SERVICE_VLAN] {
            matches.push(Match::is_not(Field::EtherType, Value::Number(tag)));
        }
    }
    Ok(())
}

/// Adds the protocols of a rule on ARP or IP, which fields of their headers imply.
fn network(rule: &FilterRule, chain: &ChainName, matches: &mut Vec<Match>) -> Result<(), FilterProblem> {
    let number = match rule.protocol {
        Some(Protocol::Transport(transport)) => transport.number,
        _ => matches
            .iter()
            .find(|of| matches!(of.field, Field::IpProtocol | Field::L4Protocol) && !of.negated)
            .and_then(|of| match of.value {
                Value::Number(number) => u8::try_from(number).ok(),
                _ => None,
            }),
    };
    let has = |matches: &[Match], fields: &[Field]| matches.iter().any(|of| fields.contains(&of.field));
    let is_port = |of: &Match| matches!(of.field, Field::SourcePort(_) | Field::DestinationPort(_));
    let of_icmpv6 = |of: &Match| {
        matches!(of.field, Field::Icmpv6Type | Field::Icmpv6Code | Field::Raw { base: Base::Transport, .. })
    };
    if matches.iter().any(is_port) {
        let Some(ports) = number.and_then(ports) else { return Err(FilterProblem::PortsOfWhat) };
        for of in matches.iter_mut() {
            match &mut of.field {
                Field::SourcePort(of) | Field::DestinationPort(of) => *of = ports,
                _ => {}
            }
        }
        // Ports imply their protocol.
        matches.retain(|of| !matches!(of.field, Field::IpProtocol | Field::L4Protocol));
    } else if matches.iter().any(of_icmpv6) {
        if number != Some(ICMPV6) || !has(matches, &[Field::Icmpv6Type]) {
            return Err(FilterProblem::TypeOfWhat);
        }
        matches.retain(|of| of.field != Field::L4Protocol);
    } else if let (Some(Protocol::Transport(_)), Some(number)) = (rule.protocol, number)
        && !has(matches, &[Field::IcmpType, Field::IcmpCode])
    {
        matches.push(Match::is(Field::L4Protocol, Value::Number(number.into())));
    }
    let implied = matches.iter().any(|of| {
        !matches!(
            of.field,
            Field::EtherDestination
                | Field::EtherSource
                | Field::L4Protocol
                | Field::SourcePort(_)
                | Field::DestinationPort(_)
                | Field::Raw { .. }
        )
    });
    // Rules above IP stand in a chain of their own.
    let known = chain.protocol == rule.protocol || matches!(rule.protocol, Some(Protocol::Transport(_)));
    if implied || known {
        return Ok(());
    }
    if number == Some(ICMPV6) {
        return Err(FilterProblem::Icmpv6InRoot);
    }
    matches.extend(entrance(rule.protocol));
    Ok(())
}

impl Attribute {
    /// Checks a value that stands in a rule itself.
    ///
    /// # Errors
    /// The attribute does not take it.
    pub(crate) fn check(&self, text: &str) -> Result<(), FilterProblem> {
        let comparison = Comparison {
            field: self.field,
            kind: self.kind,
            negated: false,
            attribute: self.name,
            value: None,
            end: None,
            mask: None,
        };
        match (self.kind, self.part) {
            (Kind::Number { .. }, _) => comparison.number(text).map(drop),
            (Kind::Mac, _) => comparison.mac(text).map(drop),
            (Kind::Ipv4, Part::Mask) => comparison.masked("0.0.0.0", text).map(drop),
            (Kind::Ipv6, Part::Mask) => comparison.masked("::", text).map(drop),
            (Kind::Ipv4 | Kind::Ipv6, _) => comparison.address(text).map(drop),
        }
    }
}

impl Comparison<'_> {
    fn read(&self) -> Result<Value, FilterProblem> {
        let Some(value) = self.value else { return Err(FilterProblem::NoValue(self.attribute)) };
        match (self.kind, self.end, self.mask) {
            (_, Some(_), Some(_)) => Err(FilterProblem::Twice(self.attribute)),
            (Kind::Number { .. }, Some(end), _) => {
                let (from, to) = (self.number(value)?, self.number(end)?);
                if from > to {
                    return Err(self.bad(end, "a range's end, not below its start"));
                }
                Ok(if from == to { Value::Number(from.into()) } else { Value::Numbers(from, to) })
            }
            (Kind::Number { .. }, None, _) => Ok(Value::Number(self.number(value)?.into())),
            (Kind::Mac, _, None) => Ok(Value::Mac(self.mac(value)?)),
            (Kind::Mac, _, Some(mask)) => {
                let (mask, mac) = (self.mac(mask)?, self.mac(value)?);
                let masked = MacAddr(std::array::from_fn(|at| mask.0[at] & mac.0[at]));
                Ok(match mask.0 {
                    [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF] => Value::Mac(mac),
                    _ => Value::MaskedMac { mask, mac: masked },
                })
            }
            (Kind::Ipv4 | Kind::Ipv6, Some(end), None) => {
                let (from, to) = (self.address(value)?, self.address(end)?);
                if from > to {
                    return Err(self.bad(end, "a range's end, not below its start"));
                }
                Ok(if from == to { Value::Address(from) } else { Value::Addresses(from, to) })
            }
            (Kind::Ipv4 | Kind::Ipv6, _, None) => Ok(Value::Address(self.address(value)?)),
            (Kind::Ipv4 | Kind::Ipv6, _, Some(mask)) => self.masked(value, mask),
        }
    }

    fn bad(&self, text: &str, needed: &'static str) -> FilterProblem {
        FilterProblem::Value { attribute: self.attribute, text: quoted(text), needed }
    }

    fn number(&self, text: &str) -> Result<u32, FilterProblem> {
        let Kind::Number { max, names } = self.kind else { return Err(self.bad(text, "a number")) };
        let named = names.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        named.or(parsed).filter(|number| *number <= max).ok_or_else(|| match max {
            0xFF => self.bad(text, "a number from 0 to 255"),
            0xFFF => self.bad(text, "a number from 0 to 4095"),
            0x3F => self.bad(text, "a number from 0 to 63"),
            0xFFFF => self.bad(text, "a number from 0 to 65535"),
            _ => self.bad(text, "a number of 32 bits"),
        })
    }

    fn mac(&self, text: &str) -> Result<MacAddr, FilterProblem> {
        // As libvirt does, with one digit where the first is 0.
        let octet = |word: &str| {
            let is_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_hex && word.len() <= 2 { u8::from_str_radix(word, 16).ok() } else { None }
        };
        let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
        let mac = octets.and_then(|octets| octets.try_into().ok()).map(MacAddr);
        mac.ok_or_else(|| self.bad(text, "a MAC address"))
    }

    fn address(&self, text: &str) -> Result<IpAddr, FilterProblem> {
        if self.kind == Kind::Ipv4 {
            text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| self.bad(text, "an IPv4 address"))
        } else {
            text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| self.bad(text, "an IPv6 address"))
        }
    }

    fn masked(&self, value: &str, mask: &str) -> Result<Value, FilterProblem> {
        let address = self.address(value)?;
        let prefix = mask.parse::<u8>().ok().or_else(|| match self.address(mask).ok()? {
            IpAddr::V4(mask) if mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() >= 32 => {
                u8::try_from(mask.to_bits().leading_ones()).ok()
            }
            IpAddr::V6(mask) if mask.to_bits().leading_ones() + mask.to_bits().trailing_zeros() >= 128 => {
                u8::try_from(mask.to_bits().leading_ones()).ok()
            }
            _ => None,
        });
        if let Some(prefix) = prefix {
            // Of no bit anything is asked.
            return Value::network(address, prefix)
                .filter(|_| prefix > 0)
                .ok_or_else(|| self.bad(mask, "a prefix of 1 to 32 bits, or to 128 for IPv6, or a mask"));
        }
        match (address, self.address(mask)?) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => {
                Ok(Value::MaskedAddress { mask, address: address & mask })
            }
            _ => Err(self.bad(mask, "a prefix, or a mask without gaps")),
        }
    }
}

/// The variables that filters refer to, themselves or through others.
pub(crate) fn variables(references: &[Reference], store: &Store) -> BTreeSet<String> {
    let mut left: Vec<&str> = references.iter().map(|reference| reference.filter.as_str()).collect();
    let (mut seen, mut found) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = left.pop() {
        let Some(definition) = store.find(name).filter(|_| seen.insert(name)) else { continue };
        left.extend(definition.references.iter().map(|reference| reference.filter.as_str()));
        for setting in definition.rules.iter().flat_map(|rule| &rule.settings) {
            if let Term::Item { name, .. } | Term::Each { name, .. } = &setting.term {
                found.insert(name.clone());
            }
        }
    }
    found
}
