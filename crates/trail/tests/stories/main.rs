//! Each test feeds the records of one situation, and checks the holdings and findings.

#![allow(clippy::unwrap_used)]

mod audit_log;
mod beginnings;
mod bridge_taps;
mod daemons;
mod documents;
mod fixtures;
mod in_progress;
mod incidents;
mod kernel_opens;
mod libvirt_data;
mod libvirt_records;
mod log_builder;
mod other_entries;
mod own_records;
mod runs;
mod same_mac;
mod unrecorded_ends;
mod watched;
