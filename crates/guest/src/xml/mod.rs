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

#[cfg(test)]
mod tests;

use roxmltree::{Document, ParsingOptions};

pub use self::error::{XmlError, XmlProblem};

use self::error::{Fault, malformed};
use crate::spec::NicSpec;

/// The longest text, in bytes.
pub const XML_LIMIT: usize = 64 * 1024;

/// Elements, comments and pieces of text; libvirt writes about twenty for an interface.
const NODES_LIMIT: u32 = 2048;

/// An `<interface>` that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromXml {
    /// The interface.
    pub nic: NicSpec,
    /// What of it is not as libvirt has it, or was not said.
    pub notes: Vec<&'static str>,
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
/// let read = taptrail_guest::xml::parse(text, "nic.xml")?;
/// assert_eq!(read.nic.to_string(), "bridge=br0,mtu=9000");
/// # Ok::<(), taptrail_guest::xml::XmlError>(())
/// ```
pub fn parse(text: &str, file: &str) -> Result<FromXml, XmlError> {
    if text.len() > XML_LIMIT {
        // Too much to show, too.
        let fault = Fault::new(0..0, XmlProblem::TooLong { limit: XML_LIMIT });
        return Err(XmlError::new(file, text.lines().next().map_or("", head), fault));
    }
    read(text).map_err(|fault| XmlError::new(file, text, fault))
}

fn head(line: &str) -> &str {
    &line[..line.floor_char_boundary(80)]
}

fn read(text: &str) -> Result<FromXml, Fault> {
    let options = ParsingOptions { allow_dtd: false, nodes_limit: NODES_LIMIT, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| malformed(text, error))?;
    interface::read(document.root_element())
}
