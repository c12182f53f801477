//! Devices, links and filters against the running kernel, each test in a network namespace of its
//! own. Root is needed.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

mod filter;
mod frames;
mod lab;
mod link;
mod macvtap;
mod tap;
mod vhost;
