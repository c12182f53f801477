//! What a filter says: its rules, the chain they stand in, and the filters it refers to.

use std::str::FromStr;

use super::attribute::{Attribute, Protocol};

/// The longest name of a filter, chain or variable, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 64;

/// The priority of a rule that has none.
pub(crate) const RULE_PRIORITY: i32 = 500;

/// A filter.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) chain: ChainName,
    /// The chain's priority in the root chain.
    pub(crate) priority: i32,
    pub(crate) references: Vec<Reference>,
    pub(crate) rules: Vec<FilterRule>,
}

/// A filter that another one, or an interface, refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) filter: String,
    /// Variables with their values, in the order in which they were given.
    pub(crate) parameters: Vec<(String, String)>,
}

/// The chain that rules stand in: `root`, or a protocol's, as `arp` or `arp-mac`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChainName {
    pub(crate) name: String,
    /// `None` for the root chain.
    pub(crate) protocol: Option<Protocol>,
}

impl ChainName {
    pub(crate) const PREFIXES: [(&str, Protocol, i32); 7] = [
        ("stp", Protocol::Stp, -810),
        ("mac", Protocol::Mac, -800),
        ("vlan", Protocol::Vlan, -750),
        ("ipv4", Protocol::Ip, -700),
        ("ipv6", Protocol::Ipv6, -600),
        ("arp", Protocol::Arp, -500),
        ("rarp", Protocol::Rarp, -400),
    ];

    pub(crate) fn root() -> Self {
        Self { name: "root".to_owned(), protocol: None }
    }

    /// The priority that it has by its protocol.
    pub(crate) fn default_priority(&self) -> i32 {
        Self::PREFIXES
            .iter()
            .find(|(_, of, _)| Some(*of) == self.protocol)
            .map_or(0, |(.., priority)| *priority)
    }
}

impl FromStr for ChainName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "root" {
            return Ok(Self::root());
        }
        let prefix = text.split_once('-').map_or(text, |(prefix, _)| prefix);
        let protocol = Self::PREFIXES.iter().find(|(name, ..)| *name == prefix).map(|(_, of, _)| *of);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if protocol.is_none() || text.len() > MAX_NAME_BYTES || !text.chars().all(is_plain) {
            return Err(());
        }
        Ok(Self { name: text.to_owned(), protocol })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the guest.
    In,
    /// From the guest.
    Out,
    Both,
}

impl Direction {
    pub(crate) const WORDS: [(&str, Self); 3] = [("in", Self::In), ("out", Self::Out), ("inout", Self::Both)];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Accept,
    Drop,
    /// Back to the root chain.
    Return,
    /// On with the next rule.
    Continue,
}

impl Action {
    pub(crate) const WORDS: [(&str, Self); 5] = [
        ("accept", Self::Accept),
        ("drop", Self::Drop),
        // libvirt, too, drops at the level of Ethernet.
        ("reject", Self::Drop),
        ("return", Self::Return),
        ("continue", Self::Continue),
    ];
}

/// One rule of a filter.
#[derive(Debug, Clone)]
pub(crate) struct FilterRule {
    pub(crate) direction: Direction,
    pub(crate) action: Action,
    pub(crate) priority: i32,
    /// `None`: every frame.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) state: State,
    pub(crate) settings: Vec<Setting>,
}

/// Whether a rule on a protocol above IP depends on the state of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It does, unless something else about it says that it does not.
    Default,
    /// `statematch='false'`: it holds for answers, too.
    Ignored,
    /// `state='NONE'`: it holds for its own direction alone.
    OneWay,
}

/// An attribute and its value.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) attribute: &'static Attribute,
    pub(crate) negated: bool,
    pub(crate) term: Term,
}

/// A value, or the variable that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Term {
    Literal(String),
    /// `$NAME[1]`: one of its values, counted from 0.
    Item {
        name: String,
        index: usize,
    },
    /// `$NAME`, `$NAME[@1]`: each of its values, in step with other variables of the same iterator.
    Each {
        name: String,
        iterator: u32,
    },
}

impl FromStr for Term {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let Some(rest) = text.strip_prefix('$') else { return Ok(Self::Literal(text.to_owned())) };
        let (name, access) = match rest.split_once('[') {
            None => (rest, None),
            Some((name, access)) => (name, Some(access.strip_suffix(']').ok_or(())?)),
        };
        if !is_variable(name) {
            return Err(());
        }
        let name = name.to_owned();
        // parse alone would take "+5".
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        Ok(match access.map(|access| access.strip_prefix('@').ok_or(access)) {
            None => Self::Each { name, iterator: 0 },
            Some(Ok(number)) if digits(number) => {
                Self::Each { name, iterator: number.parse().map_err(|_| ())? }
            }
            Some(Err(number)) if digits(number) => {
                Self::Item { name, index: number.parse().map_err(|_| ())? }
            }
            _ => return Err(()),
        })
    }
}

/// Whether a text can be a filter's name.
pub(crate) fn is_filter_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let first = name.chars().next().is_some_and(|c| c != '.');
    first && name.len() <= MAX_NAME_BYTES && name.chars().all(is_plain)
}

/// Whether a text can be a variable's name.
pub(crate) fn is_variable(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
