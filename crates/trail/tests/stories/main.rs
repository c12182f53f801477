//! Trails told as stories: what the records say, and what is made of it.

#![allow(clippy::unwrap_used)]

mod libvirt_hotplug;
mod libvirt_records;
mod own_records;
mod telling;
