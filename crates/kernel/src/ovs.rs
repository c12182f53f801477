//! Ports of Open vSwitch, by its ovs-vsctl(8), which speaks to the local ovsdb-server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use taptrail_record::{IfName, MacAddr};
use uuid::Uuid;

use crate::program::{self, Program, ProgramError};

/// The paths at which `ovs-vsctl` is searched.
const PATHS: [&str; 2] = ["/usr/bin/ovs-vsctl", "/usr/local/bin/ovs-vsctl"];

/// How long ovs-vsctl itself may wait for the database and for ovs-vswitchd, in seconds.
const WAIT_SECONDS: u32 = 5;

/// The time limit of one run, after which it is killed.
const RUN_TIMEOUT: Duration = Duration::from_secs(7);

/// The key of an interface's `external_ids` that says whose it is.
const MARK: &str = "taptrail";

/// Why a port can't be added, found or removed.
#[derive(Debug, thiserror::Error)]
pub enum OvsError {
    /// There is no `ovs-vsctl` program in its usual places.
    #[error("Open vSwitch is not installed: ovs-vsctl is in none of {}", PATHS.join(", "))]
    NoProgram,
    /// ovs-vsctl failed: no database, no such bridge.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// A tap that becomes a port.
#[derive(Debug, Clone, Copy)]
pub struct OvsPort<'a> {
    /// The bridge of Open vSwitch.
    pub bridge: &'a IfName,
    /// The tap.
    pub ifname: &'a IfName,
    /// `external_ids:attached-mac`: the guest's address.
    pub mac: MacAddr,
    /// `external_ids:vm-id`.
    pub guest: Uuid,
    /// `external_ids:iface-id`, by which a controller knows the port.
    pub interface_id: Uuid,
    /// `external_ids:port-profile`.
    pub profile: Option<&'a str>,
    /// Whose port it is, so that it is removed by nobody else: an alias's text.
    pub mark: &'a str,
    /// The VLAN of untagged frames.
    pub vlan: Option<u16>,
    /// VLANs of tagged frames.
    pub trunk: &'a [u16],
    /// The VLAN of [`vlan`](Self::vlan) is tagged, too.
    pub native_tagged: bool,
    /// The MTU that Open vSwitch is to leave as it is.
    pub mtu: Option<u32>,
}

/// The program, and the database that it uses.
#[derive(Debug, Clone)]
pub struct Ovs {
    path: PathBuf,
}

impl Ovs {
    /// Finds the program at its usual paths; `PATH` is not used.
    ///
    /// # Errors
    ///
    /// [`OvsError::NoProgram`] if it is at none of them.
    pub fn discover() -> Result<Self, OvsError> {
        let path = PATHS.iter().map(Path::new).find(|path| path.is_file()).ok_or(OvsError::NoProgram)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Adds a port in one transaction, in place of one of taptrail's that was left over under its
    /// name, and waits until ovs-vswitchd has it.
    ///
    /// # Errors
    ///
    /// ovs-vsctl fails: there is no such bridge, somebody else's port has the name, or there is no
    /// ovsdb-server or ovs-vswitchd.
    pub fn add_port(&self, port: &OvsPort<'_>) -> Result<(), OvsError> {
        // Ports of tunnels and patches have names that no link has: they are never replaced.
        let is_left_over = self.mark_of(port.ifname)?.starts_with(MARK);
        self.run(&added(port, is_left_over)).map(drop)
    }

    /// The bridge of a port.
    ///
    /// # Errors
    ///
    /// ovs-vsctl fails: there is no such port.
    pub fn bridge_of(&self, ifname: &IfName) -> Result<String, OvsError> {
        let said = self.run(&words(&["port-to-br", ifname.as_str()]))?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// The mark of the port of this name; empty without a port or a mark.
    fn mark_of(&self, ifname: &IfName) -> Result<String, OvsError> {
        let mark = format!("external_ids:{MARK}");
        let said = self.run(&words(&["--if-exists", "get", "Interface", ifname.as_str(), &mark]))?;
        Ok(String::from_utf8_lossy(&said).trim().trim_matches('"').to_owned())
    }

    /// Removes the port with this mark, whatever its name, which may be another tap's by now. Returns
    /// whether there was one.
    ///
    /// # Errors
    ///
    /// ovs-vsctl fails.
    pub fn remove_port(&self, mark: &str) -> Result<bool, OvsError> {
        let marked = format!("external_ids:{MARK}={}", quoted(mark));
        let said = self.run(&words(&["--columns=name", "find", "Interface", &marked]))?;
        let said = String::from_utf8_lossy(&said);
        let mut is_any = false;
        for name in said.split_whitespace() {
            self.run(&words(&["--if-exists", "del-port", name]))?;
            is_any = true;
        }
        Ok(is_any)
    }

    fn run(&self, command: &[String]) -> Result<Vec<u8>, OvsError> {
        let environment = [("LC_ALL", "C")];
        let program =
            Program { path: &self.path, timeout: RUN_TIMEOUT, environment: &environment, confined: false };
        let mut all = vec![format!("--timeout={WAIT_SECONDS}"), "--bare".to_owned(), "--".to_owned()];
        all.extend_from_slice(command);
        Ok(program::run(&program, &all, &[])?)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// In quotes, as ovs-vsctl reads strings that are no plain words.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn added(port: &OvsPort<'_>, is_left_over: bool) -> Vec<String> {
    let name = port.ifname.as_str();
    let mut all = if is_left_over { words(&["--if-exists", "del-port", name, "--"]) } else { Vec::new() };
    all.extend(words(&["add-port", port.bridge.as_str(), name]));
    if let Some(vlan) = port.vlan {
        all.push(format!("tag={vlan}"));
    }
    if !port.trunk.is_empty() {
        let tags: Vec<String> = port.trunk.iter().map(u16::to_string).collect();
        all.push(format!("trunks={}", tags.join(",")));
        if port.vlan.is_some() {
            let mode = if port.native_tagged { "native-tagged" } else { "native-untagged" };
            all.push(format!("vlan_mode={mode}"));
        }
    }
    let mut set = |what: &str, value: &str| {
        all.extend(words(&["--", "set", "Interface", name, &format!("{what}={value}")]));
    };
    set("external-ids:attached-mac", &quoted(&port.mac.to_string()));
    set("external-ids:iface-id", &quoted(&port.interface_id.to_string()));
    set("external-ids:vm-id", &quoted(&port.guest.to_string()));
    if let Some(profile) = port.profile {
        set("external-ids:port-profile", &quoted(profile));
    }
    set("external-ids:iface-status", "active");
    set(&format!("external-ids:{MARK}"), &quoted(port.mark));
    if let Some(mtu) = port.mtu {
        set("mtu_request", &mtu.to_string());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_with_its_ids_and_vlans_in_one_transaction() {
        let (bridge, ifname) = ("ovs0".parse().unwrap(), "vnet0".parse().unwrap());
        let port = OvsPort {
            bridge: &bridge,
            ifname: &ifname,
            mac: MacAddr::kvm([0, 0, 1]),
            guest: Uuid::from_u128(7),
            interface_id: Uuid::from_u128(9),
            profile: Some("a \"b\" c"),
            mark: "taptrail x y",
            vlan: Some(42),
            trunk: &[47, 48],
            native_tagged: true,
            mtu: None,
        };
        let add = "add-port ovs0 vnet0 tag=42 trunks=47,48 vlan_mode=native-tagged -- set";
        let replace = added(&port, true).join(" ");
        assert!(replace.starts_with(&format!("--if-exists del-port vnet0 -- {add}")), "{replace}");
        let all = added(&port, false).join(" ");
        assert!(all.starts_with(add), "{all}");
        assert!(all.contains("external-ids:iface-id=\"00000000-0000-0000-0000-000000000009\""), "{all}");
        assert!(all.contains(r#"external-ids:port-profile="a \"b\" c""#), "{all}");
        assert!(all.ends_with("external-ids:taptrail=\"taptrail x y\""), "{all}");
    }
}
