use jiff::Timestamp;

/// When this system booted (`btime` in proc(5), `/proc/stat`).
pub(super) fn booted() -> Option<Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_system_booted_before_now() {
        assert!(booted().is_some_and(|time| time <= Timestamp::now()));
    }
}
