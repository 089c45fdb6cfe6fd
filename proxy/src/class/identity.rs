//! What kind of request this is: its name, and the name's hash, which is the same in every proxy and version.
//!
//! In this order: the value of the configured header; the method of a gRPC call; HTTP method, path template and size of the body. Names are
//! bounded in length whatever comes, and contain nothing of a path that looks like a value ([`fold`](super::fold)).

use std::fmt::{self, Write};

use http::{HeaderName, Method, header};

use super::fold;
use crate::{
    config::ClassKey,
    hash::Fnv1a,
    head::{RequestHead, text},
};

/// Segments of a path that count; of what follows it only counts that it is there.
pub const SEGMENTS_MAX: usize = 8;
/// A longer value of the configured header is not heeded.
pub const HEADER_VALUE_BYTES_MAX: usize = 64;
/// A longer name of a gRPC service or method is not heeded.
pub const GRPC_NAME_BYTES_MAX: usize = 96;

/// The key of a request: the hash of its name, without making the name. `length` is its body's, where it is known beforehand; `class_header` a
/// header whose value goes before everything else. Allocates nothing.
pub fn classify(head: &impl RequestHead, length: Option<u64>, class_header: Option<&HeaderName>) -> ClassKey {
    let mut hash = Fnv1a::default();
    // Hashing does not fail.
    let _ = write_name(&mut hash, head, length, class_header);
    ClassKey(hash.get())
}

/// The name of a request, for people: `GET /users/{}/orders`, `POST /upload 256KiB+`, `gRPC /shop.Cart/Add`, `x-request-class: report`.
pub fn name_of(head: &impl RequestHead, length: Option<u64>, class_header: Option<&HeaderName>) -> String {
    let mut name = String::new();
    // Nor does writing to a string.
    let _ = write_name(&mut name, head, length, class_header);
    name
}

/// The key of a class of this name.
pub fn key_of(name: &str) -> ClassKey {
    ClassKey(crate::hash::fnv1a(name))
}

/// Whether a class's name, or the header's value in it, is what a pattern means: the same, or the same up to a `*` at the pattern's end.
pub fn matches(pattern: &str, name: &str) -> bool {
    let one = |text: &str| match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    };
    one(name) || name.split_once(": ").is_some_and(|(_, value)| one(value))
}

fn write_name(
    out: &mut impl Write,
    head: &impl RequestHead,
    length: Option<u64>,
    class_header: Option<&HeaderName>,
) -> fmt::Result {
    if let Some(name) = class_header
        && let Some(value) = class_value(head, name)
    {
        out.write_str(name.as_str())?;
        out.write_str(": ")?;
        return out.write_str(value);
    }
    let path = head.path();
    if is_grpc(head) && is_grpc_method(path) {
        out.write_str("gRPC ")?;
        return out.write_str(path);
    }
    out.write_str(method(head.method()))?;
    out.write_char(' ')?;
    for (index, segment) in path.strip_prefix('/').unwrap_or(path).split('/').enumerate() {
        if index == SEGMENTS_MAX {
            out.write_str("/**")?;
            break;
        }
        out.write_char('/')?;
        out.write_str(if fold::is_value(segment) { "{}" } else { segment })?;
    }
    out.write_str(size(length))
}

/// The class that the request claims for itself, where it does in words.
fn class_value<'a>(head: &'a impl RequestHead, name: &'a HeaderName) -> Option<&'a str> {
    let value = text(head.value(name)?)?.trim();
    (1..=HEADER_VALUE_BYTES_MAX).contains(&value.len()).then_some(value)
}

/// Methods of one's own are one kind: there are as many as a client can think of.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        _ => "OTHER",
    }
}

/// Buckets by powers of 16; below 1 KiB, or without a body, nothing is said.
fn size(length: Option<u64>) -> &'static str {
    match length {
        None => " chunked",
        Some(length) => match length >> 10 {
            0 => "",
            1..16 => " 1KiB+",
            16..256 => " 16KiB+",
            256..4_096 => " 256KiB+",
            4_096..65_536 => " 4MiB+",
            _ => " 64MiB+",
        },
    }
}

/// `application/grpc`, `application/grpc+proto`, `application/grpc-web; …`.
fn is_grpc(head: &impl RequestHead) -> bool {
    let rest = head.value(&header::CONTENT_TYPE).unwrap_or_default().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b'-' | b';' | b' ')))
}

/// `/package.Service/Method`.
fn is_grpc_method(path: &str) -> bool {
    let is_name = |text: &str| {
        (1..=GRPC_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
    };
    let names = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    names.is_some_and(|(service, method)| is_name(service) && is_name(method))
}

#[cfg(test)]
mod tests {
    use http::{Request, request};
    use proptest::prelude::*;

    use super::{super::fold::tests::is_value_slowly, *};

    /// Longest name without a configured header.
    const NAME_BYTES_MAX: usize = 7 + 1 + SEGMENTS_MAX * (1 + fold::LITERAL_BYTES_MAX) + 3 + 8;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn check(method: &str, target: &str, headers: &[(&str, &str)], length: Option<u64>, expected: &str) {
        let class = HeaderName::from_static("x-request-class");
        let head = head(method, target, headers);
        assert_eq!(name_of(&head, length, Some(&class)), expected);
        assert_eq!(classify(&head, length, Some(&class)), key_of(expected));
    }

    #[test]
    fn values_in_paths_are_folded_and_queries_dropped() {
        check("GET", "/users/123/orders/9f8a7c6b", &[], Some(0), "GET /users/{}/orders/{}");
        check("GET", "/users/124/orders/deadbeef?a=b", &[], Some(0), "GET /users/{}/orders/{}");
        check("GET", "/", &[], Some(0), "GET /");
        check("OPTIONS", "*", &[], Some(0), "OPTIONS /{}");
        check("PURGE", "/a/", &[], Some(0), "OTHER /a/");
        check("GET", "/1/b/c/d/e/f/g/h/i/j", &[], Some(0), "GET /{}/b/c/d/e/f/g/h/**");
    }

    #[test]
    fn bodies_are_told_apart_by_powers_of_sixteen() {
        for (length, expected) in [
            (Some(1_023), "PUT /a"),
            (Some(1_024), "PUT /a 1KiB+"),
            (Some(16_384), "PUT /a 16KiB+"),
            (Some(1 << 18), "PUT /a 256KiB+"),
            (Some(1 << 22), "PUT /a 4MiB+"),
            (Some(u64::MAX), "PUT /a 64MiB+"),
            (None, "PUT /a chunked"),
        ] {
            check("PUT", "/a", &[], length, expected);
        }
    }

    #[test]
    fn grpc_calls_are_told_apart_by_method_and_nothing_else() {
        let grpc = [("content-type", "application/grpc+proto")];
        check("POST", "/shop.v1.Cart2024/Add", &grpc, None, "gRPC /shop.v1.Cart2024/Add");
        check("POST", "/shop.Cart/Add/123", &grpc, None, "POST /shop.Cart/Add/{} chunked");
        check("POST", "/a/b", &[("content-type", "application/grpcx")], Some(0), "POST /a/b");
    }

    #[test]
    fn the_configured_header_goes_before_everything_if_it_is_short() {
        check("GET", "/a", &[("x-request-class", " report ")], Some(0), "x-request-class: report");
        check("GET", "/a", &[("x-request-class", &"x".repeat(65))], Some(0), "GET /a");
        check("GET", "/a", &[("x-request-class", "")], Some(0), "GET /a");
        let head = head("GET", "/a", &[("x-request-class", "report")]);
        assert_eq!(name_of(&head, Some(0), None), "GET /a", "only if it is configured");
    }

    /// The name, made the obvious way.
    fn slow_name(head: &request::Parts, length: Option<u64>) -> String {
        let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let path = head.uri.path();
        if regex::Regex::new("^application/grpc($|[-+; ])").unwrap().is_match(content_type)
            && regex::Regex::new(r"^/[A-Za-z0-9_.]{1,96}/[A-Za-z0-9_.]{1,96}$").unwrap().is_match(path)
        {
            return format!("gRPC {path}");
        }
        let known = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"];
        let method = known.iter().find(|known| **known == head.method.as_str()).unwrap_or(&"OTHER");
        let segments: Vec<&str> = path.trim_start_matches('*').split('/').collect();
        let mut folded: Vec<&str> =
            segments[1..].iter().map(|segment| if is_value_slowly(segment) { "{}" } else { *segment }).collect();
        if folded.len() > 8 {
            folded.truncate(8);
            folded.push("**");
        }
        let size = match length {
            None => " chunked".to_owned(),
            Some(length) => [(26, "64MiB+"), (22, "4MiB+"), (18, "256KiB+"), (14, "16KiB+"), (10, "1KiB+")]
                .iter()
                .find(|(bits, _)| length >= 1 << bits)
                .map(|(_, text)| format!(" {text}"))
                .unwrap_or_default(),
        };
        format!("{method} /{}{size}", folded.join("/"))
    }

    proptest! {
        #[test]
        fn the_key_is_the_hash_of_the_name_made_slowly(
            method in prop_oneof![Just("GET"), Just("POST"), Just("PURGE"), Just("M-SEARCH")],
            path in "(/([a-z]{1,12}|[A-Za-z0-9_.~:%@-]{0,40}|[0-9]{1,20}|[a-f0-9-]{30,40})){1,12}",
            query in "(\\?[a-z=&]{0,20})?",
            length in any::<Option<u64>>(),
            grpc in any::<bool>(),
        ) {
            let headers: &[(&str, &str)] = if grpc { &[("content-type", "application/grpc")] } else { &[] };
            let head = head(method, &format!("{path}{query}"), headers);
            let slow = slow_name(&head, length);
            prop_assert_eq!(&name_of(&head, length, None), &slow);
            prop_assert_eq!(classify(&head, length, None), key_of(&slow));
            prop_assert!(slow.len() <= NAME_BYTES_MAX, "{} bytes: {}", slow.len(), slow);
        }

        #[test]
        fn ids_of_all_kinds_fold_to_the_same_key(a in any::<u64>(), b in any::<u128>(), c in "[A-Za-z0-9+/]{33,64}") {
            let b = format!("{b:032x}");
            let uuid = format!("{}-{}-{}-{}-{}", &b[..8], &b[8..12], &b[12..16], &b[16..20], &b[20..]);
            let token = c.replace('/', "_");
            for id in [a.to_string(), b, uuid, token, "2024-05-01".to_owned()] {
                let head = head("GET", &format!("/users/{id}/orders"), &[]);
                prop_assert_eq!(classify(&head, Some(0), None), key_of("GET /users/{}/orders"), "{}", id);
            }
        }

        #[test]
        fn whatever_a_client_sends_has_a_name_of_bounded_length(
            path in "/[!-~&&[^?#]]{0,2000}",
            value in "[ -~]{0,200}",
            length in any::<Option<u64>>(),
        ) {
            let Ok(request) = Request::builder().uri(&path).header("x-class", &value).header("content-type", &value).body(())
            else {
                return Ok(());
            };
            let head = request.into_parts().0;
            let class = HeaderName::from_static("x-class");
            for header in [None, Some(&class)] {
                let name = name_of(&head, length, header);
                prop_assert!(name.len() <= NAME_BYTES_MAX, "{} bytes", name.len());
                prop_assert_eq!(classify(&head, length, header), key_of(&name));
            }
        }
    }
}
