//! libvirt's `<filter>`, as `virsh nwfilter-dumpxml` prints it.

use roxmltree::{Attribute, Document, Node, ParsingOptions};

use super::builder::RuleWords;
use super::{Builder, Fault, FilterTextProblem, MalformedText, Named, Word};
use crate::spec::quoted;
use crate::text_error::pointer::offset;

/// Elements, comments and pieces of text.
const MAX_NODES: u32 = 64 * 1024;

pub(super) fn read(text: &str) -> Result<Vec<Named>, Fault> {
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        let position = error.pos();
        let at = offset(text, position.row, position.col);
        let source = MalformedText(error.to_string());
        Fault::new(at..at, FilterTextProblem::Malformed { format: "XML", source })
    })?;
    let root = document.root_element();
    if root.tag_name().name() != "filter" {
        return Err(Fault::new(span(root), FilterTextProblem::Root(quoted(root.tag_name().name()))));
    }
    takes(root, &["name", "chain", "priority"])?;
    let name = needs(root, "name")?;
    let place = name.1.clone();
    let mut builder = Builder::new(name, get(root, "chain"), get(root, "priority"))?;
    for node in elements(root) {
        match node.tag_name().name() {
            // libvirt's identity of the filter, which has its name here.
            "uuid" => {}
            "filterref" => refer(&mut builder, node)?,
            "rule" => rule(&mut builder, node)?,
            _ => return Err(unknown(node, "in <filter>")),
        }
    }
    Ok(vec![(builder.finish(), place)])
}

fn refer(builder: &mut Builder, node: Node<'_, '_>) -> Result<(), Fault> {
    takes(node, &["filter", "priority"])?;
    let mut parameters = Vec::new();
    for parameter in elements(node) {
        if parameter.tag_name().name() != "parameter" {
            return Err(unknown(parameter, "in <filterref>"));
        }
        takes(parameter, &["name", "value"])?;
        parameters.push((needs(parameter, "name")?, needs(parameter, "value")?));
    }
    builder.refer(needs(node, "filter")?, parameters)
}

fn rule(builder: &mut Builder, node: Node<'_, '_>) -> Result<(), Fault> {
    takes(node, &["direction", "action", "priority", "statematch"])?;
    let mut words = RuleWords {
        direction: get(node, "direction"),
        action: get(node, "action"),
        priority: get(node, "priority"),
        state_match: get(node, "statematch"),
        ..RuleWords::default()
    };
    for protocol in elements(node) {
        if let Some((_, first)) = &words.protocol {
            let fault = Fault::new(span(protocol), FilterTextProblem::Repeated("protocol".to_owned()));
            return Err(fault.beside(first.clone()).help("write one rule for each protocol"));
        }
        words.protocol = Some((protocol.tag_name().name(), span(protocol)));
        words.attributes = protocol
            .attributes()
            .map(|attribute| ((attribute.name(), attribute.range_qname()), value(attribute)))
            .collect();
        if let Some(inner) = elements(protocol).next() {
            return Err(unknown(inner, "in a rule's protocol"));
        }
    }
    builder.rule(words, span(node))
}

fn elements<'d>(node: Node<'d, 'd>) -> impl Iterator<Item = Node<'d, 'd>> {
    node.children().filter(Node::is_element)
}

/// `<name`: where to point for the element as a whole.
fn span(node: Node<'_, '_>) -> std::ops::Range<usize> {
    let start = node.range().start;
    start..start + 1 + node.tag_name().name().len()
}

fn value<'d>(attribute: Attribute<'d, 'd>) -> Word<'d> {
    (attribute.value(), attribute.range_value())
}

fn get<'d>(node: Node<'d, 'd>, name: &str) -> Option<Word<'d>> {
    node.attribute_node(name).map(value)
}

fn needs<'d>(node: Node<'d, 'd>, name: &'static str) -> Result<Word<'d>, Fault> {
    get(node, name).ok_or_else(|| Fault::new(span(node), FilterTextProblem::Missing(name)))
}

fn takes(node: Node<'_, '_>, names: &[&str]) -> Result<(), Fault> {
    match node.attributes().find(|attribute| !names.contains(&attribute.name())) {
        None => Ok(()),
        Some(attribute) => {
            let place = format!("in <{}>", node.tag_name().name());
            let name = quoted(attribute.name());
            let problem = FilterTextProblem::Unknown { what: "Attribute", name, place };
            Err(Fault::new(attribute.range(), problem))
        }
    }
}

fn unknown(node: Node<'_, '_>, place: &str) -> Fault {
    let name = quoted(node.tag_name().name());
    Fault::new(span(node), FilterTextProblem::Unknown { what: "Element", name, place: place.to_owned() })
}
