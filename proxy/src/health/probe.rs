//! One check of one endpoint, over a connection of its own: it must be able to get one, as a request would.

use std::{io, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{
    config::health::Probe,
    http::{shared::Local, upstream},
    table::Target,
    tls::endpoints::EndpointTls,
};

/// An answer to a check is read up to here.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Asks. A time limit is the caller's.
///
/// # Errors
/// Why the endpoint is not well, for people.
pub async fn ask(target: &Target, probe: &Probe) -> Result<(), String> {
    let socket = upstream::dial(&target.address).await.map_err(|error| format!("cannot connect: {error}"))?;
    let address = target.address.to_string();
    match probe {
        Probe::Tcp => Ok(()),
        Probe::Http { tls, path, hostname, expected } => {
            let host = hostname.clone().map_or_else(|| HeaderValue::from_str(&address), Ok);
            let host = host.map_err(|_| "its address cannot stand in a Host header".to_owned())?;
            let status = match own_tls(target, *tls, hostname.as_ref())? {
                Some(tls) => get(handshake(&tls, socket, b"http/1.1").await?, path, host).await,
                None => get(socket, path, host).await,
            };
            let status = status.map_err(|error| format!("no answer: {error}"))?;
            if expected.contains(&status) { Ok(()) } else { Err(format!("answered {}", status.as_u16())) }
        }
        Probe::Grpc { service, hostname } => {
            let host = hostname.as_ref().and_then(|name| name.to_str().ok()).unwrap_or(&address);
            match own_tls(target, false, hostname.as_ref())? {
                Some(tls) => grpc(handshake(&tls, socket, b"h2").await?, "https", host, service).await,
                None => grpc(socket, "http", host, service).await,
            }
        }
    }
}

/// How TLS is spoken, if it is: as with requests; otherwise, where only the check asks for it, with whoever answers.
fn own_tls(target: &Target, wanted: bool, hostname: Option<&HeaderValue>) -> Result<Option<Arc<EndpointTls>>, String> {
    if let Some(tls) = &target.tls {
        return Ok(Some(tls.clone()));
    }
    if !wanted {
        return Ok(None);
    }
    let host = hostname.and_then(|name| name.to_str().ok()).map_or_else(|| target.address.host(), str::to_owned);
    EndpointTls::unverified(&host).map(|tls| Some(Arc::new(tls)))
}

async fn handshake(
    tls: &EndpointTls,
    socket: TcpStream,
    protocol: &[u8],
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    tls.connect(socket, protocol).await.map_err(|error| format!("tls handshake: {error}"))
}

async fn get<S>(stream: S, path: &PathAndQuery, host: HeaderValue) -> io::Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driven = Aborted(tokio::task::spawn_local(async move {
        // Whatever ends it, the request tells.
        let _ = connection.await;
    }));
    let request = Request::get(Uri::from(path.clone()))
        .header(header::HOST, host)
        .header(header::USER_AGENT, "trimtab-health-check")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    drop(driven);
    Ok(answer.status())
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

async fn grpc<S>(stream: S, scheme: &str, host: &str, service: &str) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let no_answer = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) = http2::handshake(Local, TokioIo::new(stream)).await.map_err(no_answer)?;
    let _driven = Aborted(tokio::task::spawn_local(async move {
        let _ = connection.await;
    }));
    let request = Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "trimtab-health-check")
        .body(Full::new(framed(&HealthCheckRequest { service: service.to_owned() })))
        .map_err(|error| format!("cannot be asked: {error}"))?;
    let answer = sender.send_request(request).await.map_err(no_answer)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered {}", answer.status().as_u16()));
    }
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| format!("no answer: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
    match status.and_then(|status| status.to_str().ok()) {
        Some("0") => {}
        Some(status) => return Err(format!("answered with grpc-status {status}")),
        None => return Err("answered without a grpc-status".to_owned()),
    }
    // One message: a byte that says that it is not compressed, its length, itself.
    let bytes = body.to_bytes();
    let message = bytes.get(5..).and_then(|message| HealthCheckResponse::decode(message).ok());
    match message {
        Some(HealthCheckResponse { status: SERVING }) => Ok(()),
        Some(HealthCheckResponse { status }) => Err(format!(
            "says {}",
            match status {
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            }
        )),
        None => Err("answered what is not a HealthCheckResponse".to_owned()),
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// A task that ends with this.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
