//! TLS towards clients: certificates by name, reloads, sessions, versions, and the same HTTP inside.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use trimtab_proxy::api::v1;

use crate::harness::{Backend, Proxy, RawBackend, Setup, client::Raw, eventually};

/// A certificate that signs itself.
fn certificate(names: &[&str]) -> v1::Certificate {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    v1::Certificate {
        name: "test/cert".into(),
        chain_pem: made.cert.pem().into_bytes(),
        key_pem: made.signing_key.serialize_pem().into_bytes(),
    }
}

fn tls(certificates: &[&v1::Certificate]) -> v1::Tls {
    v1::Tls { certificates: certificates.iter().map(|one| (*one).clone()).collect(), ..Default::default() }
}

/// Trusts these certificates and no others.
fn client(trusted: &[&v1::Certificate]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(CertificateDer::from_pem_slice(&certificate.chain_pem).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_root_certificates(roots).with_no_client_auth()
}

async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &'static str,
) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let stream = TlsConnector::from(config.clone()).connect(ServerName::try_from(name).unwrap(), socket).await?;
    Ok(Raw::over(stream))
}

async fn get(raw: &mut Raw<TlsStream<TcpStream>>, host: &str) -> crate::harness::Answer {
    raw.write(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    raw.answer().await
}

fn with_tls(mut setup: Setup, tls: v1::Tls) -> Setup {
    setup.listener.tls = Some(tls);
    setup
}

/// The certificate that the proxy showed.
fn shown(raw: &Raw<TlsStream<TcpStream>>) -> Vec<u8> {
    raw.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(certificate: &v1::Certificate) -> Vec<u8> {
    CertificateDer::from_pem_slice(&certificate.chain_pem).unwrap().to_vec()
}

#[tokio::test]
async fn requests_pass_over_tls_on_both_paths_and_the_endpoint_is_told() {
    let backend = Backend::saying("hello").await;
    let certificate = certificate(&["a.test"]);
    let config = Arc::new(client(&[&certificate]));
    for fast_path in [true, false] {
        let setup = with_tls(Setup::to(&[backend.address]), tls(&[&certificate])).fast_path(fast_path);
        let proxy = setup.start().await;
        let mut raw = connect(&config, proxy.address(), "a.test").await.unwrap();
        for _ in 0..3 {
            let answer = get(&mut raw, "a.test").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        }
        let seen = backend.last_headers();
        assert_eq!(seen["x-forwarded-proto"], "https");
        assert_eq!(seen["forwarded"], "for=127.0.0.1;proto=https;host=\"a.test\"");
        // The end is said: a stream that just stops might have been cut.
        raw.write("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
        let (rest, clean) = raw.rest().await;
        assert!(rest.is_empty() && clean);
    }
}

#[tokio::test]
async fn the_post_quantum_hybrid_is_negotiated_with_who_can() {
    let certificate = certificate(&["a.test"]);
    let proxy = with_tls(Setup::to(&[]), tls(&[&certificate])).start().await;
    let group = async |config: ClientConfig| {
        let raw = connect(&Arc::new(config), proxy.address(), "a.test").await.unwrap();
        raw.stream.get_ref().1.negotiated_key_exchange_group().unwrap().name()
    };
    assert_eq!(group(client(&[&certificate])).await, NamedGroup::X25519MLKEM768);
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let with = |provider: rustls::crypto::CryptoProvider| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&certificate.chain_pem).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth()
    };
    assert_eq!(group(with(provider)).await, NamedGroup::X25519, "who cannot is served all the same");
}

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_listener_and_certificate() {
    let backend = Backend::saying("hello").await;
    let (a, b, wild) = (certificate(&["a.test"]), certificate(&["b.test"]), certificate(&["*.w.test"]));
    let mut setup = with_tls(Setup::to(&[backend.address]), tls(&[&a, &b]));
    // A fixed port, because only then do listeners share it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    setup.listener.port = u32::from(port);
    setup.listener.hostname = "*.test".into();
    let second = v1::Listener {
        name: "test/gateway/w".into(),
        hostname: "*.w.test".into(),
        tls: Some(tls(&[&wild])),
        ..setup.listener.clone()
    };
    let proxy = setup.start().await;
    proxy.controller.set_listener(&second);
    let config = Arc::new(client(&[&a, &b, &wild]));
    eventually("the second listener serves", || async { connect(&config, proxy.address(), "x.w.test").await.is_ok() })
        .await;
    for (name, expected) in [("a.test", &a), ("b.test", &b), ("x.w.test", &wild)] {
        let raw = connect(&config, proxy.address(), name).await.unwrap();
        assert_eq!(shown(&raw), der(expected), "{name}");
    }
    let error = connect(&config, proxy.address(), "elsewhere.example").await.err().unwrap();
    assert!(error.to_string().contains("UnrecognisedName") || error.to_string().contains("alert"), "{error}");
    // A connection for one listener's host takes no requests for another's.
    let mut raw = connect(&config, proxy.address(), "a.test").await.unwrap();
    assert_eq!(get(&mut raw, "a.test").await.status, 200);
    assert_eq!(get(&mut raw, "b.test").await.status, 200, "of the same listener");
    let answer = get(&mut raw, "x.w.test").await;
    assert_eq!((answer.status, answer.reason()), (421, Some("misdirected")));
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_drops_no_old_one() {
    let backend = Backend::saying("hello").await;
    let (old, new) = (certificate(&["a.test"]), certificate(&["a.test"]));
    let setup = with_tls(Setup::to(&[backend.address]), tls(&[&old]));
    let mut listener = setup.listener.clone();
    let proxy = setup.start().await;
    let config = Arc::new(client(&[&old, &new]));
    let mut before = connect(&config, proxy.address(), "a.test").await.unwrap();
    assert_eq!((get(&mut before, "a.test").await.status, shown(&before)), (200, der(&old)));
    listener.tls = Some(tls(&[&new]));
    proxy.controller.set_listener(&listener);
    // Without sessions: a resumed one shows no certificate.
    let mut fresh = client(&[&old, &new]);
    fresh.resumption = rustls::client::Resumption::disabled();
    let fresh = Arc::new(fresh);
    eventually("the new one is shown", || async {
        shown(&connect(&fresh, proxy.address(), "a.test").await.unwrap()) == der(&new)
    })
    .await;
    assert_eq!(get(&mut before, "a.test").await.status, 200, "the old connection goes on");
    // One that makes no sense changes nothing.
    listener.tls = Some(tls(&[&v1::Certificate { key_pem: old.key_pem.clone(), ..new.clone() }]));
    proxy.controller.set_listener(&listener);
    eventually("it is refused", || async { !proxy.controller.refusals().is_empty() }).await;
    let refusals = proxy.controller.refusals().join("\n");
    assert!(refusals.contains("tls.certificates[0].key_pem: does not go with the certificate"), "{refusals}");
    assert!(!refusals.contains("PRIVATE KEY"), "{refusals}");
    assert_eq!(shown(&connect(&fresh, proxy.address(), "a.test").await.unwrap()), der(&new));
}

#[tokio::test]
async fn a_session_is_resumed_by_any_worker_and_after_a_reload() {
    let certificate = certificate(&["a.test"]);
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let backend = Backend::saying("hello").await;
        let setup = with_tls(Setup::to(&[backend.address]), tls(&[&certificate]));
        let listener = setup.listener.clone();
        let proxy = setup.start().await;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&certificate.chain_pem).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let kind = async || {
            let mut raw = connect(&config, proxy.address(), "a.test").await.unwrap();
            assert_eq!(get(&mut raw, "a.test").await.status, 200);
            raw.stream.get_ref().1.handshake_kind().unwrap()
        };
        assert_ne!(kind().await, HandshakeKind::Resumed);
        for _ in 0..8 {
            // Two workers: some of these connections meet the other one.
            assert_eq!(kind().await, HandshakeKind::Resumed);
        }
        let mut listener = listener;
        listener.limits = Some(v1::ListenerLimits { max_connections: Some(1000), ..Default::default() });
        proxy.controller.set_listener(&listener);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(kind().await, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn an_older_version_than_allowed_gets_no_handshake() {
    let certificate = certificate(&["a.test"]);
    let only_13 = v1::Tls { min_version: v1::tls::Version::Tls13.into(), ..tls(&[&certificate]) };
    let proxy = with_tls(Setup::to(&[]), only_13).start().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&certificate.chain_pem).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider);
    let old = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap().with_root_certificates(roots);
    let error = connect(&Arc::new(old.with_no_client_auth()), proxy.address(), "a.test").await.err().unwrap();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
    connect(&Arc::new(client(&[&certificate])), proxy.address(), "a.test").await.unwrap();
}

#[tokio::test]
async fn who_never_shakes_hands_is_cut_off() {
    let certificate = certificate(&["a.test"]);
    let limits = v1::ListenerLimits { header_timeout_ms: Some(200), ..Default::default() };
    let proxy: Proxy = with_tls(Setup::to(&[]), tls(&[&certificate])).limits(limits).start().await;
    let mut silent = proxy.raw().await;
    silent.is_closed().await;
    let mut clear = proxy.raw().await;
    clear.write("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    let (rest, _) = clear.rest().await;
    assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1 200"), "clear text is not served");
}

#[tokio::test]
async fn large_bodies_pass_over_tls_both_ways_and_are_held_back_by_a_slow_reader() {
    let backend = RawBackend::new(|stream, _| async move {
        let mut raw = Raw::over(stream);
        let head = raw.head_of_request().await;
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        let body = raw.bytes(length).await;
        raw.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
        raw.write(&body).await;
        let _ = raw.rest().await;
    })
    .await;
    let certificate = certificate(&["a.test"]);
    let config = Arc::new(client(&[&certificate]));
    for fast_path in [true, false] {
        let setup = with_tls(Setup::to(&[backend.address]), tls(&[&certificate])).fast_path(fast_path);
        let proxy = setup.start().await;
        let raw = connect(&config, proxy.address(), "a.test").await.unwrap();
        let body: Vec<u8> = (0..5_000_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
        let (mut read, mut write) = tokio::io::split(raw.stream);
        let upload = body.clone();
        let writer = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", upload.len());
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&upload).await.unwrap();
            write.flush().await.unwrap();
            write
        });
        // Not a byte is read while everything is on its way.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut text = Vec::new();
        let expected = body.len();
        while text.len() < expected || !text.ends_with(&body[expected - 100..]) {
            use tokio::io::AsyncReadExt;
            let got = tokio::time::timeout(Duration::from_secs(10), read.read_buf(&mut text)).await.unwrap().unwrap();
            assert!(got > 0, "ended after {} bytes", text.len());
        }
        assert!(text.starts_with(b"HTTP/1.1 200 OK\r\n") && text.ends_with(&body));
        drop(writer.await.unwrap());
    }
}
