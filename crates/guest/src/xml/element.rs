//! An element with a list of allowed attributes and children: all others are refused by name.

use std::ops::Range;

use roxmltree::{Attribute, Node};

use super::error::{Fault, XmlProblem};
use crate::spec::{closest, quoted};

/// An element of the document.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'d> {
    node: Node<'d, 'd>,
}

impl<'d> Element<'d> {
    /// # Errors
    /// The element is in a namespace.
    pub(super) fn new(node: Node<'d, 'd>) -> Result<Self, Fault> {
        let element = Self { node };
        match node.tag_name().namespace() {
            None => Ok(element),
            Some(_) => Err(Fault::new(element.span(), XmlProblem::Namespace(quoted(element.name())))),
        }
    }

    /// The name as it is written.
    pub(super) fn name(self) -> &'d str {
        &self.node.document().input_text()[self.name_span()]
    }

    /// `<mac>`; for the interface itself `<interface type='bridge'>`, since what it takes hangs on
    /// its type.
    pub(super) fn title(self) -> String {
        match self.node.attribute("type") {
            Some(kind) if self.name() == "interface" => {
                format!("<{} type='{}'>", quoted(self.name()), quoted(kind))
            }
            _ => format!("<{}>", quoted(self.name())),
        }
    }

    fn name_span(self) -> Range<usize> {
        let start = self.node.range().start + 1;
        let rest = &self.node.document().input_text()[start..];
        let length =
            rest.find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>')).unwrap_or(rest.len());
        start..start + length
    }

    /// `<name`: where to point for the element as a whole, which may run over many lines.
    pub(super) fn span(self) -> Range<usize> {
        self.node.range().start..self.name_span().end
    }

    /// Refuses every attribute and child element that is not listed, and children given twice.
    ///
    /// Text, comments and processing instructions say nothing to libvirt either.
    ///
    /// # Errors
    /// The first of them.
    pub(super) fn takes(self, attributes: &[&str], children: &[&str]) -> Result<(), Fault> {
        self.takes_repeated(attributes, children, &[])
    }

    /// As [`takes`](Self::takes), but these children may be given several times.
    pub(super) fn takes_repeated(
        self,
        attributes: &[&str],
        children: &[&str],
        repeated: &[&str],
    ) -> Result<(), Fault> {
        for attribute in self.node.attributes() {
            let name = &self.node.document().input_text()[attribute.range_qname()];
            if !attributes.contains(&name) {
                let problem = XmlProblem::Attribute { name: quoted(name), element: self.title() };
                return Err(did_you_mean(Fault::new(attribute.range(), problem), name, attributes));
            }
        }
        let mut seen: Vec<Self> = Vec::new();
        for node in self.node.children().filter(Node::is_element) {
            let child = Self::new(node)?;
            if repeated.contains(&child.name()) {
                continue;
            }
            if !children.contains(&child.name()) {
                return Err(self.refuse_child(child, &[children, repeated].concat()));
            }
            if let Some(earlier) = seen.iter().find(|earlier| earlier.name() == child.name()) {
                let problem = XmlProblem::RepeatedElement(child.name().to_owned());
                return Err(Fault::new(child.span(), problem).beside(earlier.span()));
            }
            seen.push(child);
        }
        Ok(())
    }

    fn refuse_child(self, child: Self, children: &[&str]) -> Fault {
        let name = child.name();
        let fault =
            Fault::new(child.span(), XmlProblem::Element { name: quoted(name), parent: self.title() });
        did_you_mean(fault, name, children)
    }

    /// The only child element of this name, if it is there.
    pub(super) fn child(self, name: &str) -> Option<Self> {
        self.node.children().find(|node| is_named(node, name)).map(|node| Self { node })
    }

    /// The child elements of this name.
    pub(super) fn children(self, name: &str) -> impl Iterator<Item = Self> {
        self.node.children().filter(move |node| is_named(node, name)).map(|node| Self { node })
    }

    /// The names of its child elements.
    pub(super) fn child_names(self) -> impl Iterator<Item = &'d str> {
        self.node.children().filter(Node::is_element).map(|node| node.tag_name().name())
    }

    /// The text in it.
    pub(super) fn text(self) -> &'d str {
        self.node.text().unwrap_or_default().trim()
    }

    /// An attribute with something in it, if it is there.
    ///
    /// # Errors
    /// It is empty.
    pub(super) fn attribute(self, name: &str) -> Result<Option<Attribute<'d, 'd>>, Fault> {
        match self.node.attribute_node(name) {
            Some(attribute) if attribute.value().is_empty() => {
                Err(Fault::new(attribute.range(), XmlProblem::EmptyAttribute(name.to_owned())))
            }
            attribute => Ok(attribute),
        }
    }

    /// An attribute with something in it; one that is empty says nothing.
    pub(super) fn text_of(self, name: &str) -> Option<Attribute<'d, 'd>> {
        self.node.attribute_node(name).filter(|attribute| !attribute.value().is_empty())
    }

    /// An attribute that has to be there.
    ///
    /// # Errors
    /// It is not there, or empty.
    pub(super) fn needs(self, name: &'static str) -> Result<Attribute<'d, 'd>, Fault> {
        let missing = || Fault::new(self.span(), XmlProblem::NoAttribute { name, element: self.title() });
        self.attribute(name)?.ok_or_else(missing)
    }

    /// A child element that has to be there.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn needs_child(self, name: &'static str) -> Result<Self, Fault> {
        let missing = || Fault::new(self.span(), XmlProblem::NoElement { name, parent: self.title() });
        self.child(name).ok_or_else(missing)
    }
}

/// Whether a node is an element of this name, and in no namespace, as libvirt's are.
fn is_named(node: &Node<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name && node.tag_name().namespace().is_none()
}

/// Reads an attribute that has one of a few values.
pub(super) fn choose<T: Copy>(
    attribute: Attribute<'_, '_>,
    choices: &[(&'static str, T)],
) -> Result<T, Fault> {
    let text = attribute.value();
    choices.iter().find_map(|(word, value)| (*word == text).then_some(*value)).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let problem = XmlProblem::Choice {
            attribute: attribute.name().to_owned(),
            text: quoted(text),
            choices: words.clone(),
        };
        did_you_mean(Fault::new(attribute.range_value(), problem), text, &words)
    })
}

fn did_you_mean(fault: Fault, word: &str, candidates: &[&str]) -> Fault {
    match closest(word, candidates.iter().copied()) {
        Some(meant) => fault.help(format!("did you mean '{meant}'?")),
        None => fault,
    }
}
