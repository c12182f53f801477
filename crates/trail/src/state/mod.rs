//! The state machine: hosts, their guests, and the interfaces and devices of each guest.

pub(crate) mod bridge_taps;
pub(crate) mod foreign;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod ingest;
pub(crate) mod instances;
pub(crate) mod interface;
pub(crate) mod interfaces;
pub(crate) mod kernel_opens;
pub(crate) mod lifecycle;
pub(crate) mod mac_index;
pub(crate) mod open_holding;
pub(crate) mod operation;
pub(crate) mod process_records;
pub(crate) mod queues;
pub(crate) mod run;
pub(crate) mod serials;
pub(crate) mod watched;
