//! The environment that a guest's QEMU starts with: of ours, only a few harmless variables such as
//! locale and time zone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The variables that QEMU always inherits, besides all of `LC_*`.
const INHERITED_VARIABLES: [&str; 7] = ["HOME", "LANG", "LANGUAGE", "PATH", "TERM", "TMPDIR", "TZ"];

/// A requested variable can't be passed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// It has no name.
    #[error("Variable '{0}' has no name: write NAME or NAME=VALUE")]
    Name(String),
    /// It is to be inherited, and is not set.
    #[error("Variable {0} is not set here: set it, or write {0}=VALUE")]
    Unset(String),
}

/// QEMU's environment: the inherited part of `own`, then each of `asked`: `NAME` (inherited) or
/// `NAME=VALUE`.
///
/// # Errors
/// See [`EnvironmentError`].
pub fn environment(
    own: impl IntoIterator<Item = (OsString, OsString)>,
    asked: &[OsString],
) -> Result<Vec<(OsString, OsString)>, EnvironmentError> {
    let own: Vec<_> = own.into_iter().collect();
    let passed = |name: &OsStr| {
        name.as_bytes().starts_with(b"LC_") || INHERITED_VARIABLES.iter().any(|known| name == *known)
    };
    let mut given: Vec<_> = own.iter().filter(|(name, _)| passed(name)).cloned().collect();
    for word in asked {
        let bytes = word.as_bytes();
        let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsString::from_vec(bytes[at + 1..].to_vec()))),
            None => (bytes, None),
        };
        let shown = || String::from_utf8_lossy(name).into_owned();
        if name.is_empty() {
            return Err(EnvironmentError::Name(word.to_string_lossy().into_owned()));
        }
        let name = OsStr::from_bytes(name);
        let value = value
            .or_else(|| own.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
            .ok_or_else(|| EnvironmentError::Unset(shown()))?;
        given.retain(|(known, _)| known != name);
        given.push((name.to_owned(), value));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(asked: &[&str]) -> Result<Vec<String>, EnvironmentError> {
        let own =
            [("PATH", "/bin"), ("LC_TIME", "C"), ("LD_PRELOAD", "x.so"), ("SECRET", "s"), ("DISPLAY", ":0")];
        let own = own.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let asked: Vec<OsString> = asked.iter().map(OsString::from).collect();
        let shown = |(name, value): (OsString, OsString)| format!("{}={}", name.display(), value.display());
        Ok(environment(own, &asked)?.into_iter().map(shown).collect())
    }

    // Shows 5.23.
    #[test]
    fn of_ours_only_language_time_and_place_are_passed() {
        assert_eq!(with(&[]).unwrap(), ["PATH=/bin", "LC_TIME=C"]);
    }

    #[test]
    fn what_is_asked_for_is_passed_or_set() {
        let words = ["DISPLAY", "QEMU_AUDIO_DRV=none", "PATH=", "A=b=c"];
        assert_eq!(
            with(&words).unwrap(),
            ["LC_TIME=C", "DISPLAY=:0", "QEMU_AUDIO_DRV=none", "PATH=", "A=b=c"]
        );
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        assert_eq!(with(&["XAUTHORITY"]), Err(EnvironmentError::Unset("XAUTHORITY".to_owned())));
        assert_eq!(with(&["=x"]), Err(EnvironmentError::Name("=x".to_owned())));
    }
}
