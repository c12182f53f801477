//! The end of the output of the virtual machine's console and of QEMU, shown after a failure.

use std::collections::VecDeque;

/// The size of the output that is kept, in bytes: some screens of text.
const KEPT: usize = 16 * 1024;

/// The number of lines that are shown.
const LINES: usize = 30;

#[derive(Debug, Default)]
pub(super) struct Console {
    kept: VecDeque<u8>,
}

impl Console {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let surplus = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..surplus);
    }

    /// The last lines, each indented; no control characters but for the line's end.
    pub(super) fn end(&self) -> String {
        let bytes: Vec<u8> = self.kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.chars().filter(|char| !char.is_control()).collect::<String>())
            .filter(|line| !line.trim().is_empty())
            .collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        if last.is_empty() {
            return "  (nothing)\n".to_owned();
        }
        last.iter().map(|line| format!("  {line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_shown_and_the_beginning_forgotten() {
        let mut console = Console::default();
        for number in 0..100_000 {
            console.push(format!("line {number}\r\n").as_bytes());
        }
        assert!(console.kept.len() <= KEPT);
        let end = console.end();
        assert_eq!(end.lines().count(), LINES);
        assert!(end.ends_with("  line 99998\n  line 99999\n"), "{end}");
    }

    #[test]
    fn no_control_character_reaches_the_terminal() {
        let mut console = Console::default();
        console.push(b"\x1b[2J\x07panic\xff\r\n\r\n");
        assert_eq!(console.end(), "  [2Jpanic\u{fffd}\n");
        assert_eq!(Console::default().end(), "  (nothing)\n");
    }
}
