use std::fmt;
use std::ops::Range;

use taptrail_record::{IfName, IfNameError, MacAddr, MacAddrError};

use super::{Key, NicId, NicIdError};
use crate::filter::FilterProblem;
use crate::qemu::model::{Model, ModelError};
use crate::text_error::pointer::{self, Pointer};

/// What is wrong with a SPEC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Longer than [`SPEC_LIMIT`](super::SPEC_LIMIT).
    #[error("The SPEC is longer than {limit} bytes")]
    TooLong {
        /// The most that is taken, in bytes.
        limit: usize,
    },
    /// The SPEC is empty.
    #[error("The SPEC is empty")]
    Empty,
    /// A line break, an escape or the like: it could forge what is shown and logged.
    #[error("Control characters are not allowed here")]
    ControlCharacter,
    /// A comma with nothing before or after it.
    #[error("A key=value pair is missing here")]
    NoPair,
    /// An unknown key.
    #[error("Key '{0}' is unknown")]
    UnknownKey(String),
    /// Each key may be given once.
    #[error("Key '{0}' is given twice")]
    RepeatedKey(Key),
    /// The key stands alone, or before a bare `=`.
    #[error("Key '{0}' has no value")]
    NoValue(Key),

    /// Not an Ethernet address.
    #[error(transparent)]
    Mac(#[from] MacAddrError),
    /// A multicast address.
    #[error("'{0}' is a multicast MAC address, which no interface can own")]
    GroupMac(MacAddr),
    /// The all-zero address.
    #[error("'00:00:00:00:00:00' is no interface's MAC address")]
    ZeroMac,
    /// Not an interface's name.
    #[error(transparent)]
    IfName(#[from] IfNameError),
    /// Not a NIC's model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Not an id for QEMU.
    #[error(transparent)]
    Id(#[from] NicIdError),
    /// Not a number, or out of its range.
    #[error("'{text}' can't be '{key}': a number from {min} to {max} is needed")]
    Number {
        /// The key whose value is wrong.
        key: Key,
        /// The value as it was given, shortened.
        text: String,
        /// The lowest that is taken.
        min: u32,
        /// The highest that is taken.
        max: u32,
    },
    /// Not one of the values that the key takes.
    #[error("'{text}' can't be '{key}': {} is needed", either(choices))]
    Choice {
        /// The key whose value is wrong.
        key: Key,
        /// The value as it was given, shortened.
        text: String,
        /// The values that the key takes.
        choices: Vec<&'static str>,
    },
    /// Not of the form that the key's value has.
    #[error("'{text}' can't be '{key}': {form} is needed")]
    Form {
        /// The key whose value is wrong.
        key: Key,
        /// The value as it was given, shortened.
        text: String,
        /// The form that is needed.
        form: &'static str,
    },
    /// A relative path of a device: its meaning would depend on the working directory.
    #[error("'{0}' is not an absolute path")]
    RelativePath(String),
    /// A device's path is too long.
    #[error("The path is longer than {} bytes", super::value::PATH_LIMIT)]
    LongPath,

    /// Neither bridge nor tap nor macvtap, new or not, nor vDPA or vhost-user.
    #[error("The interface has no backend")]
    NoBackend,
    /// More than one of bridge, tap, new-tap, macvtap, vdpa and vhostuser.
    #[error("The interface has two backends, '{0}' and '{1}'")]
    TwoBackends(Key, Key),
    /// The setting belongs to another backend.
    #[error("'{key}' has no meaning with '{backend}'")]
    WrongBackend {
        /// The key of the setting.
        key: Key,
        /// The key of the interface's backend.
        backend: Key,
    },
    /// The setting has a meaning together with another one only.
    #[error("'{key}' needs '{needed}'")]
    Needs {
        /// The key of the setting.
        key: Key,
        /// The key that is missing.
        needed: Key,
    },
    /// Open vSwitch does this itself, or takes the frames before it.
    #[error("'{0}' has no effect on a port of Open vSwitch")]
    NotWithOvs(Key),
    /// The interface would take its own bridge's or lower link's name.
    #[error("The interface can't be called '{0}' like the link it is created for")]
    NameOfBackend(IfName),
    /// The model has one queue.
    #[error("Model '{0}' has one queue only")]
    OneQueueModel(Model),
    /// A vDPA device or a vhost-user backend does virtio.
    #[error("Model '{model}' can't have a {}: it does virtio", backend_words(*backend))]
    NoVirtioModel {
        /// The model.
        model: Model,
        /// The key of the interface's backend.
        backend: Key,
    },
    /// The path of another device, or a link to it.
    #[error("'{0}' is no vDPA device: /dev/vhost-vdpa-N is needed")]
    VdpaNode(String),
    /// Two interfaces of one guest on one vDPA device.
    #[error("{0} is used by another interface of this guest")]
    VdpaInUse(super::VdpaNode),
    /// A relative path, or one that connect(2) does not take.
    #[error("'{0}' can't be a socket's path: an absolute one of up to 107 bytes is needed")]
    SocketPath(String),
    /// Two interfaces of one guest on one vhost-user backend.
    #[error("{0} is used by another interface of this guest")]
    SocketInUse(super::SocketPath),
    /// Only virtio can have its queues carried by the kernel.
    #[error("Model '{0}' can't use vhost-net")]
    NoVhostModel(Model),
    /// The model has no such property.
    #[error("Model '{model}' has no '{key}'")]
    NoProperty {
        /// The key of the property.
        key: Key,
        /// The model.
        model: Model,
    },
    /// A path for a device that is never opened.
    #[error("'{}' has no meaning where vhost is off", Key::VhostPath)]
    VhostPathUnused,

    /// Not a filter's name or path.
    #[error("'{0}' can't be a filter: a name or an absolute path is needed")]
    FilterName(String),
    /// A value for a filter's variable, without a filter.
    #[error("'{0}' has no meaning without a filter")]
    NoFilter(Key),
    /// Keys of the interface itself, where its filter alone is changed.
    #[error(
        "Only filters and their parameters can be changed: filter, ip, ipv6, dhcpserver, gateway-mac, ip-learning, filter-parameter; `taptrail update` changes other settings"
    )]
    NotAFilter,
    /// A key that can't be changed while the guest runs.
    #[error(
        "'{key}' can't be changed while the guest runs: {reason}; detach the interface, and attach it with the new value"
    )]
    NotWhileItRuns {
        /// The key.
        key: Key,
        /// Why not.
        reason: &'static str,
    },
    /// Filters that can't be used.
    #[error("{}", crate::chain(.0))]
    Filter(FilterProblem),

    /// Two interfaces of one guest with one address.
    #[error("MAC address '{0}' is used by another interface of this guest")]
    MacInUse(MacAddr),
    /// Two interfaces of one guest with one id.
    #[error("Id '{0}' is used by another interface of this guest")]
    IdInUse(NicId),
    /// A place on the root bus, and one in the channel subsystem.
    #[error("A NIC has one place: '{0}' or '{1}'")]
    TwoPlaces(Key, Key),
    /// Two interfaces of one guest in one place of its root bus or channel subsystem.
    #[error("This place is used by another interface of this guest")]
    PlaceInUse,
    /// Two interfaces of one guest on one link.
    #[error("Link '{0}' is used by another interface of this guest")]
    LinkInUse(IfName),
}

impl From<FilterProblem> for Problem {
    fn from(problem: FilterProblem) -> Self {
        Self::Filter(problem)
    }
}

pub(crate) type Fault = crate::text_error::Fault<Problem>;

/// A SPEC that is refused: one line by `Display`, with the text by [`SpecError::render`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The SPEC, or as much of it as is taken.
    pub spec: String,
    /// The place in it, in bytes.
    pub span: Range<usize>,
    /// Another place in it without which this one would be right.
    pub beside: Option<Range<usize>>,
    /// What is wrong.
    pub problem: Box<Problem>,
    /// What to write instead.
    pub help: Option<String>,
}

impl SpecError {
    pub(crate) fn new(spec: &str, fault: Fault) -> Self {
        let Fault { span, problem, beside, help } = fault;
        Self { spec: spec.to_owned(), span, beside, problem, help }
    }

    /// The problem and the SPEC with a pointer into it, on several lines; coloured for a terminal.
    pub fn render(&self, color: bool) -> String {
        Pointer {
            title: &self.problem.to_string(),
            origin: None,
            text: &self.spec,
            span: self.span.clone(),
            label: None,
            beside: self.beside.clone(),
            help: self.help.as_deref(),
        }
        .render(color)
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let character = pointer::characters_before(&self.spec, self.span.start) + 1;
        write!(f, "{}, at character {character} of SPEC '{}'", self.problem, quoted(&self.spec))?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SpecError {}

/// What a backend is that does virtio and nothing else.
fn backend_words(backend: Key) -> &'static str {
    if backend == Key::VhostUser { "vhost-user backend" } else { "vDPA device" }
}

/// Escapes and shortens text from outside for a message.
pub(crate) fn quoted(text: &str) -> String {
    const LIMIT: usize = 96;
    let mut line: String = text.chars().take(LIMIT).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    pointer::printable(&line)
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}
