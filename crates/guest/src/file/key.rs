use std::fmt;
use std::str::FromStr;

/// A key of a guest's file, in the order in which they are documented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is described with its field of Asked")]
pub enum FileKey {
    Name,
    Uuid,
    Command,
    Nics,
    User,
    PrivateDev,
    Devices,
    Env,
    Limits,
    Sandbox,
    HotplugPorts,
    Audit,
    Allow,
    RevokeUnfiltered,
    Bpf,
    Nft,
    StopTimeout,
}

impl FileKey {
    /// Every key, in the order of the documentation.
    pub const ALL: [Self; 17] = [
        Self::Name,
        Self::Uuid,
        Self::Command,
        Self::Nics,
        Self::User,
        Self::PrivateDev,
        Self::Devices,
        Self::Env,
        Self::Limits,
        Self::Sandbox,
        Self::HotplugPorts,
        Self::Audit,
        Self::Allow,
        Self::RevokeUnfiltered,
        Self::Bpf,
        Self::Nft,
        Self::StopTimeout,
    ];

    /// The key as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Uuid => "uuid",
            Self::Command => "command",
            Self::Nics => "nics",
            Self::User => "user",
            Self::PrivateDev => "private-dev",
            Self::Devices => "devices",
            Self::Env => "env",
            Self::Limits => "limits",
            Self::Sandbox => "sandbox",
            Self::HotplugPorts => "hotplug-ports",
            Self::Audit => "audit",
            Self::Allow => "allow",
            Self::RevokeUnfiltered => "revoke-unfiltered",
            Self::Bpf => "bpf",
            Self::Nft => "nft",
            Self::StopTimeout => "stop-timeout",
        }
    }
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for FileKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|key| key.as_str() == text).ok_or(())
    }
}
