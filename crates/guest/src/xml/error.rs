use crate::spec::{self, Problem};
use crate::text_error::pointer::offset;
use crate::text_error::{self, TextError};

/// What is wrong with an `<interface>`.
#[derive(Debug, thiserror::Error)]
pub enum XmlProblem {
    /// Longer than [`XML_LIMIT`](super::XML_LIMIT).
    #[error("The file is longer than {limit} bytes")]
    TooLong {
        /// The most that is taken, in bytes.
        limit: usize,
    },
    /// The text is not XML.
    #[error("The file is not well-formed XML")]
    Malformed(#[source] roxmltree::Error),
    /// Another document altogether.
    #[error("The root element is <{0}>, not <interface>")]
    Root(String),
    /// An element with a namespace; libvirt uses none here.
    #[error("Element <{0}> is in an XML namespace")]
    Namespace(String),
    /// An element that taptrail can't act on.
    #[error("Element <{name}> is not supported in {parent}")]
    Element {
        /// The name of the element or attribute.
        name: String,
        /// The element around it.
        parent: String,
    },
    /// An element that is repeated.
    #[error("Element <{0}> is given twice")]
    RepeatedElement(String),
    /// A required element is missing.
    #[error("Element <{name}> is missing in {parent}")]
    NoElement {
        /// The name of the element or attribute.
        name: &'static str,
        /// The element that needs it.
        parent: String,
    },
    /// An attribute that taptrail can't act on.
    #[error("Attribute '{name}' is not supported in {element}")]
    Attribute {
        /// The name of the element or attribute.
        name: String,
        /// The element that has it, or needs it.
        element: String,
    },
    /// A required attribute is missing.
    #[error("Attribute '{name}' is missing in {element}")]
    NoAttribute {
        /// The name of the element or attribute.
        name: &'static str,
        /// The element that has it, or needs it.
        element: String,
    },
    /// What libvirt does by other programs of the host.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The element or attribute, and its value.
        what: String,
        /// Why.
        reason: &'static str,
    },
    /// An empty attribute.
    #[error("Attribute '{0}' is empty")]
    EmptyAttribute(String),
    /// A kind of interface that taptrail does not open.
    #[error("Interface type '{0}' is not supported")]
    Type(String),
    /// A network whose bridge or device is not known.
    #[error("Network '{0}' is not known here")]
    UnknownNetwork(String),
    /// A network whose interfaces taptrail can't open.
    #[error("Network '{name}' can't be used: {reason}")]
    Network {
        /// The network's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A port group that the network's definition lacks.
    #[error("Network '{network}' has no port group '{group}'")]
    NoPortGroup {
        /// The network's name.
        network: String,
        /// The port group.
        group: String,
    },
    /// Another document than a network's.
    #[error("The root element is <{0}>, not <network>")]
    NoNetwork(String),
    /// Another document than a domain's.
    #[error("The root element is <{0}>, not <domain>")]
    NoDomain(String),
    /// Not one of the values that the attribute takes.
    #[error("'{text}' can't be '{attribute}': {} is needed", spec::either(choices))]
    Choice {
        /// The name of the attribute.
        attribute: String,
        /// The value of the attribute, shortened.
        text: String,
        /// The values that the attribute takes.
        choices: Vec<&'static str>,
    },
    /// The resulting SPEC is invalid.
    #[error(transparent)]
    Nic(#[from] Problem),
}

/// An `<interface>` that is refused.
pub type XmlError = TextError<XmlProblem>;

pub(super) type Fault = text_error::Fault<XmlProblem>;

/// The fault of a text that the XML parser refuses.
pub(super) fn malformed(text: &str, error: roxmltree::Error) -> Fault {
    let position = error.pos();
    let at = offset(text, position.row, position.col);
    Fault::new(at..at, XmlProblem::Malformed(error))
}

impl From<spec::Fault> for Fault {
    fn from(fault: spec::Fault) -> Self {
        let spec::Fault { span, problem, beside, help } = fault;
        Self { span, problem: Box::new(XmlProblem::Nic(*problem)), beside, help }
    }
}
