use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How long reading takes before the bar is shown.
const SHOW_AFTER: Duration = Duration::from_millis(700);

/// A progress bar on standard error, if that is a terminal, once reading takes long. Cleared on
/// drop.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), bar: None, terminal: io::stderr().is_terminal() }
    }
}

impl Progress {
    /// Shows the bytes read, of the total; 0 if that is not known.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if !self.terminal || self.bar.is_none() && self.begun.elapsed() < SHOW_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let (bar, template) = match total {
                0 => (ProgressBar::new_spinner(), "{bytes} read, {bytes_per_sec}"),
                _ => (ProgressBar::new(total), "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}"),
            };
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
