//! One guest: start, attach, detach, stop, and the multi-part audit of each.
//!
//! [`supervise`] is the parent of one QEMU: it opens the raw network devices of the guest's
//! interfaces, enters each open in the books, hands the descriptors over, proves with kcmp(2) that
//! QEMU has them, and serves a varlink API ([`api`]) by which clients ([`Client`]) ask for more.
//!
//! - [`spec`], [`xml`]: what an interface may be asked to be.
//! - [`file`]: what a guest may be asked to be, in a file.
//! - [`qemu`]: the user's command line, checked, and what is added to it.
//! - `account`: the two books, the kernel's audit and the ledger.
//! - `interface`: from a SPEC to open, configured, filtered devices, and back.
//! - `environment`: what of our environment QEMU gets.
//! - `open_files`: what the kernel tells of their last closes, where it is asked.
//! - `handover`: what QEMU holds, and what shows that it has given something up.
//! - `host_link`: the host's link behind an interface, and by what it is known again.
//! - `driver`: the state machine, the only thing that acts on the guest.
//! - `recovery`: what an ended supervisor left behind.
//! - `unrecorded`: who runs and is on no record.
//! - `unresponsive`: what can be done of one that does not answer.
//! - `request`, `server`, `service`, `callers`, `socket`, [`api`], `client`: how others ask it to.
//! - `events`, `monitor`: what happens, told to who listens.
//!
//! This room parses no audit record and draws no conclusion from one: that is `trail`'s.

#![forbid(unsafe_code)]

/// A place at which a test has the supervisor end as by SIGKILL: nothing is cleaned up, nothing said.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}

mod account;
pub mod api;
mod callers;
mod client;
mod driver;
mod duration;
mod environment;
mod events;
pub mod file;
mod handover;
mod host;
mod host_link;
mod interface;
mod marked;
mod monitor;
mod open_files;
mod process;
pub mod qemu;
mod recovery;
mod request;
mod run_dir;
mod server;
mod service;
mod service_manager;
mod socket;
pub mod spec;
mod stray;
mod supervisor;
mod unrecorded;
mod unresponsive;
pub mod xml;

pub use account::{AccountError, AuditMode};
pub use callers::{CallerError, caller};
pub use client::{Client, ClientError, statuses};
pub use driver::{AdoptError, AdoptOptions, Ended, Options, StartError};
pub use duration::{DurationError, duration};
pub use environment::{EnvironmentError, environment};
pub use host::LeftOverError;
pub use interface::OpenError;
pub use marked::MarkedError;
pub use recovery::{
    RecoverError, RecoverOptions, Recovered, RecoveredState, Unsupervised, recover, unsupervised,
};
pub use run_dir::{Dirs, NOFOLLOW, RunDirError, api_socket, check_name, guests, log_file};
pub use service_manager::ServiceManager;
pub use stray::{Stray, StrayState, strays};
pub use supervisor::{Observer, Running, SuperviseError, adopt, supervise};
pub use unrecorded::{Unrecorded, UnrecordedError, kill_unrecorded, unrecorded};
pub use unresponsive::{
    CutLink, KilledQemu, Supervised, UnresponsiveError, cut_link, host_interface, kill_qemu, supervised,
};

/// An error and its sources on one line, whatever the names in it are.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    taptrail_record::visible(&text).into_owned()
}

/// `1 descriptor`, `2 descriptors`.
pub fn descriptors(count: usize) -> String {
    format!("{count} descriptor{}", if count == 1 { "" } else { "s" })
}
