//! libvirt's `<interface>`, read as a [`NicSpec`].
//!
//! Users of libvirt have their interfaces as XML. Elements that taptrail supports are converted;
//! all others are refused by name, with line and column: an interface that silently lacks its
//! bandwidth limit or its boot order is worse than an error. `docs/nic-spec.md` lists both.
//!
//! ```text
//! text ── roxmltree ── Element (refuses what is not listed) ── interface ── spec::PartialSpec
//! ```
//!
//! Format: libvirt's `formatdomain`, "Network interfaces"; its `virDomainNetDefParseXML()`.

mod element;
mod error;
mod interface;
mod network;
mod settings;

#[cfg(test)]
mod tests;

use roxmltree::{Document, Node, ParsingOptions};

pub use self::error::{XmlError, XmlProblem};
pub use self::network::Networks;

use self::error::{Fault, malformed};
use crate::spec::NicSpec;

/// The longest text, in bytes.
pub const XML_LIMIT: usize = 1 << 20;

/// Elements, comments and pieces of text; libvirt writes about twenty for an interface, and some
/// hundreds for a domain.
const NODES_LIMIT: u32 = 64 * 1024;

/// An `<interface>` that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromXml {
    /// The interface.
    pub nic: NicSpec,
    /// What of it is not as libvirt has it, or was not said.
    pub notes: Vec<&'static str>,
}

/// The interfaces of a `<domain>`.
#[derive(Debug, Default)]
pub struct FromDomain {
    /// Those that taptrail opens, in their order.
    pub interfaces: Vec<FromXml>,
    /// The types of the others: QEMU gets them on its command line.
    pub left_out: Vec<String>,
}

/// Reads one `<interface>`. `file` is the text's name in messages.
///
/// # Errors
/// Text that is not XML or has a document type, another root element, anything that taptrail does
/// not support, and what a SPEC would be refused for.
///
/// # Example
/// ```
/// let text = "<interface type='bridge'><source bridge='br0'/><model type='virtio'/><mtu size='9000'/></interface>";
/// let networks = taptrail_guest::xml::Networks::default();
/// let read = taptrail_guest::xml::parse(text, "nic.xml", &networks)?;
/// assert_eq!(read.nic.to_string(), "bridge=br0,mtu=9000");
/// # Ok::<(), taptrail_guest::xml::XmlError>(())
/// ```
pub fn parse(text: &str, file: &str, networks: &Networks) -> Result<FromXml, XmlError> {
    let read = document(text, |root| interface::read(root, networks));
    read.map_err(|fault| XmlError::new(file, head(text), fault))
}

/// Reads the interfaces of a `<domain>`, as `virsh dumpxml` writes it.
///
/// # Errors
/// As those of [`parse`].
pub fn parse_domain(text: &str, file: &str, networks: &Networks) -> Result<FromDomain, XmlError> {
    let read = document(text, |root| interface::read_domain(root, networks));
    read.map_err(|fault| XmlError::new(file, head(text), fault))
}

/// A text as it is shown: of one that is too long, the beginning of its first line.
fn head(text: &str) -> &str {
    if text.len() <= XML_LIMIT {
        return text;
    }
    let line = text.lines().next().unwrap_or_default();
    &line[..line.floor_char_boundary(80)]
}

/// Parses a text, and reads its root element.
fn document<T>(text: &str, read: impl FnOnce(Node<'_, '_>) -> Result<T, Fault>) -> Result<T, Fault> {
    if text.len() > XML_LIMIT {
        return Err(Fault::new(0..0, XmlProblem::TooLong { limit: XML_LIMIT }));
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_LIMIT, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| malformed(text, error))?;
    read(document.root_element())
}
