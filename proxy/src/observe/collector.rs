//! An OpenTelemetry collector, and how it is reached: by OTLP over gRPC, in clear text or over TLS. What is sent there is made elsewhere:
//! spans in [`trace::otlp`](super::trace::otlp), metrics in [`red::otlp`](super::red::otlp).

use std::time::Duration;

use http::Uri;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::tls::endpoints::{roots, system_roots};

/// What a collector may take for one message, connecting included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a collector is, and as whom it is told.
#[derive(Debug, Clone)]
pub struct Collector {
    /// `http://host:4317`, or `https://` for TLS.
    pub uri: Uri,
    /// Certificates of the authorities, in PEM, of which the collector's must be; `None`: those that the machine trusts.
    pub authorities: Option<Vec<u8>>,
    /// `service.name` of what is sent.
    pub service: String,
}

impl Collector {
    /// One in clear text.
    pub fn plain(uri: Uri, service: &str) -> Self {
        Self { uri, authorities: None, service: service.to_owned() }
    }

    /// How to connect to it.
    ///
    /// # Errors
    /// What is wrong with the address or the authorities.
    pub fn endpoint(&self) -> Result<Endpoint, String> {
        let endpoint = Endpoint::from(self.uri.clone()).connect_timeout(PATIENCE).timeout(PATIENCE);
        match self.uri.scheme_str() {
            Some("http") if self.authorities.is_none() => Ok(endpoint),
            Some("http") => Err("authorities are for https://".to_owned()),
            Some("https") => {
                let roots = match &self.authorities {
                    None => system_roots(),
                    Some(pem) => std::sync::Arc::new(roots(pem).map_err(|reason| format!("authorities: {reason}"))?),
                };
                let tls = ClientTlsConfig::new().trust_anchors(roots.roots.iter().cloned());
                endpoint.tls_config(tls).map_err(|error| error.to_string())
            }
            _ => Err("is not a URL such as http://127.0.0.1:4317 or https://collector:4317".to_owned()),
        }
    }

    /// Who sends.
    pub(super) fn resource(&self, proxy_id: &str) -> Resource {
        let attributes = vec![
            text("service.name", &self.service),
            text("service.instance.id", proxy_id),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ];
        Resource { attributes, ..Resource::default() }
    }
}

/// Whose words these are.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "trimtab".to_owned(), ..InstrumentationScope::default() }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(super) fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

pub(super) fn real(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &'static str, authorities: Option<&str>, expected: Result<(), &str>) {
        let authorities = authorities.map(|pem| pem.as_bytes().to_vec());
        let collector = Collector { uri: Uri::from_static(uri), authorities, service: String::new() };
        assert_eq!(collector.endpoint().map(drop), expected.map_err(str::to_owned), "{uri}");
    }

    #[test]
    fn what_cannot_be_reached_so_is_said() {
        check("http://127.0.0.1:4317", None, Ok(()));
        check("http://127.0.0.1:4317", Some("x"), Err("authorities are for https://"));
        check("https://a.test:4317", Some("x"), Err("authorities: has no certificate in PEM"));
        let wanted = "is not a URL such as http://127.0.0.1:4317 or https://collector:4317";
        check("ftp://a.test", None, Err(wanted));
        check("a.test:4317", None, Err(wanted));
    }
}
