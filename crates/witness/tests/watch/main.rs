//! A watcher beside a manager that acts as libvirt does: real devices in real QEMUs, and libvirt's
//! records of them, in its order. Needs root and qemu-system-x86_64.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic, its helpers too")]

mod hidden;
mod lab;
mod manager;
mod qemu;

mod bare;
mod bridges;
mod ends;
mod finds;
mod hides;
mod migrates;
mod plugs;
mod random;
mod restarts;
