//! The image `pod` of the test cluster: the demo's simulated pod as a process, and a second port where it is told how to behave.
//!
//! Requests are served on 8080. On 9090: `GET /readyz` and `GET /livez` for probes, `PUT /state` with a [`State`] as JSON, `POST /exit/CODE`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use trimtab::demo::pod::{Pod, PodSpec};
use trimtab_tests::cluster::node::images::PodState as State;

/// A simulated pod
#[derive(Debug, Parser)]
struct Args {
    /// What it is, as JSON; see `trimtab::demo::pod::PodSpec`
    #[arg(long, env = "POD_SPEC", default_value = "{}")]
    spec: String,
    /// How it behaves from the start, as JSON
    #[arg(long, env = "POD_STATE", default_value = "{}")]
    state: String,
    /// Port of requests
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Port where it is told how to behave
    #[arg(long, default_value_t = 9090)]
    control_port: u16,
    /// It ends with this code right after its start
    #[arg(long)]
    exit: Option<i32>,
    /// It serves for this long after SIGTERM before it drains
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
    /// It does not end on SIGTERM
    #[arg(long)]
    stubborn: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(code) = args.exit {
        std::process::exit(code);
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let spec: PodSpec = serde_json::from_str(&args.spec).context("--spec")?;
    let pod = Pod::start_at(spec, (Ipv4Addr::UNSPECIFIED, args.port).into()).await.context("--port")?;
    let state: State = serde_json::from_str(&args.state).context("--state")?;
    pod.set_faults(state.faults);
    let inside = Arc::new(Inside { pod, state: Mutex::new(state) });
    let control: SocketAddr = (Ipv4Addr::UNSPECIFIED, args.control_port).into();
    let listener = TcpListener::bind(control).await.context("--control-port")?;
    tokio::spawn(serve(listener, Arc::clone(&inside)));
    terminated.recv().await;
    if args.stubborn {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(Duration::from_millis(args.linger_ms)).await;
    // Grace is the kubelet's to end.
    inside.pod.drain(Duration::from_secs(3600)).await;
    Ok(())
}

struct Inside {
    pod: Pod,
    state: Mutex<State>,
}

async fn serve(listener: TcpListener, inside: Arc<Inside>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let inside = Arc::clone(&inside);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&inside, request));
            // Who asked may go away.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(inside: &Inside, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let state = *inside.state.lock().unwrap_or_else(PoisonError::into_inner);
    let well = |well: bool| {
        if well { (StatusCode::OK, "ok\n".to_owned()) } else { (StatusCode::SERVICE_UNAVAILABLE, "no\n".to_owned()) }
    };
    let (parts, body) = request.into_parts();
    let (status, text) = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/readyz") => well(state.ready),
        (&Method::GET, "/livez") => well(state.live),
        (&Method::PUT, "/state") => match serde_json::from_slice::<State>(&body.collect().await?.to_bytes()) {
            Ok(state) => {
                *inside.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
                inside.pod.set_faults(state.faults);
                (StatusCode::OK, String::new())
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
        },
        (&Method::POST, path) if path.starts_with("/exit/") => match path["/exit/".len()..].parse() {
            Ok(code) => std::process::exit(code),
            Err(_) => (StatusCode::BAD_REQUEST, "expected /exit/CODE\n".to_owned()),
        },
        _ => (StatusCode::NOT_FOUND, "GET /readyz, GET /livez, PUT /state or POST /exit/CODE\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}
