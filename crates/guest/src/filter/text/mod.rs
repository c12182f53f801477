//! Filters in a text: our TOML, or libvirt's `<filter>` XML.
//!
//! Both readers hand words with their places to [`Builder`], so that one set of rules holds for
//! both, and an error points at its place.

mod builder;
mod toml;
mod xml;

use std::ops::Range;

use self::builder::Builder;
use super::definition::Definition;
use super::error::FilterProblem;
use crate::spec::either;
use crate::text_error::{self, TextError};

/// The longest text, in bytes.
pub const FILTER_TEXT_LIMIT: usize = 1 << 20;

/// How many filters a text can have.
const MAX_DEFINITIONS: usize = 256;
/// How many rules, and how many references, a filter can have.
const MAX_ENTRIES: usize = 1000;

/// A text with filters that is refused.
pub type FilterTextError = TextError<FilterTextProblem>;

type Fault = text_error::Fault<FilterTextProblem>;

/// A filter, and the place of its name.
type Named = (Definition, Range<usize>);

/// A word and its place.
type Word<'t> = (&'t str, Range<usize>);

/// What is wrong with a text that has filters.
#[derive(Debug, thiserror::Error)]
pub enum FilterTextProblem {
    /// Longer than [`FILTER_TEXT_LIMIT`].
    #[error("The file is longer than {FILTER_TEXT_LIMIT} bytes")]
    TooLong,
    /// Neither XML nor TOML.
    #[error("The file is no valid {format}")]
    Malformed {
        /// The format.
        format: &'static str,
        /// The parser's reason.
        #[source]
        source: MalformedText,
    },
    /// Another document.
    #[error("The root element is <{0}>, not <filter>")]
    Root(String),
    /// Something with no meaning here.
    #[error("{what} '{name}' is not supported {place}")]
    Unknown {
        /// What it is: a key, an element, an attribute.
        what: &'static str,
        /// Its name, shortened.
        name: String,
        /// Where it stands.
        place: String,
    },
    /// Something that is needed.
    #[error("'{0}' is missing")]
    Missing(&'static str),
    /// Something that is there twice.
    #[error("'{0}' is given twice")]
    Repeated(String),
    /// A value of another kind.
    #[error("'{name}' needs {needed}")]
    Kind {
        /// The key.
        name: String,
        /// What it takes.
        needed: &'static str,
    },
    /// Not one of a few words.
    #[error("'{text}' can't be '{name}': {} is needed", either(choices))]
    Choice {
        /// The key.
        name: &'static str,
        /// The value, shortened.
        text: String,
        /// What it takes.
        choices: Vec<&'static str>,
    },
    /// Not a priority.
    #[error("'{0}' can't be a priority: a number from -1000 to 1000 is needed")]
    Priority(String),
    /// Not a name.
    #[error("'{0}' can't be a name: letters, digits, '-', '_' and '.' are taken, 64 at most")]
    Name(String),
    /// Not a chain.
    #[error(
        "'{0}' can't be a chain: 'root' is needed, or one that begins with stp, mac, vlan, ipv4, ipv6, arp or rarp"
    )]
    Chain(String),
    /// Not a variable.
    #[error("'{0}' can't be a variable: $NAME, $NAME[INDEX] or $NAME[@ITERATOR] is needed")]
    Variable(String),
    /// An attribute that can't be used.
    #[error("'{name}' can't be used: {reason}")]
    Attribute {
        /// The attribute.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A value that the attribute does not take.
    #[error(transparent)]
    Value(FilterProblem),
    /// Two filters of one name.
    #[error("Filter '{0}' is defined already, here, in another file or by taptrail itself")]
    Defined(String),
    /// Too many.
    #[error("There are more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are possible.
        limit: usize,
    },
}

/// The reason of a parser.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MalformedText(String);

/// Reads a file's text, in whichever of the formats it is. `file` is its name in messages,
/// `is_taken` whether another filter has a name.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub(crate) fn read(
    file: &str,
    text: &str,
    is_taken: impl Fn(&str) -> bool,
) -> Result<Vec<Definition>, FilterTextError> {
    let read = || {
        if text.len() > FILTER_TEXT_LIMIT {
            return Err(Fault::new(0..0, FilterTextProblem::TooLong));
        }
        let is_xml = text.trim_start_matches('\u{feff}').trim_start().starts_with('<');
        let named = if is_xml { xml::read(text)? } else { toml::read(text)? };
        for (at, (definition, span)) in named.iter().enumerate() {
            let name = &definition.name;
            if is_taken(name) || named[..at].iter().any(|(other, _)| other.name == *name) {
                return Err(Fault::new(span.clone(), FilterTextProblem::Defined(name.clone())));
            }
        }
        Ok(named.into_iter().map(|(definition, _)| definition).collect())
    };
    read().map_err(|fault| FilterTextError::new(file, text, fault))
}
