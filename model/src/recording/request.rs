//! One row a sampled request.

use super::columns::rows;

rows! {
    /// One sampled request, as its proxy saw it.
    pub struct RequestRow: "requests" {
        /// Start of the request, milliseconds since the Unix epoch.
        pub at_ms: i64,
        /// Id of the proxy.
        pub proxy: String,
        /// `namespace/name` of the route.
        pub route: String,
        /// HTTP method.
        pub method: String,
        /// Number of the request's class in its proxy, which may stand for another class later; 0: of none.
        pub class: u32,
        /// `namespace/service:port`.
        pub backend: String,
        /// Key of the endpoint that answered.
        pub endpoint: u64,
        /// The proxy's own in-flight count at the endpoint when it was picked.
        pub in_flight: u32,
        /// From the first byte of the request to the last of the response.
        pub latency_ms: f64,
        /// HTTP status; null where there was no answer.
        pub status: Option<u32>,
        /// Bytes of the request's body.
        pub request_bytes: u64,
        /// Bytes of the response's body.
        pub response_bytes: u64,
        /// Endpoints tried, this one included.
        pub attempts: u32,
        /// Identity of its class, the same in all proxies; null where it is of none, or was recorded before there were classes.
        pub class_key: Option<u64>,
        /// The name of its class, e.g. `GET /users/{}`.
        pub class_name: Option<String>,
        /// Requests of all proxies in flight at the endpoint when it was picked, as the rule took them to be; null where none was picked, or in
        /// recordings that are older than the column.
        pub in_flight_all: Option<f32>,
    }
}
