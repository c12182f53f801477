//! The environment variables that are passed to the command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Passed by name. Not all of CARGO_ and RUST: `cargo xtask` sets some for xtask alone.
const NAMES: [&str; 17] = [
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_COLOR",
    "CI",
    "COLUMNS",
    "HOME",
    "LANG",
    "LOGNAME",
    "NO_COLOR",
    "PATH",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TERM",
    "TZ",
    "USER",
];

/// Variables with these prefixes are passed.
const BEGINNINGS: [&str; 5] = ["INSTA_", "LC_", "NEXTEST_", "PROPTEST_", "TAPTRAIL_"];

/// The variables for the command, as `NAME=VALUE`: some of the given ones, and those of the
/// options, as `NAME` or `NAME=VALUE`. Of two with one name, the later is used.
pub(super) fn chosen(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    asked: &[OsString],
) -> Vec<OsString> {
    let names = asked.iter().filter(|asked| !asked.as_bytes().contains(&b'='));
    let names: Vec<&OsStr> = names.map(OsString::as_os_str).chain(NAMES.map(OsStr::new)).collect();
    let passed = |name: &OsStr| {
        names.contains(&name) || BEGINNINGS.iter().any(|of| name.as_bytes().starts_with(of.as_bytes()))
    };
    let joined = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let set = asked.iter().filter(|asked| asked.as_bytes().contains(&b'=')).cloned();
    all.into_iter().filter(|(name, _)| passed(name)).map(joined).chain(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)], asked: &[&str]) -> Vec<OsString> {
        let all = all.iter().map(|(name, value)| (name.into(), value.into()));
        chosen(all, &asked.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_environment_of_xtask_and_secrets_stay_here() {
        let all =
            [("PATH", "/bin"), ("CARGO_PKG_NAME", "xtask"), ("TOKEN", "s"), ("TAPTRAIL_TEST_AUDIT", "1")];
        assert_eq!(of(&all, &[]), ["PATH=/bin", "TAPTRAIL_TEST_AUDIT=1"]);
    }

    #[test]
    fn what_is_asked_for_is_passed_or_set() {
        let all = [("EDITOR", "vi"), ("PATH", "/bin")];
        assert_eq!(of(&all, &["EDITOR", "PATH=/sbin=", "ABSENT"]), ["EDITOR=vi", "PATH=/bin", "PATH=/sbin="]);
    }
}
