//! Every way in which a real kernel logs a record, or doesn't.
//!
//! Auditing is one switch for the whole machine. Tests that turn it on run only with `CI=true` or
//! `TAPTRAIL_TEST_AUDIT=1`; all of them take turns and put everything back.

#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod broadcast;
mod machine;
mod refusals;
mod success;

/// A text that no other record has.
fn text(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("op=test what=\"{what}\" vm=\"it's\" n={number} t={time} res=success")
}
