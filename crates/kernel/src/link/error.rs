use rustix::io::Errno;

/// Why an operation on a link failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The rtnetlink socket itself failed.
    #[error("The kernel's rtnetlink socket failed to {action}")]
    Socket {
        /// The action that failed: `open`, `send`, `receive`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// There is no such link (any more).
    #[error("There is no link {link} to {operation}")]
    Missing {
        /// The link: its name in quotes, or `number N`.
        link: String,
        /// The operation, as in `set its MTU`.
        operation: &'static str,
    },
    /// The name asked for a new link is in use.
    #[error("A link named '{name}' exists already")]
    Exists {
        /// The name that was asked for.
        name: String,
    },
    /// A name pattern without room for a number, or too long with one.
    #[error("'{pattern}' can't name a link: up to 15 bytes, with a number for '%d', are needed")]
    Pattern {
        /// The pattern of a name that was asked for.
        pattern: String,
    },
    /// The kernel refused.
    #[error("The kernel refused to {operation} (link {link}{})", because(.reason))]
    Refused {
        /// The link: its name in quotes, or `number N`.
        link: String,
        /// The operation, as in `set its MTU`.
        operation: &'static str,
        /// The kernel's own words, where it has some (extended acknowledgement).
        reason: Option<String>,
        /// The error number.
        source: Errno,
    },
    /// A VLAN was requested for a port whose bridge does not filter VLANs.
    #[error(
        "Bridge '{bridge}' has no vlan_filtering, so VLAN {vid} would mean nothing on its port '{port}': \
         'ip link set {bridge} type bridge vlan_filtering 1' is needed"
    )]
    VlanFilteringOff {
        /// The name of the bridge.
        bridge: String,
        /// The name of the port.
        port: String,
        /// The VLAN asked for.
        vid: u16,
    },
    /// The running kernel has no VLANs on bridges at all.
    #[error(
        "This kernel has no vlan_filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING), so '{port}' can't be put in VLAN {vid}"
    )]
    NoVlanFiltering {
        /// The name of the port.
        port: String,
        /// The VLAN asked for.
        vid: u16,
    },
    /// A bridge port's setting was requested for a link that is not a bridge's port.
    #[error("Link '{link}' is not a bridge's port, so it can't be asked to {operation}")]
    NotAPort {
        /// The name of the link.
        link: String,
        /// What was to be done, as in `set its VLAN`.
        operation: &'static str,
    },
    /// A setting reads back otherwise than it was set.
    #[error("The kernel did not {operation} (link {link}): {found} reads back, not {wanted}")]
    Differs {
        /// The link: its name in quotes, or `number N`.
        link: String,
        /// The operation, as in `set its MTU`.
        operation: &'static str,
        /// What was set.
        wanted: String,
        /// What the kernel has.
        found: String,
    },
    /// A list can't be read as a whole.
    #[error("The kernel's list changed while it was read, {times} times in a row")]
    Changing {
        /// How often it was tried.
        times: u32,
    },
    /// The kernel's answer can't be read.
    #[error("The kernel's rtnetlink answer can't be read: {what}")]
    Answer {
        /// What is wrong with the answer.
        what: String,
    },
}

impl LinkError {
    /// Whether the link does not exist, which is a success for a removal.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// The kernel's error number, if there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Some(*source),
            Self::Socket { source, .. } => Errno::from_io_error(source),
            Self::Missing { .. } => Some(Errno::NODEV),
            Self::Exists { .. } => Some(Errno::EXIST),
            Self::NoVlanFiltering { .. } => Some(Errno::OPNOTSUPP),
            Self::Pattern { .. }
            | Self::VlanFilteringOff { .. }
            | Self::NotAPort { .. }
            | Self::Differs { .. }
            | Self::Changing { .. }
            | Self::Answer { .. } => None,
        }
    }
}

fn because(reason: &Option<String>) -> String {
    reason.as_ref().map(|text| format!(", {text}")).unwrap_or_default()
}
