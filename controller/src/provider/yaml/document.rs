//! The text of one file to the objects in it, or to everything that is wrong with it.

use super::{
    kinds::{KINDS, Kind, Object},
    node::{self, Data, Node},
};
use crate::{
    objects::DEFAULT_NAMESPACE,
    problem::{ObjectId, Origin, Problem, Report},
};

/// Faults of one file that are reported one by one; of a file with more the rest is counted.
const FAULTS_MAX: usize = 100;

/// An object, which one it is, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Kind, namespace and name.
    pub id: ObjectId,
    /// File and line.
    pub origin: Origin,
    /// The object.
    pub object: Object,
}

/// Reads a file's bytes. `file` is its name, for messages.
///
/// # Errors
/// Everything that is wrong with it, in the order of lines; at most 101 problems.
pub fn read(file: &str, bytes: &[u8]) -> Result<Vec<Placed>, Vec<Problem>> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(before + 1).unwrap_or(u32::MAX);
            return Err(vec![Problem::at(Origin::line(file, line), "is not UTF-8 text")]);
        }
    };
    let (documents, errors) = node::read(text);
    let mut reading = Reading { file, objects: Vec::new(), problems: Vec::new() };
    for error in errors {
        reading.problem(error.line, None, error.message);
    }
    // A file that is no YAML is half a file: what its first half lacks is not worth telling.
    if reading.problems.is_empty() {
        for document in &documents {
            reading.document(document, "");
        }
    }
    let Reading { objects, mut problems, .. } = reading;
    if problems.is_empty() {
        return Ok(objects);
    }
    problems.sort();
    problems.dedup();
    if problems.len() > FAULTS_MAX {
        let more = problems.len() - FAULTS_MAX;
        problems.truncate(FAULTS_MAX);
        problems.push(Problem::at(Origin::file(file), format!("has {more} more problems")));
    }
    Err(problems)
}

struct Reading<'a> {
    file: &'a str,
    objects: Vec<Placed>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn problem(&mut self, line: u32, field: Option<String>, message: impl Into<String>) {
        self.problems.push(Problem {
            origin: Some(Origin::line(self.file, line)),
            object: None,
            field,
            message: message.into(),
        });
    }

    /// One document, or one item of a List.
    fn document(&mut self, node: &Node, prefix: &str) {
        if node.data == Data::Null {
            return;
        }
        if !matches!(node.data, Data::Map(_)) {
            return self.problem(
                node.line,
                None,
                "is not an object, expected a mapping with apiVersion, kind and metadata",
            );
        }
        let Some(kind_name) = self.required_text(node, "kind", prefix) else { return };
        if kind_name == "List" && prefix.is_empty() {
            return self.list(node);
        }
        let Some(api_version) = self.required_text(node, "apiVersion", prefix) else { return };
        let Some(kind) = self.kind(node, api_version, kind_name, prefix) else { return };
        let faults = kind.schema().check(node);
        let mut clean = faults.is_empty();
        for fault in faults {
            self.problem(fault.line, Some(format!("{prefix}{}", fault.field)), fault.message);
        }
        let Some(id) = self.identity(node, kind, prefix) else { return };
        if !clean {
            return;
        }
        let mut object = match kind.parse(node.to_json()) {
            Ok(object) => object,
            Err(error) => {
                let field = field_of(error.path());
                let message = error.inner().to_string();
                return self.problem(node.line_of(&field), Some(format!("{prefix}{field}")), message);
            }
        };
        if kind.namespaced {
            object.metadata_mut().namespace = Some(id.namespace.clone());
        }
        let mut report = Report::new(id.clone());
        object.check(&mut report);
        for (field, message) in report.into_invalid() {
            clean = false;
            self.problem(node.line_of(&field), Some(format!("{prefix}{field}")), message);
        }
        if let Some(first) = self.objects.iter().find(|other| other.id == id) {
            let message = format!("{id} stands twice, first in {}", first.origin);
            return self.problem(node.line, None, message);
        }
        if clean {
            self.objects.push(Placed { id, origin: Origin::line(self.file, node.line), object });
        }
    }

    /// What `kubectl get -o yaml` prints for several objects.
    fn list(&mut self, node: &Node) {
        match node.get("items").map(|items| &items.data) {
            Some(Data::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.document(item, &format!("items[{index}]."));
                }
            }
            _ => self.problem(node.line_of("items"), Some("items".to_owned()), "expected a list of objects"),
        }
    }

    fn required_text<'n>(&mut self, node: &'n Node, field: &str, prefix: &str) -> Option<&'n str> {
        let text = node.get(field).and_then(Node::text);
        if text.is_none() {
            let expected = match field {
                "kind" => "expected a kind such as HTTPRoute",
                _ => "expected a version such as gateway.networking.k8s.io/v1",
            };
            let found = if node.get(field).is_some() { "is not a text" } else { "is missing" };
            self.problem(node.line_of(field), Some(format!("{prefix}{field}")), format!("{found}, {expected}"));
        }
        text
    }

    fn kind(&mut self, node: &Node, api_version: &str, name: &str, prefix: &str) -> Option<&'static Kind> {
        let named: Vec<&Kind> = KINDS.iter().filter(|kind| kind.kind == name).collect();
        if let Some(kind) = named.iter().find(|kind| kind.api_version == api_version) {
            return Some(kind);
        }
        let (field, message) = if named.is_empty() {
            let mut known: Vec<&str> = KINDS.iter().map(|kind| kind.kind).collect();
            known.dedup();
            ("kind", format!("unknown kind \"{name}\", expected one of {}", known.join(", ")))
        } else {
            let versions: Vec<&str> = named.iter().map(|kind| kind.api_version).collect();
            (
                "apiVersion",
                format!(
                    "\"{api_version}\" is not a version of {name} that Trimtab knows, expected {}",
                    versions.join(" or ")
                ),
            )
        };
        self.problem(node.line_of(field), Some(format!("{prefix}{field}")), message);
        None
    }

    /// Namespace and name, both checked; objects without a namespace are in "default".
    fn identity(&mut self, node: &Node, kind: &Kind, prefix: &str) -> Option<ObjectId> {
        let metadata = node.get("metadata");
        let text =
            |field: &str| metadata.and_then(|metadata| metadata.get(field)).filter(|node| node.data != Data::Null);
        let mut holds = true;
        let mut read = |field: &str, node: Option<&Node>, default: &str| match node.map(|found| (found, found.text())) {
            None => default.to_owned(),
            Some((_, Some(text))) if is_object_name(text) => text.to_owned(),
            Some((found, Some(text))) => {
                holds = false;
                let message = format!(
                    "\"{}\" is not a name, expected lower-case letters, digits, '-' and '.' such as my-route",
                    text.escape_default()
                );
                self.problem(found.line, Some(format!("{prefix}metadata.{field}")), message);
                String::new()
            }
            // A name that is no text: the schema said so.
            Some((_, None)) => {
                holds = false;
                String::new()
            }
        };
        let name = read("name", text("name"), "");
        let namespace =
            if kind.namespaced { read("namespace", text("namespace"), DEFAULT_NAMESPACE) } else { String::new() };
        if holds && name.is_empty() {
            self.problem(
                node.line_of("metadata"),
                Some(format!("{prefix}metadata.name")),
                "is missing, expected a name such as my-route",
            );
            return None;
        }
        holds.then(|| ObjectId::new(kind.kind, &namespace, &name))
    }
}

/// A DNS subdomain name (RFC 1123), as names of Kubernetes objects are.
fn is_object_name(text: &str) -> bool {
    let label_holds = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label_holds)
}

/// `spec.rules[0].name`: indices in brackets, as everywhere else.
fn field_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut field = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => field += &format!("[{index}]"),
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                if !field.is_empty() {
                    field.push('.');
                }
                field += name;
            }
            Segment::Unknown => {}
        }
    }
    field
}
