//! Packet filters of a guest's interface, by nftables.
//!
//! [`Nft`] runs the `nft` program, by an absolute path, without a shell and with an empty
//! environment. A filter is one table of its own, made in one transaction and read back.
//!
//! ```no_run
//! use taptrail_kernel::filter::{Hook, MacFilter, Nft};
//!
//! let nft = Nft::discover()?;
//! let filter = MacFilter {
//!     ifindex: 7,
//!     ifname: "vnet0".parse()?,
//!     hook: Hook::Ingress,
//!     mac: "52:54:00:12:34:56".parse()?,
//! };
//! nft.apply(&filter)?;
//! nft.remove(filter.ifindex)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod program;
mod ruleset;
mod tables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use taptrail_record::{IfName, MacAddr};

use crate::link::Links;
pub use error::FilterError;
pub use tables::{FilterHook, filter_hooks, generation};
pub(crate) use tables::{interface_of_message, is_table_message};

/// Where `nft` is looked for.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
/// Its arguments for a transaction in JSON on its input.
const SET: &[&str] = &["-j", "-f", "-"];
/// How long one run of `nft` may take; it takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where frames that a guest sends are caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// On a tap: what the guest sends comes in there.
    Ingress,
    /// On a macvtap: what the guest sends goes out there. Linux 5.16 and newer.
    Egress,
}

/// No MAC spoofing: what a guest sends has its own MAC as Ethernet source, and as sender in ARP;
/// all else is dropped.
///
/// A frame with a VLAN tag must have the guest's own Ethernet source like any other. ARP inside it
/// is looked at on a tap, where the kernel takes the tag off first, but not on a macvtap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacFilter {
    /// The interface's number, which names the table: `netdev taptrail_if<N>`.
    pub ifindex: u32,
    /// The interface.
    pub ifname: IfName,
    /// Where the guest's frames are caught.
    pub hook: Hook,
    /// The guest's MAC.
    pub mac: MacAddr,
}

/// The `nft` program. It acts in the network namespace of the thread that calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nft {
    path: PathBuf,
    timeout: Duration,
}

impl Nft {
    /// Finds the program in its usual places; `PATH` is not asked.
    pub fn discover() -> Result<Self, FilterError> {
        PLACES
            .iter()
            .map(Path::new)
            .find(|path| path.is_file())
            .map(Self::at)
            .ok_or(FilterError::NoProgram { places: &PLACES })
    }

    /// The program at this path, which should be absolute.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), timeout: TIMEOUT }
    }

    /// Bounds one run of the program; 5 s without.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The program's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets a filter in one transaction, in place of any that the interface has, and reads it back.
    ///
    /// A filter stays when its interface vanishes, and since Linux 6.16 takes hold of the next one
    /// of that name: [`Nft::remove`] is a must.
    ///
    /// Returns the [`generation`] at which it was read back, where the kernel tells one.
    ///
    /// # Errors
    /// Nothing of the filter is left then, or [`FilterError::Left`] says that something may be.
    pub fn apply(&self, filter: &MacFilter) -> Result<Option<u32>, FilterError> {
        ruleset::check(filter)?;
        let set = match program::run(self, SET, &ruleset::creation(filter)?) {
            // A replacement costs the kernel an RCU grace period, some 10 ms: only when there is
            // something to replace.
            Err(FilterError::Refused { .. }) => program::run(self, SET, &ruleset::replacement(filter)?),
            set => set,
        };
        // It never ran: there is nothing to take back, and nothing to do it with.
        if let Err(cause @ FilterError::Start { .. }) = set {
            return Err(cause);
        }
        // Before it is read back: what changes after that has another number.
        let at = generation();
        let Err(cause) = set.and_then(|_| self.verify(filter)) else { return Ok(at) };
        match self.remove(filter.ifindex) {
            Ok(()) => Err(cause),
            Err(removal) => Err(FilterError::Left {
                table: ruleset::table_name(filter.ifindex),
                removal: Box::new(removal),
                source: Box::new(cause),
            }),
        }
    }

    /// Shows that a filter is in force: that what stands is what was set, and nothing but that, and that its
    /// chain is hooked to its interface, by the name that it has now. Since Linux 6.16 a chain is hooked to a
    /// name, and loses an interface that is renamed.
    ///
    /// # Errors
    /// When it is not, or that can't be seen.
    pub fn verify(&self, filter: &MacFilter) -> Result<(), FilterError> {
        let table = ruleset::table_name(filter.ifindex);
        let listing = program::run(self, &["-j", "list", "table", "netdev", &table], &[])?;
        ruleset::compare(filter, &listing)?;
        let hooks = filter_hooks().map_err(FilterError::Hooks)?;
        ruleset::check_hook(filter, hooks.get(&filter.ifindex))?;
        // Since Linux 6.16 the kernel takes a chain for a device that is not there, and lets it
        // wait for one of that name.
        match Links::open()?.find(&filter.ifname)? {
            Some(link) if link.index == filter.ifindex => Ok(()),
            _ => {
                let (ifname, ifindex) = (filter.ifname.to_string(), filter.ifindex);
                Err(FilterError::NoInterface { ifname, ifindex })
            }
        }
    }

    /// Removes an interface's filter; one that is not there is as good as removed.
    pub fn remove(&self, ifindex: u32) -> Result<(), FilterError> {
        program::run(self, SET, &ruleset::removal(ifindex)?).map(drop)
    }
}
