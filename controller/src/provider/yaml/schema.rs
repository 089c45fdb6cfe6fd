//! A node against the JSON schema of what it should be: every fault with its line and field, where deserializing would stop at the
//! first. The schemas are those of the Rust types themselves (what `trimtab crds` prints, what the Kubernetes API enforces), so they
//! cannot drift from them.

use regex::Regex;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::node::{Data, Entry, Node};
use crate::duration;

/// The schema of a type, definitions included.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    definitions: Map<String, Value>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1.
    pub line: u32,
    /// Field, e.g. `spec.rules[0].matches[0].path.typ`; empty for the whole.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Schema {
    /// The schema of a Kubernetes object of type `T`: what `T` says of itself, and `apiVersion`, `kind` and `metadata`.
    pub fn of_object<T: JsonSchema>() -> Schema {
        let mut generator = SchemaGenerator::default();
        let mut root = generator.root_schema_for::<T>().to_value();
        let metadata =
            generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>().to_value();
        if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("apiVersion".to_owned(), json!({ "type": "string" }));
            properties.insert("kind".to_owned(), json!({ "type": "string" }));
            properties.insert("metadata".to_owned(), metadata);
            // What the cluster says of the object; of no interest in a file, and no reason to refuse one.
            properties.insert("status".to_owned(), Value::Bool(true));
        }
        let mut definitions = generator.take_definitions(false);
        if let Some(own) = root.get("$defs").and_then(Value::as_object) {
            definitions.extend(own.clone());
        }
        Schema { root, definitions }
    }

    /// Everything that is wrong with `node`.
    pub fn check(&self, node: &Node) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.walk(node, &self.root, "", &mut faults);
        faults
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/"));
        match name.and_then(|name| self.definitions.get(name)) {
            Some(definition) => definition,
            None => schema,
        }
    }

    fn walk(&self, node: &Node, schema: &Value, field: &str, faults: &mut Vec<Fault>) {
        let schema = self.resolve(schema);
        let Some(keywords) = schema.as_object() else { return };
        if keywords.contains_key("x-kubernetes-int-or-string") {
            if !matches!(node.data, Data::Integer(_) | Data::Text(_)) {
                faults.push(wrong(node, field, "an integer or a string"));
            }
            return;
        }
        if let Some(branches) = keywords.get("anyOf").or_else(|| keywords.get("oneOf")).and_then(Value::as_array) {
            return self.walk_any(node, branches, field, faults);
        }
        for part in keywords.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.walk(node, part, field, faults);
        }
        if let Some(allowed) = allowed_texts(schema) {
            let holds = match &node.data {
                Data::Text(text) => allowed.contains(&text.as_str()),
                Data::Null => nullable(schema),
                _ => false,
            };
            if !holds {
                faults.push(wrong(node, field, &format!("one of {}", allowed.join(", "))));
            }
            return;
        }
        let types = types_of(schema);
        if !types.is_empty() && !types.iter().any(|name| has_type(node, name)) {
            let names: Vec<_> = types.iter().filter(|name| **name != "null").map(|name| type_in_words(name)).collect();
            faults.push(wrong(node, field, &names.join(" or ")));
            return;
        }
        match &node.data {
            Data::Map(entries) => self.walk_map(node, entries, keywords, field, faults),
            Data::List(items) => {
                if let Some(schema) = keywords.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.walk(item, schema, &format!("{field}[{index}]"), faults);
                    }
                }
            }
            Data::Text(text) => faults.extend(text_fault(node, text, keywords, field)),
            Data::Integer(number) => faults.extend(range_fault(node, *number as f64, keywords, field)),
            Data::Float(number) => faults.extend(range_fault(node, *number, keywords, field)),
            Data::Null | Data::Bool(_) => {}
        }
    }

    /// Alternatives: all texts, one and "nothing", or several of which one must hold.
    fn walk_any(&self, node: &Node, branches: &[Value], field: &str, faults: &mut Vec<Fault>) {
        let resolved: Vec<&Value> = branches.iter().map(|branch| self.resolve(branch)).collect();
        let may_be_null = resolved.iter().any(|branch| nullable(branch));
        if node.data == Data::Null && may_be_null {
            return;
        }
        let others: Vec<&Value> = resolved.into_iter().filter(|branch| types_of(branch) != ["null"]).collect();
        let texts: Option<Vec<&str>> =
            others.iter().map(|branch| allowed_texts(branch)).collect::<Option<Vec<_>>>().map(|lists| lists.concat());
        match (texts, others.as_slice()) {
            (Some(texts), _) => {
                if !node.text().is_some_and(|text| texts.contains(&text)) {
                    faults.push(wrong(node, field, &format!("one of {}", texts.join(", "))));
                }
            }
            (None, [only]) => self.walk(node, only, field, faults),
            (None, several) => {
                let attempts = several.iter().map(|branch| {
                    let mut faults = Vec::new();
                    self.walk(node, branch, field, &mut faults);
                    faults
                });
                faults.extend(attempts.min_by_key(Vec::len).unwrap_or_default());
            }
        }
    }

    fn walk_map(
        &self,
        node: &Node,
        entries: &[Entry],
        keywords: &Map<String, Value>,
        field: &str,
        faults: &mut Vec<Fault>,
    ) {
        let properties = keywords.get("properties").and_then(Value::as_object);
        let additional = keywords.get("additionalProperties");
        let required: Vec<&str> = keywords
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for entry in entries {
            let child = child_field(field, &entry.key);
            let schema = properties
                .and_then(|properties| properties.get(&entry.key))
                .or(additional.filter(|schema| schema.is_object()));
            match (schema, properties) {
                (Some(_), _) if entry.value.data == Data::Null && !required.contains(&entry.key.as_str()) => {}
                (Some(schema), _) => self.walk(&entry.value, schema, &child, faults),
                (None, Some(properties)) if additional != Some(&Value::Bool(true)) => {
                    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                    faults.push(Fault {
                        line: entry.line,
                        field: child,
                        message: format!("unknown field, expected one of {}", known.join(", ")),
                    });
                }
                (None, _) => {}
            }
        }
        for name in required.into_iter().filter(|name| node.get(name).is_none()) {
            let schema = properties.and_then(|properties| properties.get(name)).map(|schema| self.resolve(schema));
            let expected = match schema.map(|schema| (allowed_texts(schema), types_of(schema))) {
                Some((Some(texts), _)) => format!(", expected one of {}", texts.join(", ")),
                Some((None, types)) if !types.is_empty() => format!(", expected {}", type_in_words(types[0])),
                _ => String::new(),
            };
            faults.push(Fault {
                line: node.line,
                field: child_field(field, name),
                message: format!("is missing{expected}"),
            });
        }
    }
}

/// `parent.key`, or `parent["key"]` where the key holds a dot.
fn child_field(parent: &str, key: &str) -> String {
    match (parent, key.contains(['.', '[', ' ', '/']) || key.is_empty()) {
        (_, true) => format!("{parent}[\"{}\"]", shown(key)),
        ("", false) => key.to_owned(),
        (_, false) => format!("{parent}.{key}"),
    }
}

fn wrong(node: &Node, field: &str, expected: &str) -> Fault {
    Fault {
        line: node.line,
        field: field.to_owned(),
        message: format!("expected {expected}, found {}", in_words(&node.data)),
    }
}

/// A value as a message shows it.
fn in_words(data: &Data) -> String {
    match data {
        Data::Null => "nothing".to_owned(),
        Data::Bool(value) => value.to_string(),
        Data::Integer(value) => value.to_string(),
        Data::Float(value) => value.to_string(),
        Data::Text(text) => format!("\"{}\"", shown(text)),
        Data::List(_) => "a list".to_owned(),
        Data::Map(_) => "a mapping".to_owned(),
    }
}

/// A text that a user wrote, short enough and without control characters.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    shown
}

fn types_of(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn nullable(schema: &Value) -> bool {
    types_of(schema).contains(&"null") || schema.get("const") == Some(&Value::Null)
}

fn has_type(node: &Node, name: &str) -> bool {
    matches!(
        (name, &node.data),
        ("null", Data::Null)
            | ("boolean", Data::Bool(_))
            | ("integer", Data::Integer(_))
            | ("number", Data::Integer(_) | Data::Float(_))
            | ("string", Data::Text(_))
            | ("array", Data::List(_))
            | ("object", Data::Map(_))
    )
}

fn type_in_words(name: &str) -> &str {
    match name {
        "boolean" => "true or false",
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

/// The texts that a schema allows, if it enumerates them.
fn allowed_texts(schema: &Value) -> Option<Vec<&str>> {
    if let Some(text) = schema.get("const").and_then(Value::as_str) {
        return Some(vec![text]);
    }
    if let Some(texts) = schema.get("enum").and_then(Value::as_array) {
        return Some(texts.iter().filter_map(Value::as_str).collect());
    }
    let branches = schema.get("oneOf").and_then(Value::as_array)?;
    branches.iter().map(allowed_texts).collect::<Option<Vec<_>>>().map(|lists| lists.concat())
}

/// What a text must look like: a pattern, or a time.
fn text_fault(node: &Node, text: &str, keywords: &Map<String, Value>, field: &str) -> Option<Fault> {
    if keywords.get("format").and_then(Value::as_str) == Some("date-time") {
        let holds = text.parse::<k8s_openapi::jiff::Timestamp>().is_ok();
        return (!holds).then(|| wrong(node, field, "a time such as 2026-01-02T03:04:05Z"));
    }
    let pattern = keywords.get("pattern").and_then(Value::as_str)?;
    let expected = match pattern {
        duration::PATTERN => "a duration such as 150ms, 3m or 1h30m".to_owned(),
        other => format!("a text that matches {other}"),
    };
    let holds = Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
    (!holds).then(|| wrong(node, field, &expected))
}

fn range_fault(node: &Node, number: f64, keywords: &Map<String, Value>, field: &str) -> Option<Fault> {
    let (type_min, type_max) = match keywords.get("format").and_then(Value::as_str) {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        Some("uint16") => (0.0, f64::from(u16::MAX)),
        Some("uint32") => (0.0, f64::from(u32::MAX)),
        Some("int64" | "uint64") => (i64::MIN as f64, i64::MAX as f64),
        _ => (f64::MIN, f64::MAX),
    };
    let min = keywords.get("minimum").and_then(Value::as_f64).map_or(type_min, |min| min.max(type_min));
    let max = keywords.get("maximum").and_then(Value::as_f64).map_or(type_max, |max| max.min(type_max));
    if (min..=max).contains(&number) {
        return None;
    }
    let expected = match (min > f64::MIN, max < f64::MAX) {
        (true, true) => format!("{min} to {max}"),
        (true, false) => format!("at least {min}"),
        (false, true) => format!("at most {max}"),
        (false, false) => "a finite number".to_owned(),
    };
    Some(wrong(node, field, &expected))
}
