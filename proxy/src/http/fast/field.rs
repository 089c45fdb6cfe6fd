//! Header fields that mean something to a proxy, told apart by their names without a map.

/// A field by what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Connection,
    ContentLength,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    KeepAlive,
    /// `endpoint-load-metrics`
    Load,
    /// `endpoint-load-metrics-bin`
    LoadBinary,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    ForwardedClientCert,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    RequestId,
    TraceParent,
    TraceState,
    /// End to end, and none of ours.
    Other,
}

impl Field {
    /// Of a name in any case.
    pub fn of(name: &str) -> Self {
        let (text, field) = match name.len() {
            2 => ("te", Self::Te),
            3 => ("via", Self::Via),
            4 if name.as_bytes()[0] | 0x20 == b'h' => ("host", Self::Host),
            4 => ("date", Self::Date),
            6 => ("expect", Self::Expect),
            7 if name.as_bytes()[0] | 0x20 == b'u' => ("upgrade", Self::Upgrade),
            7 => ("trailer", Self::Trailer),
            9 => ("forwarded", Self::Forwarded),
            10 if name.as_bytes()[0] | 0x20 == b'c' => ("connection", Self::Connection),
            10 if name.as_bytes()[0] | 0x20 == b't' => ("tracestate", Self::TraceState),
            10 => ("keep-alive", Self::KeepAlive),
            11 => ("traceparent", Self::TraceParent),
            12 => ("x-request-id", Self::RequestId),
            14 if name.as_bytes()[0] | 0x20 == b'c' => ("content-length", Self::ContentLength),
            14 => ("http2-settings", Self::Http2Settings),
            15 => ("x-forwarded-for", Self::ForwardedFor),
            16 if name.as_bytes()[0] | 0x20 == b'p' => ("proxy-connection", Self::ProxyConnection),
            16 => ("x-forwarded-host", Self::ForwardedHost),
            17 if name.as_bytes()[0] | 0x20 == b't' => ("transfer-encoding", Self::TransferEncoding),
            17 => ("x-forwarded-proto", Self::ForwardedProto),
            19 => ("proxy-authorization", Self::ProxyAuthorization),
            21 => ("endpoint-load-metrics", Self::Load),
            23 => ("x-forwarded-client-cert", Self::ForwardedClientCert),
            25 => ("endpoint-load-metrics-bin", Self::LoadBinary),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(text) { field } else { Self::Other }
    }

    /// Whether it is no client's business in an answer: it concerns one hop, or frames the body, which is said anew.
    pub fn is_of_one_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::TransferEncoding
                | Self::ContentLength
                | Self::Upgrade
                | Self::Load
                | Self::LoadBinary
        )
    }
}

/// Writes `name: value` and the line's end, the name in lower case as hyper writes it.
pub(super) fn write(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    out[start..].make_ascii_lowercase();
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal.
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Elements of a comma-separated list, without the white space around them.
pub(super) fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_in_any_case() {
        for (name, field) in [
            ("Connection", Field::Connection),
            ("CONTENT-LENGTH", Field::ContentLength),
            ("date", Field::Date),
            ("Expect", Field::Expect),
            ("Forwarded", Field::Forwarded),
            ("hOST", Field::Host),
            ("HTTP2-Settings", Field::Http2Settings),
            ("Keep-Alive", Field::KeepAlive),
            ("endpoint-load-metrics", Field::Load),
            ("endpoint-load-metrics-bin", Field::LoadBinary),
            ("Proxy-Authorization", Field::ProxyAuthorization),
            ("Proxy-Connection", Field::ProxyConnection),
            ("TE", Field::Te),
            ("Trailer", Field::Trailer),
            ("Transfer-Encoding", Field::TransferEncoding),
            ("Upgrade", Field::Upgrade),
            ("Via", Field::Via),
            ("X-Forwarded-Client-Cert", Field::ForwardedClientCert),
            ("X-Forwarded-For", Field::ForwardedFor),
            ("X-Forwarded-Host", Field::ForwardedHost),
            ("X-Forwarded-Proto", Field::ForwardedProto),
            ("X-Request-Id", Field::RequestId),
            ("Traceparent", Field::TraceParent),
            ("tracestate", Field::TraceState),
            ("", Field::Other),
            ("Hosts", Field::Other),
            ("hest", Field::Other),
            ("x-request-ib", Field::Other),
        ] {
            assert_eq!(Field::of(name), field, "{name}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 7, 10, 64, 16_384, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
