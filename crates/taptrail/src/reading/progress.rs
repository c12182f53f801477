//! How far reading has come, on standard error.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use taptrail_report::escape_text;

/// How long reading takes before its progress is shown.
const SHOW_AFTER: Duration = Duration::from_secs(2);

/// The time between two updates.
const UPDATE_EVERY: Duration = Duration::from_millis(100);

/// The progress of reading, on standard error if that is a terminal, once reading takes long.
/// Cleared on drop.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    /// When it is shown next.
    next: Instant,
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Default for Progress {
    fn default() -> Self {
        let begun = Instant::now();
        Self { begun, next: begun + SHOW_AFTER, bar: None, terminal: io::stderr().is_terminal() }
    }
}

impl Progress {
    /// Shows that of logs, if it is time to.
    pub(super) fn show(&mut self, of: taptrail_source::Progress<'_>) {
        self.update(of.bytes, of.total, |elapsed| message(of.lines, elapsed, of.input));
    }

    /// Shows how many bytes were read, if it is time to. `total`: of how many; 0 if that is not known.
    /// The message is made of the time since it began.
    pub(crate) fn update(&mut self, bytes: u64, total: u64, message: impl FnOnce(Duration) -> String) {
        if !self.terminal {
            return;
        }
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + UPDATE_EVERY;
        let bar = self.bar.get_or_insert_with(|| {
            let (bar, template) = match total {
                0 => (ProgressBar::new_spinner(), "{bytes} read, {wide_msg}"),
                total => {
                    (ProgressBar::new(total), "{bar:20} {bytes} of {total_bytes}, {eta} left, {wide_msg}")
                }
            };
            bar.with_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        // Inputs are opened one by one, so the total may grow.
        if total > 0 {
            bar.set_length(total);
        }
        bar.set_message(message(now.duration_since(self.begun)));
        bar.set_position(bytes);
    }
}

/// Lines for each second, and the input.
fn message(lines: u64, elapsed: Duration, input: &str) -> String {
    let rate = u128::from(lines) * 1000 / elapsed.as_millis().max(1);
    let rate = HumanCount(u64::try_from(rate).unwrap_or(u64::MAX));
    format!("{rate} lines/s, {}", escape_text(input))
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_rate_and_the_input_safe_for_a_terminal() {
        let second = Duration::from_secs(1);
        assert_eq!(message(1_234_567, second, "audit.log.3"), "1,234,567 lines/s, audit.log.3");
        assert_eq!(message(10, 4 * second, "a\x1b[2Jb"), "2 lines/s, a\\u{1b}[2Jb");
        assert_eq!(message(0, Duration::ZERO, ""), "0 lines/s, ");
        assert_eq!(message(u64::MAX, Duration::ZERO, "-"), "18,446,744,073,709,551,615 lines/s, -");
    }
}
