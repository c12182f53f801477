//! Settings that change while a guest runs: keys and values of a SPEC, `vlan=7,link=up`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::error::{Fault, Problem, SpecError};
use super::parse::{SPEC_LIMIT, draft, escaped};
use super::write::Canonical;
use super::{Key, NicSpec};

/// What takes a key's value away.
const NONE: &str = "none";

/// What of an interface is set again when one of its keys changes: each is done as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    /// What the guest may send and receive.
    Filter,
    /// The limits of what it sends and receives.
    Bandwidth,
    /// The MTU of the host's link.
    Mtu,
    /// How many frames a tap collects.
    RxFrames,
    /// The port's bridge, VLANs and isolation.
    Port,
    /// Whether the guest's NIC has a carrier.
    Carrier,
}

/// New values for keys of a SPEC that can change while its guest runs; `none` is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecChange {
    text: String,
    /// In canonical order.
    given: Vec<(Key, Option<String>)>,
}

impl FromStr for SpecChange {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = |fault| SpecError::new(text, fault);
        let draft = draft(text)
            .map_err(|fault| SpecError::new(&text[..text.floor_char_boundary(SPEC_LIMIT)], fault))?;
        let mut given = Vec::new();
        for (key, value) in draft.given() {
            if let Err(reason) = key.setting() {
                return Err(fault(Fault::new(
                    value.key_span.clone(),
                    Problem::NotWhileItRuns { key, reason },
                )));
            }
            // A bridge may have this name.
            let is_none = value.value == NONE && key != Key::Bridge;
            given.push((key, (!is_none).then(|| value.value.clone().into_owned())));
        }
        Ok(Self { text: text.to_owned(), given })
    }
}

impl fmt::Display for SpecChange {
    /// As it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl SpecChange {
    /// What is set again.
    pub(crate) fn settings(&self) -> BTreeSet<Setting> {
        self.given.iter().filter_map(|(key, _)| key.setting().ok()).collect()
    }

    /// Whether it names the file of a filter.
    pub(crate) fn names_file(&self) -> bool {
        let is_path = |value: &String| value.starts_with('/');
        self.given.iter().any(|(key, value)| *key == Key::Filter && value.as_ref().is_some_and(is_path))
    }

    /// The SPEC with these values in place of all that their keys have. A new filter has no
    /// parameter of the old one.
    ///
    /// # Errors
    /// What a SPEC would be refused for.
    pub(crate) fn apply(&self, spec: &NicSpec) -> Result<NicSpec, SpecError> {
        let of_filter = self.given.iter().any(|(key, _)| *key == Key::Filter);
        let is_replaced = |key: Key| {
            let is_given = self.given.iter().any(|(given, _)| *given == key);
            is_given || (of_filter && key.setting() == Ok(Setting::Filter))
        };
        let canonical = Canonical::from(spec);
        let kept = canonical.values.iter().filter(|(key, _)| !is_replaced(*key));
        // Its values are escaped already.
        let kept = kept.map(|(key, span)| format!("{key}={}", &canonical.text[span.clone()]));
        let given = self.given.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let given = given.map(|(key, value)| format!("{key}={}", escaped(value)));
        kept.chain(given).collect::<Vec<_>>().join(",").parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(spec: &str, change: &str) -> Result<String, String> {
        let change: SpecChange = change.parse().map_err(|error: SpecError| error.to_string())?;
        let spec: NicSpec = spec.parse().unwrap();
        change.apply(&spec).map(|spec| spec.to_string()).map_err(|error| error.to_string())
    }

    // Shows 2.28.
    #[test]
    fn a_key_has_its_new_value_and_all_others_theirs() {
        let spec = "bridge=br0,mac=52:54:00:00:00:01,filter=clean-traffic,ip=192.0.2.5,vlan=7,inbound=100";
        for (change, expected) in [
            (
                "vlan=9",
                "bridge=br0,mac=52:54:00:00:00:01,filter=clean-traffic,ip=192.0.2.5,vlan=9,inbound=100",
            ),
            (
                "vlan=none,link=down",
                "bridge=br0,mac=52:54:00:00:00:01,filter=clean-traffic,ip=192.0.2.5,link=down,inbound=100",
            ),
            (
                "bridge=none",
                "bridge=none,mac=52:54:00:00:00:01,filter=clean-traffic,ip=192.0.2.5,vlan=7,inbound=100",
            ),
            (
                "ip=192.0.2.6,ip=192.0.2.7",
                "bridge=br0,mac=52:54:00:00:00:01,filter=clean-traffic,ip=192.0.2.6,ip=192.0.2.7,vlan=7,inbound=100",
            ),
            (
                "filter=no-mac-spoofing",
                "bridge=br0,mac=52:54:00:00:00:01,filter=no-mac-spoofing,vlan=7,inbound=100",
            ),
            ("filter=none,inbound=none", "bridge=br0,mac=52:54:00:00:00:01,vlan=7"),
        ] {
            assert_eq!(changed(spec, change).as_deref(), Ok(expected), "{change}");
        }
        let learns = "bridge=br0,mac=52:54:00:00:00:01,filter=clean-traffic,ip-learning=dhcp";
        for (change, expected) in [
            ("filter=no-mac-spoofing", "bridge=br0,mac=52:54:00:00:00:01,filter=no-mac-spoofing"),
            ("filter=none", "bridge=br0,mac=52:54:00:00:00:01"),
        ] {
            assert_eq!(changed(learns, change).as_deref(), Ok(expected), "{change}");
        }
    }

    // Shows 2.28.
    #[test]
    fn what_can_not_change_says_why_and_what_to_do() {
        for (change, expected) in [
            (
                "model=e1000",
                "'model' can't be changed while the guest runs: QEMU takes it when the NIC is plugged",
            ),
            (
                "tap=tap0",
                "its devices would have to be opened again; detach the interface, and attach it with the new value",
            ),
            ("vlan=5000", "a number from 1 to 4094"),
            ("vlan=7,vlan=8", "given twice"),
            ("vlna=7", "did you mean 'vlan'?"),
            ("", "empty"),
            ("vlan", "no value"),
            ("ip=192.0.2.5", "no meaning without a filter"),
            ("vlan-mode=tagged", "needs"),
        ] {
            let error = changed("bridge=br0", change).unwrap_err();
            assert!(error.contains(expected), "{change}: {error}");
        }
        let long = format!("filter={}", "x".repeat(SPEC_LIMIT));
        assert!(changed("bridge=br0", &long).unwrap_err().contains("longer than"));
        // Backends have what they have.
        assert!(changed("vdpa=/dev/vhost-vdpa-0", "filter=clean-traffic").is_err());
    }
}
