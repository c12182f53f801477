//! Resource limits of a guest's program, setrlimit(2).

use std::str::FromStr;

use rustix::process::Resource;

/// One limit, both soft and hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub(super) resource: Resource,
    /// `None` is unlimited.
    pub(super) value: Option<u64>,
}

impl Limit {
    /// No core dump: a file would contain the guest's memory.
    pub(super) const NO_CORE: Self = Self { resource: Resource::Core, value: Some(0) };
}

const NAMES: [(&str, Resource); 4] = [
    ("core", Resource::Core),
    ("memlock", Resource::Memlock),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
];

/// The text is not a limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a limit: write core=N, memlock=N, nofile=N or nproc=N, where N may be 'unlimited'")]
pub struct LimitError(String);

/// Parses `nofile=4096`, `memlock=unlimited` and the like.
impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let limit = || {
            let (name, value) = text.split_once('=')?;
            let (_, resource) = NAMES.iter().find(|(known, _)| *known == name)?;
            let value = if value == "unlimited" { None } else { Some(value.parse().ok()?) };
            Some(Self { resource: *resource, value })
        };
        limit().ok_or_else(|| LimitError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_names_and_numbers() {
        let limit = |resource, value| Ok(Limit { resource, value });
        assert_eq!("nofile=4096".parse(), limit(Resource::Nofile, Some(4096)));
        assert_eq!("memlock=unlimited".parse(), limit(Resource::Memlock, None));
        for text in ["", "nofile", "nofile=", "nofile=-1", "nofile=1k", "files=1", "=1"] {
            assert_eq!(text.parse::<Limit>(), Err(LimitError(text.to_owned())));
        }
    }
}
