//! Figures as a Markdown table.

use std::io::{self, Write};

use anyhow::{Context, Result};

/// A number with at most this many digits behind the point.
pub(super) fn rounded(number: f64, digits: i32) -> String {
    let unit = 10_f64.powi(digits);
    ((number * unit).round() / unit).to_string()
}

/// The median, the least and the most of some times, and how many there are.
pub(super) fn spread(times: &[f64], digits: i32) -> [String; 4] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).map_or_else(String::new, |time| rounded(*time, digits));
    [at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1)), sorted.len().to_string()]
}

/// Prints a row of a table.
pub(super) fn row<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) -> Result<()> {
    let mut line = String::from("|");
    for cell in cells {
        line.extend([" ", cell.as_ref(), " |"]);
    }
    print(&line)
}

/// Prints the first two lines of a table.
pub(super) fn head(names: &[&str]) -> Result<()> {
    row(names)?;
    print(&format!("|{}", "---|".repeat(names.len())))
}

/// Prints a table of times, with a row for each name.
pub(super) fn of_times<'a>(
    names: &[&str],
    times: impl IntoIterator<Item = (String, &'a [f64])>,
    digits: i32,
) -> Result<()> {
    head(names)?;
    for (name, times) in times {
        row([name].into_iter().chain(spread(times, digits)).take(names.len()))?;
    }
    Ok(())
}

pub(super) fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("Can't write the table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_and_have_no_zeros_at_their_end() {
        assert_eq!(rounded(5.04, 1), "5");
        assert_eq!(rounded(5.05, 1), "5.1");
        assert_eq!(rounded(12.345, 2), "12.35");
        assert_eq!(rounded(0.0, 2), "0");
    }

    #[test]
    fn a_spread_is_of_sorted_times() {
        assert_eq!(spread(&[10.0, 9.0, 1.24], 1), ["9", "1.2", "10", "3"]);
        assert_eq!(spread(&[2.0, 1.0], 1), ["2", "1", "2", "2"]);
        assert_eq!(spread(&[], 1), ["", "", "", "0"]);
    }
}
