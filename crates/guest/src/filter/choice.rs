//! The filters that an interface has, with the values of their variables.

use taptrail_kernel::filter::Rules;
use taptrail_record::MacAddr;

use super::compile::{self, MAX_VALUES};
use super::definition::{Reference, is_variable};
use super::error::FilterProblem;
use super::store::{FilterLoadError, Store};
use crate::spec::{Backend, Fault, Key, NicSpec, Problem, SpecError, quoted};

/// The variables that have a key of their own in a SPEC.
const KEYS: [(Key, &str); 4] =
    [(Key::Ip, "IP"), (Key::Ipv6, "IPV6"), (Key::Dhcpserver, "DHCPSERVER"), (Key::GatewayMac, "GATEWAY_MAC")];
/// libvirt's way of finding addresses out.
const LEARNING: &str = "CTRL_IP_LEARNING";

/// What a user writes to give a variable its value.
pub(super) fn key_of(variable: &str) -> String {
    let (key, start) = FilterChoice::key_for(variable);
    format!("{key}={start}VALUE")
}

/// The filters of one interface, and their parameters.
///
/// Several filters are one: the rules and chains of all are sorted together by their priorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterChoice {
    filters: Vec<String>,
    /// By name; the values of one in the order in which they were given.
    parameters: Vec<(String, String)>,
}

impl FilterChoice {
    /// Filters without parameters.
    pub fn new(filters: Vec<String>) -> Self {
        Self { filters, parameters: Vec::new() }
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
            LEARNING => return Err(FilterProblem::Learning(quoted(value))),
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
        filters.chain(self.parameters.iter().map(|(name, value)| {
            let (key, start) = Self::key_for(name);
            (key, start + value)
        }))
    }

    /// The rules for the interface of this MAC, with the user's filters as their files have them
    /// now.
    ///
    /// # Errors
    /// A file can't be read, or the filters can't be used.
    pub fn load_rules(&self, mac: MacAddr) -> Result<Rules, FilterLoadError> {
        Ok(self.rules(&Store::load(self)?, mac)?)
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

    /// The rules for the interface of this MAC.
    ///
    /// # Errors
    /// The filters can't be used.
    pub fn rules(&self, store: &Store, mac: MacAddr) -> Result<Rules, FilterProblem> {
        let references: Vec<Reference> = self
            .filters
            .iter()
            .map(|filter| Reference { filter: filter.clone(), parameters: self.parameters.clone() })
            .collect();
        let used = compile::variables(&references, store);
        let unused = self.parameters.iter().find(|(name, _)| !used.contains(name));
        let rules = compile::compile(&references, store, mac)?;
        match unused {
            Some((name, _)) => Err(FilterProblem::Unused(name.clone())),
            None => Ok(rules),
        }
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
