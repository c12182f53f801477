//! Devices, links and filters on the running kernel, each test in a new network namespace. Needs
//! root.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

mod filter;
mod frames;
mod lab;
mod link;
mod macvtap;
mod settings;
mod tap;
mod vhost;
