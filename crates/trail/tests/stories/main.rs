//! Trails told as stories: what the records say, and what is made of it.

#![allow(clippy::unwrap_used)]

mod alike;
mod audit_log;
mod beginnings;
mod daemons;
mod documents;
mod ends;
mod kernel_opens;
mod libvirt_data;
mod libvirt_records;
mod oddities;
mod own_records;
mod scene;
mod telling;
mod under_way;
mod watched;
