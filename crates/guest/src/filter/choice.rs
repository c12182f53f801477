//! The filters that an interface has, with the values of their variables.

use std::net::Ipv4Addr;

use taptrail_kernel::filter::{Attachment, Rules};
use taptrail_record::MacAddr;

use super::compile::{self, MAX_VALUES};
use super::definition::{Reference, is_variable};
use super::error::FilterProblem;
use super::store::{FilterLoadError, Store};
use crate::learning::{FrameReader, Method};
use crate::spec::{Backend, Fault, Key, NicSpec, Problem, SpecError, quoted};

/// The variables that have a key of their own in a SPEC.
const KEYS: [(Key, &str); 5] = [
    (Key::Ip, IP),
    (Key::Ipv6, "IPV6"),
    (Key::Dhcpserver, DHCP_SERVER),
    (Key::GatewayMac, "GATEWAY_MAC"),
    (Key::IpLearning, LEARNING),
];
/// The variable whose values can be learnt.
const IP: &str = "IP";
const DHCP_SERVER: &str = "DHCPSERVER";
/// How they are learnt: no variable of a rule.
const LEARNING: &str = "CTRL_IP_LEARNING";
/// The filter that keeps a guest from giving itself an address.
const NO_SERVER: &str = "no-dhcp-server";
/// Stands for the address that is not learnt yet, where a filter is only checked (RFC 5737).
const SOME_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What a user writes to give a variable its value.
pub(super) fn key_of(variable: &str) -> String {
    let (key, start) = FilterChoice::key_for(variable);
    let learnt = if variable == IP { ", or ip-learning=dhcp" } else { "" };
    format!("{key}={start}VALUE{learnt}")
}

/// The filters of one interface, and their parameters.
///
/// Several filters are one: the rules and chains of all are sorted together by their priorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterChoice {
    filters: Vec<String>,
    /// By name; the values of one in the order in which they were given.
    parameters: Vec<(String, String)>,
    /// How the values of `$IP` are learnt.
    learning: Option<Method>,
}

impl FilterChoice {
    /// Filters without parameters.
    pub fn new(filters: Vec<String>) -> Self {
        Self { filters, parameters: Vec::new(), learning: None }
    }

    /// Adds a value to a variable.
    ///
    /// # Errors
    /// The variable can't be given.
    pub fn add_parameter(&mut self, name: &str, value: &str) -> Result<(), FilterProblem> {
        if !is_variable(name) || value.is_empty() {
            return Err(FilterProblem::NoParameter(quoted(&format!("{name}={value}"))));
        }
        match name {
            // libvirt's word for "don't".
            LEARNING if value == "none" => return Ok(()),
            LEARNING => {
                let method = value.parse().map_err(|()| FilterProblem::Learning(quoted(value)))?;
                return match self.learning.replace(method) {
                    Some(other) if other != method => Err(FilterProblem::LearningTwice),
                    _ => Ok(()),
                };
            }
            "MAC" | "IPV6_LINK_LOCAL" => return Err(FilterProblem::Reserved(name.to_owned())),
            _ => {}
        }
        if self.parameters.iter().filter(|(known, _)| known == name).count() >= MAX_VALUES {
            return Err(FilterProblem::TooManyValues { name: name.to_owned(), limit: MAX_VALUES });
        }
        // In one order, whatever order they are given in: so a SPEC reads back as it was.
        let at = self.parameters.partition_point(|(known, _)| known.as_str() <= name);
        self.parameters.insert(at, (name.to_owned(), value.to_owned()));
        Ok(())
    }

    /// The names of the filters.
    pub fn filters(&self) -> &[String] {
        &self.filters
    }

    /// The filters and parameters in the words of a SPEC: keys and values.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, String)> {
        let filters = self.filters.iter().map(|name| (Key::Filter, name.clone()));
        filters
            .chain(self.parameters.iter().map(|(name, value)| {
                let (key, start) = Self::key_for(name);
                (key, start + value)
            }))
            .chain(self.learning.map(|method| (Key::IpLearning, method.as_str().to_owned())))
    }

    /// The rules for the interface of this MAC, with the user's filters as their files have them
    /// now, and with the addresses that it has learnt.
    ///
    /// # Errors
    /// A file can't be read, or the filters can't be used.
    pub fn load_rules(
        &self,
        mac: MacAddr,
        attachment: Attachment,
        learnt: &[Ipv4Addr],
    ) -> Result<Rules, FilterLoadError> {
        Ok(self.rules_with(&Store::load(self)?, mac, attachment, learnt)?)
    }

    /// What reads the frames by which addresses are learnt, if they are.
    pub(crate) fn frame_reader(&self, mac: MacAddr) -> Option<FrameReader> {
        let servers = self.values(DHCP_SERVER).filter_map(|server| server.parse().ok()).collect();
        self.learning.map(|method| FrameReader { mac, method, servers })
    }

    fn values(&self, variable: &str) -> impl Iterator<Item = &str> {
        let is_its = move |(name, _): &&(String, String)| name == variable;
        self.parameters.iter().filter(is_its).map(|(_, value)| value.as_str())
    }

    /// Reads filters with their parameters as in a SPEC after `filter=`: `clean-traffic,ip=192.0.2.5`.
    ///
    /// # Errors
    /// What a SPEC would be refused for, and keys that are not a filter's.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        // The shortest backend, with which all that is a filter's goes together.
        const BACKEND: &str = "new-tap=on,";
        let prefix = if text.starts_with("filter=") { "" } else { "filter=" };
        let spec = format!("{BACKEND}{prefix}{text}");
        let mut nic: NicSpec = spec.parse()?;
        match nic.filter.take() {
            Some(choice) if nic == NicSpec::new(Backend::NewTap) => Ok(choice),
            _ => {
                let fault = Fault::new(BACKEND.len()..spec.len(), Problem::NotAFilter);
                Err(SpecError::new(&spec, fault))
            }
        }
    }

    /// Whether it names a file.
    pub(crate) fn has_path(&self) -> bool {
        self.filters.iter().any(|filter| filter.starts_with('/'))
    }

    /// The rules for the interface of this MAC, a tap; where addresses are learnt, those before one
    /// is known.
    ///
    /// # Errors
    /// The filters can't be used.
    pub fn rules(&self, store: &Store, mac: MacAddr) -> Result<Rules, FilterProblem> {
        self.rules_with(store, mac, Attachment::Tap, &[])
    }

    /// The rules with the addresses that the interface has learnt.
    fn rules_with(
        &self,
        store: &Store,
        mac: MacAddr,
        attachment: Attachment,
        learnt: &[Ipv4Addr],
    ) -> Result<Rules, FilterProblem> {
        let mut parameters = self.parameters.clone();
        if self.learning.is_some() {
            if self.values(IP).next().is_some() {
                return Err(FilterProblem::NothingToLearn);
            }
            let addresses = if learnt.is_empty() { &[SOME_ADDRESS] } else { learnt };
            parameters.extend(addresses.iter().map(|address| (IP.to_owned(), address.to_string())));
        }
        let mut references: Vec<Reference> = self
            .filters
            .iter()
            .map(|filter| Reference { filter: filter.clone(), parameters: parameters.clone() })
            .collect();
        let mut used = compile::variables(&references, store);
        if self.learning == Some(Method::Dhcp) {
            used.insert(DHCP_SERVER.to_owned());
            // First, so that nothing is accepted before it.
            references.insert(0, Reference { filter: NO_SERVER.to_owned(), parameters: Vec::new() });
        }
        let unused = parameters.iter().find(|(name, _)| !used.contains(name));
        let rules = compile::compile(&references, store, mac)?;
        match (unused, self.learning) {
            (Some((name, _)), Some(_)) if name == IP => Err(FilterProblem::NothingLearns),
            (Some((name, _)), _) => Err(FilterProblem::Unused(name.clone())),
            (None, Some(method)) if learnt.is_empty() => self.waiting_rules(mac, attachment, method),
            (None, _) => Ok(rules),
        }
    }

    /// The rules until an address is known: DHCP passes, and nothing else.
    ///
    /// A tap's first frame is seen before it is dropped. A macvtap's is seen when it has passed:
    /// there a guest may send ARP for its own MAC.
    fn waiting_rules(
        &self,
        mac: MacAddr,
        attachment: Attachment,
        method: Method,
    ) -> Result<Rules, FilterProblem> {
        let servers: Vec<_> = self
            .values(DHCP_SERVER)
            .filter(|server| server.parse::<Ipv4Addr>().is_ok())
            .map(|server| (DHCP_SERVER.to_owned(), server.to_owned()))
            .collect();
        if let Some(other) = self.values(DHCP_SERVER).next().filter(|_| servers.is_empty()) {
            let (attribute, text) = ("dhcpserver", quoted(other));
            return Err(FilterProblem::Value { attribute, text, needed: "an IPv4 address" });
        }
        let dhcp = if servers.is_empty() { "allow-dhcp" } else { "allow-dhcp-server" };
        let arp: &[&str] = match (attachment, method) {
            (Attachment::Macvtap, Method::Any) => &["no-arp-mac-spoofing", "allow-arp"],
            _ => &[],
        };
        let names = ["no-mac-spoofing", dhcp, "no-other-l2-traffic"].into_iter().chain(arp.iter().copied());
        let references: Vec<Reference> = names
            .map(|filter| Reference { filter: filter.to_owned(), parameters: servers.clone() })
            .collect();
        compile::compile(&references, &Store::shipped(), mac)
    }

    /// Whether all of its filters are taptrail's own.
    pub(crate) fn is_shipped(&self) -> bool {
        self.filters.iter().all(|name| Store::shipped().find(name).is_some())
    }

    /// The variable that a key of a SPEC gives a value to.
    pub(crate) fn variable_of(key: Key) -> Option<&'static str> {
        KEYS.iter().find(|(known, _)| *known == key).map(|(_, variable)| *variable)
    }

    /// The key of a SPEC for a variable, and what its value begins with there.
    pub(crate) fn key_for(variable: &str) -> (Key, String) {
        match KEYS.iter().find(|(_, known)| *known == variable) {
            Some((key, _)) => (*key, String::new()),
            None => (Key::FilterParameter, format!("{variable}=")),
        }
    }
}

impl std::fmt::Display for FilterChoice {
    /// As in a SPEC: `filter=clean-traffic,ip=192.0.2.5`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> =
            self.keys().map(|(key, value)| format!("{key}={}", value.replace(',', ",,"))).collect();
        f.pad(&words.join(","))
    }
}
