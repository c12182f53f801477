//! QEMU's command line: what a user wrote is checked, what taptrail needs is added.
//!
//! ```text
//! words ── walk (options) ── each option's value (fields) ── check ──▶ CommandLine
//!                                   ▲                                      │ with(Additions)
//!                     -readconfig's file (config)                          ▼
//!                                                              QEMU's arguments (build)
//! ```
//!
//! The check is a guard against mistakes, not a fence against the user: a command line that would
//! have QEMU open a tap by itself is refused with the `--nic` to use instead. What QEMU really
//! holds is looked up when it runs.

mod build;
mod check;
mod config;
mod fields;
mod machine;
pub mod model;
mod nodes;
mod options;
mod suggest;

#[cfg(test)]
mod tests;

pub(crate) use build::MONITOR;
pub use build::{Additions, NicOnCommandLine, Ports, device_properties};
pub use check::{CommandLine, CommandLineError, RunOption};
pub use config::ConfigError;
pub use machine::{NoSuchBus, VirtioBus};
