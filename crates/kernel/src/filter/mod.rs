//! Packet filters of a guest's interface, by nftables.
//!
//! [`Nft`] runs the `nft` program, by an absolute path, without a shell and with an empty
//! environment. A filter is one table of its own, made in one transaction and read back.
//!
//! ```no_run
//! use taptrail_kernel::filter::{
//!     Attachment, Chain, Field, InterfaceFilter, Match, Nft, Rule, Rules, Value, Verdict,
//! };
//!
//! let nft = Nft::discover()?;
//! let own = Value::Mac("52:54:00:12:34:56".parse()?);
//! let foreign = Rule { matches: vec![Match::is_not(Field::EtherSource, own)], verdict: Verdict::Drop };
//! let chain = Chain { name: "from-guest".to_owned(), entry: Some(0), rules: vec![foreign] };
//! let filter = InterfaceFilter {
//!     ifindex: 7,
//!     ifname: "vnet0".parse()?,
//!     attachment: Attachment::Tap,
//!     rules: Rules { from_guest: vec![chain], to_guest: Vec::new() }.into(),
//! };
//! nft.apply(&filter)?;
//! nft.remove(filter.ifindex)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod program;
mod rules;
mod ruleset;
mod tables;
mod turn;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use taptrail_record::IfName;

use crate::link::Links;
pub use error::FilterError;
pub use rules::{Base, Chain, Field, Match, Ports, Rule, Rules, Value, Verdict};
pub use tables::{FilterHook, filter_hooks, generation};
pub(crate) use tables::{interface_of_message, is_table_message};
pub use turn::NftTurns;
use turn::Turn;

/// The paths at which `nft` is searched.
const NFT_PATHS: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];
/// Its arguments for a transaction in JSON on its input.
const TRANSACTION_ARGS: &[&str] = &["-j", "-f", "-"];
/// Its first arguments for a listing: numbers of protocols, not their names in a file.
const LISTING_ARGS: [&str; 3] = ["-j", "-p", "list"];
/// The time limit of one run of `nft`, which usually takes milliseconds.
const RUN_TIMEOUT: Duration = Duration::from_secs(5);

/// The kind of interface, which decides at which hook each direction is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// A tap receives what the guest sends (ingress), and sends what the guest receives (egress,
    /// from Linux 5.16).
    Tap,
    /// A macvtap sends what the guest sends (egress, from Linux 5.16), and receives what the guest
    /// receives (ingress).
    Macvtap,
}

/// The filter of one interface of a guest: a table of nftables, `netdev taptrail_if<N>`.
///
/// The kernel removes a frame's VLAN tag before a tap's rules see what the guest sent, but not
/// before a macvtap's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceFilter {
    /// The interface's ifindex, which names the table.
    pub ifindex: u32,
    /// The interface's name.
    pub ifname: IfName,
    /// The kind of interface.
    pub attachment: Attachment,
    /// What passes.
    pub rules: Arc<Rules>,
}

/// The `nft` program. It acts in the network namespace of the thread that calls.
#[derive(Debug, Clone)]
pub struct Nft {
    path: PathBuf,
    timeout: Duration,
    turns: Option<Arc<NftTurns>>,
}

impl Nft {
    /// Finds the program at its usual paths; `PATH` is not used.
    ///
    /// # Errors
    ///
    /// [`FilterError::NoProgram`] if it is at none of them.
    pub fn discover() -> Result<Self, FilterError> {
        NFT_PATHS
            .iter()
            .map(Path::new)
            .find(|path| path.is_file())
            .map(Self::at)
            .ok_or(FilterError::NoProgram { places: &NFT_PATHS })
    }

    /// The program at this path, which should be absolute.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), timeout: RUN_TIMEOUT, turns: None }
    }

    /// Sets the time limit of one run of the program; the default is 5 s.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Waits for its turn before each set, check and removal, half a minute at most: many runs at once
    /// hinder each other. The time limit of a run begins after that.
    #[must_use]
    pub fn with_turns(self, turns: Arc<NftTurns>) -> Self {
        Self { turns: Some(turns), ..self }
    }

    fn turn(&self) -> Turn<'_> {
        self.turns.as_ref().map_or_else(Turn::free, |turns| turns.wait())
    }

    /// The program's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets a filter in one transaction, replacing any that the interface has, and reads it back.
    ///
    /// A filter stays when its interface vanishes, and since Linux 6.16 applies to the next one
    /// with that name, so [`Nft::remove`] is required.
    ///
    /// Returns the [`generation`] at which it was read back, if the kernel reports one.
    ///
    /// # Errors
    ///
    /// The filter can't be set, or differs when read back. It is removed then;
    /// [`FilterError::TableLeft`] if that fails, too.
    pub fn apply(&self, filter: &InterfaceFilter) -> Result<Option<u32>, FilterError> {
        ruleset::check(filter)?;
        let _turn = self.turn();
        let set = match program::run(self, TRANSACTION_ARGS, &ruleset::creation(filter)) {
            // A replacement costs an RCU grace period, some 10 ms: only if there is a table to
            // replace.
            Err(FilterError::Refused { .. }) => {
                program::run(self, TRANSACTION_ARGS, &ruleset::replacement(filter))
            }
            set => set,
        };
        // The program never ran: there is nothing to remove, and no program to do it.
        if let Err(cause @ FilterError::Start { .. }) = set {
            return Err(cause);
        }
        // Before it is read back: later changes have another number.
        let at = generation();
        let Err(cause) = set.and_then(|_| self.compare(filter)) else { return Ok(at) };
        match self.delete(filter.ifindex) {
            Ok(()) => Err(cause),
            Err(removal) => Err(FilterError::TableLeft {
                table: ruleset::table_name(filter.ifindex),
                removal: Box::new(removal),
                source: Box::new(cause),
            }),
        }
    }

    /// Sets a filter in one transaction in place of the one that the interface has, and reads it
    /// back.
    /// At no time is there none: the kernel hooks the new table before it unhooks the old one.
    ///
    /// Returns the [`generation`] at which it was read back, if the kernel reports one.
    ///
    /// # Errors
    ///
    /// The filter can't be set, and the old one is there still; or it differs when read back. What
    /// is there then is not removed: [`Nft::verify`] tells.
    pub fn replace(&self, filter: &InterfaceFilter) -> Result<Option<u32>, FilterError> {
        ruleset::check(filter)?;
        let _turn = self.turn();
        program::run(self, TRANSACTION_ARGS, &ruleset::replacement(filter))?;
        // Before it is read back: later changes have another number.
        let at = generation();
        self.compare(filter).map(|()| at)
    }

    /// Checks that a filter is in force: its table is exactly as set, and its chains are hooked to
    /// its interface, by the name that this has now. Since Linux 6.16 a chain is hooked to a name,
    /// and loses an interface that is renamed.
    ///
    /// # Errors
    ///
    /// The filter is not in force, or that can't be checked.
    pub fn verify(&self, filter: &InterfaceFilter) -> Result<(), FilterError> {
        let _turn = self.turn();
        self.compare(filter)
    }

    fn compare(&self, filter: &InterfaceFilter) -> Result<(), FilterError> {
        let table = ruleset::table_name(filter.ifindex);
        let listing = {
            let [json, numeric, list] = LISTING_ARGS;
            program::run(self, &[json, numeric, list, "table", "netdev", &table], &[])?
        };
        ruleset::compare(filter, &listing)?;
        let hooks = filter_hooks().map_err(FilterError::Hooks)?;
        ruleset::check_hook(filter, hooks.get(&filter.ifindex))?;
        // Since Linux 6.16 the kernel accepts a chain for a device that does not exist, and hooks
        // it when one of that name appears.
        match Links::open()?.find(&filter.ifname)? {
            Some(link) if link.index == filter.ifindex => Ok(()),
            _ => {
                let (ifname, ifindex) = (filter.ifname.to_string(), filter.ifindex);
                Err(FilterError::NoInterface { ifname, ifindex })
            }
        }
    }

    /// Removes an interface's filter, if there is one.
    ///
    /// # Errors
    ///
    /// nft can't be run, or fails.
    pub fn remove(&self, ifindex: u32) -> Result<(), FilterError> {
        let _turn = self.turn();
        self.delete(ifindex)
    }

    fn delete(&self, ifindex: u32) -> Result<(), FilterError> {
        program::run(self, TRANSACTION_ARGS, &ruleset::removal(ifindex)).map(drop)
    }
}
