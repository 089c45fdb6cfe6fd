//! What is wrong with the configuration, said so that a person can put it right: where, which field, and what would be right.

use std::fmt;

/// How options that are Trimtab's own are named, where the Gateway API has no field for them.
pub const OWN_PREFIX: &str = "trimtab.dev/";

/// Kind, namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Kind, e.g. "HTTPRoute".
    pub kind: &'static str,
    /// Namespace; empty for an object without one.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectId {
    /// The object of this kind, namespace and name.
    pub fn new(kind: &'static str, namespace: &str, name: &str) -> Self {
        ObjectId { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// A file, and a line in it where one can be told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// Path as people know it: relative to the folder that is read.
    pub file: String,
    /// Counts from 1.
    pub line: Option<u32>,
}

impl Origin {
    /// A line of a file.
    pub fn line(file: &str, line: u32) -> Self {
        Origin { file: file.to_owned(), line: Some(line) }
    }

    /// A file as a whole.
    pub fn file(file: &str) -> Self {
        Origin { file: file.to_owned(), line: None }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => f.write_str(&self.file),
        }
    }
}

/// One thing that is wrong with the configuration. Reads `routes.yaml:14: spec.rules[0].matches[0].path.typ: unknown field,
/// expected one of type, value`: what is not known of place, object and field is left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// Where it stands, for configuration that came from a file.
    pub origin: Option<Origin>,
    /// Which object it is about.
    pub object: Option<ObjectId>,
    /// Which field of it, e.g. `spec.rules[0].filters[1]`.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem of a file or of a line of it.
    pub fn at(origin: Origin, message: impl Into<String>) -> Self {
        Problem { origin: Some(origin), object: None, field: None, message: message.into() }
    }

    /// A problem of one field of an object.
    pub fn of(object: ObjectId, field: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { origin: None, object: Some(object), field: Some(field.into()), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// One thing that was found wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which field.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// What the Gateway API calls it, where it has a name for it.
    pub reason: Option<&'static str>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Collects what is found wrong while one object is looked at. Three sorts are told apart: what is wrong whatever else there is
/// (a file with it is refused), what is only not supported yet or refers to something that is not there, and what holds but
/// hardly is what was meant.
#[derive(Debug)]
pub struct Report {
    object: ObjectId,
    invalid: Vec<Finding>,
    unresolved: Vec<Finding>,
    noted: Vec<Finding>,
}

impl Report {
    /// Nothing found yet in `object`.
    pub fn new(object: ObjectId) -> Self {
        Report { object, invalid: Vec::new(), unresolved: Vec::new(), noted: Vec::new() }
    }

    /// The object.
    pub fn object(&self) -> &ObjectId {
        &self.object
    }

    /// Whether nothing was found that is wrong by itself.
    pub fn is_valid(&self) -> bool {
        self.invalid.is_empty()
    }

    /// The value of `field` is wrong by itself.
    pub fn invalid(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.invalid.push(Finding { field: field.into(), message: message.into(), reason: None });
    }

    /// The value of `field` makes sense, but not here: it refers to what is not there, or to what Trimtab does not support.
    pub fn unresolved(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.unresolved.push(Finding { field: field.into(), message: message.into(), reason: None });
    }

    /// As [`Report::unresolved`], where the Gateway API has a name for it: it is the reason of a condition.
    pub fn refused(&mut self, reason: &'static str, field: impl Into<String>, message: impl Into<String>) {
        self.unresolved.push(Finding { field: field.into(), message: message.into(), reason: Some(reason) });
    }

    /// The value of `field` holds, but does not do what it seems to say. People are told; no condition is about it.
    pub fn noted(&mut self, field: impl Into<String>, message: impl Into<String>) {
        let finding = Finding { field: field.into(), message: message.into(), reason: None };
        if !self.noted.contains(&finding) {
            self.noted.push(finding);
        }
    }

    /// Notes keys that are named as Trimtab's and that it does not know: one that is misspelt does nothing.
    pub fn unknown_keys<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a String>,
        known: &[&str],
        field: impl Fn(&str) -> String,
    ) {
        for key in keys.filter(|key| key.starts_with(OWN_PREFIX) && !known.contains(&key.as_str())) {
            self.noted(field(key), format!("is not known and does nothing, expected one of {}", known.join(", ")));
        }
    }

    /// What was found wrong with `field` or with something inside of it.
    pub fn findings_at(&self, field: &str) -> Vec<&Finding> {
        let inside = |finding: &&Finding| {
            let rest = finding.field.strip_prefix(field);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.invalid.iter().chain(&self.unresolved).filter(inside).collect()
    }

    /// Everything that does not hold.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.invalid.iter().chain(&self.unresolved)
    }

    /// The first thing that is wrong by itself.
    pub fn first_invalid(&self) -> Option<&Finding> {
        self.invalid.first()
    }

    /// Calls the fields of everything that was found by other names.
    pub fn rename(&mut self, name: impl Fn(&str) -> String) {
        let all = self.invalid.iter_mut().chain(&mut self.unresolved).chain(&mut self.noted);
        all.for_each(|finding| finding.field = name(&finding.field));
    }

    /// Field and message of what is wrong by itself.
    pub fn into_invalid(self) -> Vec<(String, String)> {
        self.invalid.into_iter().map(|finding| (finding.field, finding.message)).collect()
    }

    /// Everything, with the place of the object.
    pub fn into_problems(self, origin: Option<&Origin>) -> impl Iterator<Item = Problem> + use<> {
        let Report { object, invalid, unresolved, noted } = self;
        let origin = origin.cloned();
        invalid.into_iter().chain(unresolved).chain(noted).map(move |Finding { field, message, .. }| Problem {
            origin: origin.clone(),
            object: Some(object.clone()),
            field: Some(field),
            message,
        })
    }
}
