//! A text that is refused: what is wrong with it, where, and how that is shown.
//!
//! The texts are guest files and libvirt's XML; a SPEC, which has no lines, has
//! [`SpecError`](crate::spec::SpecError). This module knows no format.

pub(crate) mod pointer;

use std::error::Error;
use std::fmt;
use std::ops::Range;

use self::pointer::{Pointer, characters_before, printable};

/// A problem, and where in some text it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault<P> {
    pub(crate) span: Range<usize>,
    pub(crate) problem: Box<P>,
    /// The other place, if two contradict each other.
    pub(crate) beside: Option<Range<usize>>,
    pub(crate) help: Option<String>,
}

impl<P> Fault<P> {
    pub(crate) fn new(span: Range<usize>, problem: impl Into<P>) -> Self {
        Self { span, problem: Box::new(problem.into()), beside: None, help: None }
    }

    pub(crate) fn beside(self, beside: Range<usize>) -> Self {
        Self { beside: Some(beside), ..self }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// A text that is refused: one line by `Display`, with the text by [`TextError::render`].
#[derive(Debug)]
pub struct TextError<P> {
    /// The file's name as it was given.
    pub file: String,
    /// The line of the problem, counted from 1.
    pub line: usize,
    /// The column of the problem, counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub problem: Box<P>,
    /// What to write instead.
    pub help: Option<String>,
    picture: Box<Picture>,
}

/// The data of [`TextError::render`].
#[derive(Debug)]
struct Picture {
    text: String,
    span: Range<usize>,
    beside: Option<Range<usize>>,
}

impl<P: Error> TextError<P> {
    pub(crate) fn new(file: &str, text: &str, fault: Fault<P>) -> Self {
        let Fault { span, problem, beside, help } = fault;
        let before = &text[..text.floor_char_boundary(span.start)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: characters_before(&before[line_start..], before.len()) + 1,
            problem,
            help,
            picture: Box::new(Picture { text: text.to_owned(), span, beside }),
        }
    }

    /// The problem and the file's lines with a pointer into them; coloured for a terminal.
    pub fn render(&self, color: bool) -> String {
        Pointer {
            title: &printable(&self.problem.to_string()),
            origin: Some(&self.file),
            text: &self.picture.text,
            span: self.picture.span.clone(),
            label: self.problem.source().map(ToString::to_string).as_deref(),
            beside: self.picture.beside.clone(),
            help: self.help.as_deref(),
        }
        .render(color)
    }
}

impl<P: fmt::Display> fmt::Display for TextError<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = printable(&self.problem.to_string());
        write!(f, "{}:{}:{}: {problem}", printable(&self.file), self.line, self.column)?;
        match &self.help {
            Some(help) => write!(f, "; {}", printable(help)),
            None => Ok(()),
        }
    }
}

impl<P: Error> Error for TextError<P> {
    /// The problem's own source, such as a parser's error: the problem itself is shown already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}
