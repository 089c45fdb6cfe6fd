//! Probes of a container, as kubelet makes them. Startup and readiness probes that have not succeeded yet ask ten times a second, whatever
//! their period, since tests wait for them; their failures count once a period all the same.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How often is asked what has not succeeded yet.
const STARTING_PERIOD: Duration = Duration::from_millis(100);

/// What is asked, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    action: Action,
    delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Http { port: u16, path: String, headers: Vec<(String, String)> },
    Tcp { port: u16 },
}

impl Checks {
    /// The checks of a probe, with the API's defaults.
    ///
    /// # Errors
    /// If the probe is of a kind that is not supported here, or names a port that the container does not have; for people.
    pub fn of(probe: &Probe, container: &Container) -> Result<Self, String> {
        let action = match (&probe.http_get, &probe.tcp_socket) {
            (Some(get), _) if get.scheme.as_deref().is_none_or(|scheme| scheme == "HTTP") => Action::Http {
                port: port(&get.port, container)?,
                path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
                headers: get
                    .http_headers
                    .iter()
                    .flatten()
                    .map(|header| (header.name.clone(), header.value.clone()))
                    .collect(),
            },
            (None, Some(socket)) => Action::Tcp { port: port(&socket.port, container)? },
            _ => return Err("only probes by httpGet without TLS and by tcpSocket are supported here".to_owned()),
        };
        let number = |value: Option<i32>, default: u32| value.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        let seconds = |value, default| Duration::from_secs(number(value, default).into());
        Ok(Self {
            action,
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: number(probe.success_threshold, 1),
            failures: number(probe.failure_threshold, 3),
        })
    }

    /// Asks until dropped, and says each time that the opinion changes: whether the container is well. An eager one asks more often
    /// until it is.
    pub async fn run(&self, address: IpAddr, eager: bool, mut say: impl FnMut(bool)) {
        tokio::time::sleep(self.delay).await;
        let mut verdict = Verdict::default();
        let mut next = Instant::now();
        let mut count_failures_from = next;
        loop {
            tokio::time::sleep_until(next).await;
            let well = matches!(timeout(self.timeout, self.action.ask(address)).await, Ok(Ok(())));
            let now = Instant::now();
            if (well || now >= count_failures_from) && verdict.heard(well, self.successes, self.failures) {
                say(well);
            }
            if now >= count_failures_from {
                count_failures_from = now + self.period;
            }
            let waits = eager && verdict.well != Some(true);
            next = now + if waits { self.period.min(STARTING_PERIOD) } else { self.period };
        }
    }
}

/// What a row of answers amounts to.
#[derive(Debug, Default)]
struct Verdict {
    well: Option<bool>,
    streak: u32,
    last: Option<bool>,
}

impl Verdict {
    /// Takes an answer; whether it changes the verdict. Failure has to be repeated from the start on too: a container that has never
    /// succeeded is not ready anyway, but liveness must wait.
    fn heard(&mut self, well: bool, successes: u32, failures: u32) -> bool {
        self.streak = if self.last == Some(well) { self.streak + 1 } else { 1 };
        self.last = Some(well);
        let enough = self.streak >= if well { successes } else { failures };
        let changed = enough && self.well != Some(well);
        if changed {
            self.well = Some(well);
        }
        changed
    }
}

impl Action {
    async fn ask(&self, address: IpAddr) -> Result<(), String> {
        let port = match self {
            Self::Http { port, .. } | Self::Tcp { port } => *port,
        };
        let stream = TcpStream::connect(SocketAddr::new(address, port)).await.map_err(|error| error.to_string())?;
        let Self::Http { path, headers, .. } = self else { return Ok(()) };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let mut request =
            http::Request::get(path).header("host", address.to_string()).header("user-agent", "kube-probe/1.34");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let answer = tokio::select! {
            answer = sender.send_request(request) => answer,
            ended = connection => return Err(ended.err().map_or("no answer".to_owned(), |error| error.to_string())),
        };
        let status = answer.map_err(|error| error.to_string())?.status();
        if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(status.to_string()) }
    }
}

/// The number of a port that may be given by name.
fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| format!("container {} has no port {port:?}", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_changes_after_enough_answers_in_a_row() {
        let mut verdict = Verdict::default();
        let answers = [true, true, false, false, true, false, false, false, true, true];
        let changes: Vec<bool> = answers.iter().map(|well| verdict.heard(*well, 2, 3)).collect();
        assert_eq!(changes, [false, true, false, false, false, false, false, true, false, true]);
    }

    #[test]
    fn ports_are_found_by_name() {
        let container = serde_json::json!({ "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] });
        let container: Container = serde_json::from_value(container).expect("a container");
        assert_eq!(port(&IntOrString::String("http".to_owned()), &container), Ok(8080));
        assert_eq!(port(&IntOrString::Int(9), &container), Ok(9));
        assert!(port(&IntOrString::String("grpc".to_owned()), &container).is_err());
    }
}
