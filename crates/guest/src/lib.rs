//! One guest: start, attach, detach, stop, and the audit records of each step.
//!
//! [`supervise`] is the parent of one QEMU: it opens the raw network devices of the guest's
//! interfaces, records each open, passes the descriptors to QEMU, verifies with kcmp(2) that QEMU
//! holds them, and serves a varlink API ([`api`]) for clients ([`Client`]).
//!
//! - [`spec`], [`xml`]: the configuration of an interface, as a SPEC or as libvirt's XML.
//! - [`mod@file`]: the configuration of a guest, in a file.
//! - [`filter`]: what a guest may send and receive: the filters of an interface.
//! - `text_error`: what is wrong with such a text, and where.
//! - [`qemu`]: checks the user's command line and adds taptrail's arguments to it.
//! - `account`: writes each record to the kernel's audit and to the ledger.
//! - `interface`: opens, configures and filters the devices of a SPEC, and undoes that.
//! - `environment`: which environment variables QEMU gets.
//! - `open_files`: the last closes that the kernel reports by BPF, with `--bpf`.
//! - `qemu_devices`: finds the devices that QEMU holds.
//! - `handover`: finds the evidence of a release.
//! - `host_link`: the host's link behind an interface, and how it is identified.
//! - [`learning`]: the addresses of an interface that its filter learns.
//! - `host_side`: what an interface sets on the host beside that link.
//! - `driver`: the state machine, the only thing that acts on the guest.
//! - `recovery`: closes the accounts of ended supervisors, and removes their links and filters.
//! - `unrecorded`: guests that run without an open account.
//! - `unresponsive`: what can be done without a supervisor that does not answer.
//! - `request`, `server`, `service`, `callers`, `socket`, [`api`], `client`: the API and its
//!   clients.
//! - `state`, `events`, `monitor`: what clients see of a guest, and the event stream.
//!
//! This crate draws no conclusions from audit records: the `trail` crate does.

#![forbid(unsafe_code)]

/// A point at which a test aborts the supervisor, as by SIGKILL: without clean-up and messages.
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
pub mod filter;
mod handover;
mod host;
mod host_link;
mod host_side;
mod interface;
pub mod learning;
mod live;
mod marked;
mod monitor;
mod open_files;
mod process;
pub mod qemu;
mod qemu_devices;
mod recovery;
mod request;
mod run_dir;
mod server;
mod service;
mod service_manager;
mod socket;
pub mod spec;
mod state;
mod stray;
mod supervisor;
mod text_error;
mod unrecorded;
mod unresponsive;
pub mod xml;

pub use account::{AccountError, AuditMode};
pub use callers::{CallerError, caller};
pub use client::{Client, ClientError, statuses};
pub use driver::{AdoptError, AdoptOptions, Ended, StartError, StartOptions, UnsharedMemory};
pub use duration::{DurationError, duration};
pub use environment::{EnvironmentError, environment};
pub use host::LeftOverError;
pub use host_link::read_mark;
pub use interface::OpenError;
pub use marked::MarkedError;
pub use recovery::{
    RecoverError, RecoverOptions, Recovered, RecoveredState, Unsupervised, recover, unsupervised,
};
pub use run_dir::{Dirs, NOFOLLOW, RunDirError, api_socket, check_name, guests, log_file};
pub use service_manager::ServiceManager;
pub use stray::{Stray, StrayState, strays};
pub use supervisor::{Observer, Running, SuperviseError, adopt, supervise};
pub use text_error::TextError;
pub use unrecorded::{Unrecorded, UnrecordedError, kill_unrecorded, unrecorded};
pub use unresponsive::{
    CutLink, KilledQemu, Supervised, UnresponsiveError, cut_link, host_interface, kill_qemu, supervised,
};

/// An error and its sources on one line, with control characters escaped.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors already have the text of their source.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    taptrail_record::visible(&text).into_owned()
}

/// `1 descriptor`, `2 descriptors`.
pub fn descriptors(count: usize) -> String {
    format!("{count} descriptor{}", if count == 1 { "" } else { "s" })
}
