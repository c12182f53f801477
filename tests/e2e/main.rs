//! The end-to-end tests, one module a subject: see `tests/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod api;
mod archive;
mod auditing;
mod bpf;
mod bridge_helper;
mod cli_queries;
mod completions;
mod confinement;
mod doctor;
mod documented_commands;
mod documents;
mod failures;
mod findings;
mod foreign_logs;
mod guest_files;
mod guests;
mod hostile_qemu;
mod interference;
mod lake_keeping;
mod lake_queries;
mod lake_s3;
mod lake_sql;
mod ledger;
mod libvirt;
mod lifecycle;
mod links_and_filters;
mod linux_guest;
mod machine;
mod manual;
mod monitoring;
mod reading;
mod recovery;
mod report;
mod schemas;
mod serve;
mod soak;
mod spoilt_logs;
mod systemd;
mod top;
mod verify;
mod vhost;
mod watch;
mod who;
mod world;
