//! YAML to a tree of nodes that know their lines. Built from the parser's events and not from a loaded document, because depth, size and
//! the expansion of aliases must be bounded while the tree grows: a tree that is too deep could not even be dropped without
//! overflowing the stack.

use std::{borrow::Cow, collections::HashMap};

use saphyr::{Scalar, ScalarStyle, Tag};
use saphyr_parser::{Event, Parser};

/// Collections within collections; Kubernetes objects stay below 20.
pub const DEPTH_MAX: usize = 64;

/// Nodes in one file, those behind aliases counted each time. An EndpointSlice of 1000 endpoints has about 12,000.
pub const NODES_MAX: usize = 1_000_000;

/// A value and the line where it starts (from 1).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line.
    pub line: u32,
    /// Value.
    pub data: Data,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a fraction.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file, keys unique.
    Map(Vec<Entry>),
}

/// One entry of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Line of the key.
    pub line: u32,
    /// Value.
    pub value: Node,
}

/// What is wrong with a text as YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl Node {
    /// The value of `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.data {
            Data::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    /// As JSON. Entries without a value are left out, as the Kubernetes API does; what JSON has no number for becomes `null`.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Integer(value) => Value::from(*value),
            Data::Float(value) => Value::from(*value),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Data::Map(entries) => {
                let present = entries.iter().filter(|entry| entry.value.data != Data::Null);
                Value::Object(present.map(|entry| (entry.key.clone(), entry.value.to_json())).collect())
            }
        }
    }

    /// Line of a field such as `spec.rules[0].timeouts.request`, or of the innermost part of it that is there.
    pub fn line_of(&self, field: &str) -> u32 {
        let mut node = self;
        let mut line = self.line;
        for part in field.split(['.', '[']).filter(|part| !part.is_empty()) {
            match (part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()), &node.data) {
                (Some(index), Data::List(items)) if index < items.len() => {
                    node = &items[index];
                    line = node.line;
                }
                (None, Data::Map(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == part) else { break };
                    node = &entry.value;
                    line = entry.line;
                }
                _ => break,
            }
        }
        line
    }
}

/// Reads all documents of a text. Documents before a fault are returned with it.
pub fn read(text: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.take(event, line_number(span.start.line())),
            Err(error) => {
                Err(SyntaxError { line: line_number(error.marker().line()), message: error.info().to_owned() })
            }
        };
        if let Err(error) = step {
            builder.errors.push(error);
            break;
        }
    }
    (builder.documents, builder.errors)
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

/// A collection that is not closed yet.
enum Open {
    List { line: u32, anchor: usize, items: Vec<Node> },
    Map { line: u32, anchor: usize, entries: Vec<Entry>, lines: HashMap<String, u32>, key: Option<(String, u32)> },
}

/// A node that has a name, and how much it is.
struct Anchored {
    node: Node,
    depth: usize,
    nodes: usize,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    errors: Vec<SyntaxError>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag.as_ref(), line),
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::SequenceStart(anchor, tag) => {
                self.deeper(tag.as_ref(), "seq", line)?;
                self.open.push(Open::List { line, anchor, items: Vec::new() });
                Ok(())
            }
            Event::MappingStart(anchor, tag) => {
                self.deeper(tag.as_ref(), "map", line)?;
                self.open.push(Open::Map { line, anchor, entries: Vec::new(), lines: HashMap::new(), key: None });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { line, anchor, items }) => self.place(Node { line, data: Data::List(items) }, anchor),
                Some(Open::Map { line, anchor, entries, .. }) => {
                    self.place(Node { line, data: Data::Map(entries) }, anchor)
                }
                None => Err(SyntaxError { line, message: "a collection ends that did not begin".to_owned() }),
            },
        }
    }

    fn deeper(&self, tag: Option<&Cow<'_, Tag>>, expected: &str, line: u32) -> Result<(), SyntaxError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(SyntaxError {
                line,
                message: format!("is nested too deeply, expected at most {DEPTH_MAX} levels"),
            });
        }
        match tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == expected)) {
            Some(tag) => Err(unknown_tag(tag, line)),
            None => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Cow<'_, Tag>>,
        line: u32,
    ) -> Result<(), SyntaxError> {
        if let Some(Open::Map { key: key @ None, .. }) = self.open.last_mut() {
            // A key is the text that stands there, whatever it looks like.
            *key = Some((text.into_owned(), line));
            return Ok(());
        }
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return Err(unknown_tag(tag, line));
        }
        let data = match Scalar::parse_from_cow_and_metadata(text, style, tag) {
            Some(Scalar::Null) => Data::Null,
            Some(Scalar::Boolean(value)) => Data::Bool(value),
            Some(Scalar::Integer(value)) => Data::Integer(value),
            Some(Scalar::FloatingPoint(value)) => Data::Float(value.into_inner()),
            Some(Scalar::String(text)) => Data::Text(text.into_owned()),
            None => return Err(SyntaxError { line, message: "the value does not go with its tag".to_owned() }),
        };
        self.place(Node { line, data }, anchor)
    }

    fn alias(&mut self, anchor: usize, line: u32) -> Result<(), SyntaxError> {
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err(SyntaxError { line, message: "an alias cannot be a key".to_owned() });
        }
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(SyntaxError { line, message: "an alias stands inside of what it refers to".to_owned() });
        };
        if self.open.len() + anchored.depth > DEPTH_MAX {
            return Err(SyntaxError {
                line,
                message: format!("is nested too deeply, expected at most {DEPTH_MAX} levels"),
            });
        }
        self.nodes += anchored.nodes;
        if self.nodes > NODES_MAX {
            return Err(too_large(line));
        }
        let node = anchored.node.clone();
        self.place(node, 0)
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if anchor > 0 {
            let (depth, nodes) = measure(&node);
            self.nodes += nodes;
            self.anchors.insert(anchor, Anchored { node: node.clone(), depth, nodes });
        }
        if self.nodes > NODES_MAX {
            return Err(too_large(node.line));
        }
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, lines, key, .. }) => match key.take() {
                None => return Err(SyntaxError { line: node.line, message: "a key is not a text".to_owned() }),
                Some((key, line)) => match lines.get(&key) {
                    Some(first) => {
                        self.errors.push(SyntaxError {
                            line,
                            message: format!("{key}: stands twice in the same mapping, first in line {first}"),
                        });
                    }
                    None => {
                        lines.insert(key.clone(), line);
                        entries.push(Entry { key, line, value: node });
                    }
                },
            },
        }
        Ok(())
    }
}

/// Depth and number of nodes. The depth is bounded, so this may recurse.
fn measure(node: &Node) -> (usize, usize) {
    let join = |(depth, nodes): (usize, usize), child: &Node| {
        let (child_depth, child_nodes) = measure(child);
        (depth.max(child_depth + 1), nodes + child_nodes)
    };
    match &node.data {
        Data::List(items) => items.iter().fold((1, 1), join),
        Data::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 1), join),
        _ => (0, 1),
    }
}

fn unknown_tag(tag: &Tag, line: u32) -> SyntaxError {
    SyntaxError { line, message: format!("tag {tag} is not supported, expected a value without a tag") }
}

fn too_large(line: u32) -> SyntaxError {
    SyntaxError {
        line,
        message: format!(
            "the file holds too many values (aliases are counted each time), expected at most {NODES_MAX}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, json: &str, errors: &[(u32, &str)]) {
        let (documents, found) = read(text);
        let documents: Vec<_> = documents.iter().map(Node::to_json).collect();
        assert_eq!(serde_json::to_string(&documents).unwrap(), json, "{text}");
        let found: Vec<_> = found.iter().map(|error| (error.line, error.message.as_str())).collect();
        assert_eq!(found, errors, "{text}");
    }

    #[test]
    fn documents_are_read_with_the_core_schema() {
        check(
            "a: 1\nb: [x, 1.5, true, ~, \"2\"]\n---\nc: yes\n",
            r#"[{"a":1,"b":["x",1.5,true,null,"2"]},{"c":"yes"}]"#,
            &[],
        );
        check(r#"{"a": {"b": null}}"#, r#"[{"a":{}}]"#, &[]);
        check("", "[]", &[]);
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let (documents, _) = read("# comment\nspec:\n  rules:\n  - name: a\n  - name: b\n    x: 1\n");
        for (field, line) in [
            ("spec", 2),
            ("spec.rules", 3),
            ("spec.rules[1]", 5),
            ("spec.rules[1].x", 6),
            ("spec.rules[1].y", 5),
            ("spec.rules[7]", 3),
        ] {
            assert_eq!(documents[0].line_of(field), line, "{field}");
        }
    }

    #[test]
    fn aliases_are_followed() {
        check("a: &x [1, 2]\nb: *x\n", r#"[{"a":[1,2],"b":[1,2]}]"#, &[]);
    }

    #[test]
    fn what_is_not_yaml_is_an_error_with_its_line() {
        check("a: 1\na: 2\n", r#"[{"a":1}]"#, &[(2, "a: stands twice in the same mapping, first in line 1")]);
        check("a: !env HOME\n", "[]", &[(1, "tag !env is not supported, expected a value without a tag")]);
        check("a: &x [*x]\n", "[]", &[(1, "an alias stands inside of what it refers to")]);
        check("? [a]\n: 1\n", "[]", &[(1, "a key is not a text")]);
    }

    #[test]
    fn what_grows_without_bounds_is_refused() {
        let fault = |text: &str| read(text).1.pop().map(|error| error.message).unwrap_or_default();
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert!(fault(&bomb).starts_with("the file holds too many values"), "{}", fault(&bomb));
        assert!(fault(&"- ".repeat(100_000)).starts_with("is nested too deeply"));
        assert_eq!(fault(&"[".repeat(100_000)), "recursion limit exceeded");
        let mut chain = String::from("a0: &a0 [x]\n");
        for level in 1..100 {
            chain += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
        }
        assert!(fault(&chain).starts_with("is nested too deeply"));
    }
}
