//! A request's head as routing and classing look at it, whoever has parsed it: hyper into a map, or the fast path into slices of its buffer.

use http::{HeaderName, Method, Request, header::GetAll, request};

/// What routes and classes depend on.
pub trait RequestHead {
    /// The method.
    fn method(&self) -> &Method;

    /// The target's path; `*` for a request about the server as a whole.
    fn path(&self) -> &str;

    /// What follows the target's `?`.
    fn query(&self) -> Option<&str>;

    /// Values of a header in the order in which they came.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// The first value of a header.
    fn value<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        self.values(name).next()
    }
}

impl RequestHead for request::Parts {
    fn method(&self) -> &Method {
        &self.method
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let values: GetAll<'_, _> = self.headers.get_all(name);
        values.into_iter().map(|value| value.as_bytes())
    }
}

impl<B> RequestHead for Request<B> {
    fn method(&self) -> &Method {
        Self::method(self)
    }

    fn path(&self) -> &str {
        self.uri().path()
    }

    fn query(&self) -> Option<&str> {
        self.uri().query()
    }

    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers().get_all(name).into_iter().map(|value| value.as_bytes())
    }
}

/// A header's value as text, if it is nothing but visible ASCII, spaces and tabs.
pub fn text(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    if visible { std::str::from_utf8(value).ok() } else { None }
}
