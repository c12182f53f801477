//! SIGINT and SIGTERM, asked for between two steps: the values that go out of scope with an error
//! put back what was begun.
//!
//! The signals are not blocked, as `vm::signals` does: programs that are run would inherit that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

static CAME: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From here on these signals do not end the program by themselves.
pub(crate) fn catch() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&CAME)).context("Can't catch signals")?;
    }
    Ok(())
}

/// Fails once one of them came.
pub(crate) fn check() -> Result<()> {
    ensure!(!CAME.load(Ordering::Relaxed), "Interrupted");
    Ok(())
}

/// Sleeps, and fails when a signal comes meanwhile.
pub(crate) fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let rest = end.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(());
        }
        std::thread::sleep(rest.min(Duration::from_millis(50)));
    }
}
