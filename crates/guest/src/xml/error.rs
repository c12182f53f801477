use std::fmt;
use std::ops::Range;

use crate::spec::pointer::{Pointer, characters_before, printable};
use crate::spec::{self, Problem};

/// What is wrong with an `<interface>`.
#[derive(Debug, thiserror::Error)]
pub enum XmlProblem {
    /// Longer than [`XML_LIMIT`](super::XML_LIMIT).
    #[error("The file is longer than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: usize,
    },
    /// Not XML.
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
        /// Its name.
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
        /// Its name.
        name: &'static str,
        /// The element that needs it.
        parent: String,
    },
    /// An attribute that taptrail can't act on.
    #[error("Attribute '{name}' is not supported in {element}")]
    Attribute {
        /// Its name.
        name: String,
        /// Its element.
        element: String,
    },
    /// A required attribute is missing.
    #[error("Attribute '{name}' is missing in {element}")]
    NoAttribute {
        /// Its name.
        name: &'static str,
        /// Its element.
        element: String,
    },
    /// An empty attribute.
    #[error("Attribute '{0}' is empty")]
    EmptyAttribute(String),
    /// A kind of interface that taptrail does not open.
    #[error("Interface type '{0}' is not supported")]
    Type(String),
    /// Not one of the values that the attribute takes.
    #[error("'{text}' can't be '{attribute}': {} is needed", spec::either(choices))]
    Choice {
        /// Its name.
        attribute: String,
        /// Its value.
        text: String,
        /// The values that the attribute takes.
        choices: Vec<&'static str>,
    },
    /// A name of libvirt's own making, which libvirt too ignores where it reads one.
    #[error("'{0}' is a name that libvirt makes, and ignores on input")]
    GeneratedName(String),
    /// An alias that is neither the user's nor libvirt's for an interface.
    #[error("'{0}' can't be an alias: one that begins with 'ua-' is needed")]
    Alias(String),
    /// The resulting SPEC is invalid.
    #[error(transparent)]
    Nic(#[from] Problem),
}

/// A problem, and where in the text it is.
#[derive(Debug)]
pub(super) struct Fault {
    span: Range<usize>,
    problem: Box<XmlProblem>,
    beside: Option<Range<usize>>,
    help: Option<String>,
}

impl Fault {
    pub(super) fn new(span: Range<usize>, problem: XmlProblem) -> Self {
        Self { span, problem: Box::new(problem), beside: None, help: None }
    }

    pub(super) fn beside(self, beside: Range<usize>) -> Self {
        Self { beside: Some(beside), ..self }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(super) fn malformed(text: &str, error: roxmltree::Error) -> Self {
        let at = offset(text, error.pos());
        Self::new(at..at, XmlProblem::Malformed(error))
    }
}

impl From<spec::Fault> for Fault {
    fn from(fault: spec::Fault) -> Self {
        let spec::Fault { span, problem, beside, help } = fault;
        Self { span, problem: Box::new(XmlProblem::Nic(*problem)), beside, help }
    }
}

/// The byte at a line and column, both counted from 1, the column in characters.
fn offset(text: &str, position: roxmltree::TextPos) -> usize {
    let lines_before = (position.row as usize).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    let characters_before = (position.col as usize).saturating_sub(1);
    text[start..].char_indices().nth(characters_before).map_or(text.len(), |(at, _)| start + at)
}

/// An `<interface>` that is refused: one line by `Display`, with the text by [`XmlError::render`].
#[derive(Debug)]
pub struct XmlError {
    /// The file's name as it was given.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub problem: Box<XmlProblem>,
    /// What to write instead.
    pub help: Option<String>,
    place: Box<Picture>,
}

/// The data of [`XmlError::render`].
#[derive(Debug)]
struct Picture {
    text: String,
    span: Range<usize>,
    beside: Option<Range<usize>>,
}

impl XmlError {
    pub(super) fn new(file: &str, text: &str, fault: Fault) -> Self {
        let Fault { span, problem, beside, help } = fault;
        let before = &text[..text.floor_char_boundary(span.start)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: characters_before(&before[line_start..], before.len()) + 1,
            problem,
            help,
            place: Box::new(Picture { text: text.to_owned(), span, beside }),
        }
    }

    /// The problem and the file's lines with a pointer into them; coloured for a terminal.
    pub fn render(&self, color: bool) -> String {
        let label = match &*self.problem {
            XmlProblem::Malformed(error) => Some(error.to_string()),
            _ => None,
        };
        Pointer {
            title: &self.problem.to_string(),
            origin: Some(&self.file),
            text: &self.place.text,
            span: self.place.span.clone(),
            label: label.as_deref(),
            beside: self.place.beside.clone(),
            help: self.help.as_deref(),
        }
        .render(color)
    }
}

impl fmt::Display for XmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", printable(&self.file), self.line, self.column, self.problem)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for XmlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.problem {
            XmlProblem::Malformed(error) => Some(error),
            _ => None,
        }
    }
}
