//! TLS towards clients: certificates by name, reloads, sessions, versions, and the same HTTP inside.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use trimtab_proxy::api::v1;

use crate::{
    classes::admin,
    harness::{Backend, Proxy, RawBackend, Setup, client::Raw, eventually},
};

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
    let setup = with_tls(Setup::to(&[backend.address]), tls(&[&old])).with_admin();
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
    let metrics = admin(&proxy, "/metrics").await;
    let runs_out = "trimtab_proxy_certificate_expiry_timestamp_seconds{listener=\"test/gateway/http\",certificate=\"test/cert\"} 6";
    assert!(metrics.contains(runs_out), "{metrics}");
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

/// An authority, and what it has signed.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: Vec<u8>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem().into_bytes();
        Self { issuer: rcgen::Issuer::new(parameters, key), pem }
    }

    fn sign(&self, name: &str) -> v1::Certificate {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        v1::Certificate {
            name: format!("test/{name}"),
            chain_pem: parameters.signed_by(&key, &self.issuer).unwrap().pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }
    }
}

fn key_of(certificate: &v1::Certificate) -> rustls::pki_types::PrivateKeyDer<'static> {
    rustls::pki_types::PrivateKeyDer::from_pem_slice(&certificate.key_pem).unwrap()
}

/// A client that trusts `server` and shows `own`.
fn client_with(server: &v1::Certificate, own: &v1::Certificate) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&server.chain_pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&own.chain_pem).unwrap()];
    Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key_of(own)).unwrap())
}

#[tokio::test]
async fn clients_prove_who_they_are_and_endpoints_are_told_what_holds() {
    let backend = Backend::saying("hello").await;
    let server = certificate(&["a.test"]);
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (friend, stranger) = (ours.sign("friend.test"), theirs.sign("stranger.test"));
    let xfcc = "x-forwarded-client-cert";
    for (fast_path, optional) in [(true, false), (false, false), (true, true), (false, true)] {
        let asked = v1::ClientValidation { ca_pem: ours.pem.clone(), optional };
        let asked = v1::Tls { client: Some(asked), forward_client_certificate: true, ..tls(&[&server]) };
        let proxy = with_tls(Setup::to(&[backend.address]), asked).fast_path(fast_path).start().await;
        let forged = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{xfcc}: Subject=\"CN=forged\"\r\n\r\n");
        let ask = async |config: Arc<ClientConfig>| {
            let mut raw = connect(&config, proxy.address(), "a.test").await.ok()?;
            raw.try_write(&forged).await.ok()?;
            raw.try_answer().await.filter(|answer| answer.status == 200)?;
            Some(backend.last_headers().get(xfcc).map(|value| value.to_str().unwrap().to_owned()))
        };
        let told = ask(client_with(&server, &friend)).await.expect("it is let in").expect("and told of");
        assert!(told.starts_with("Hash=") && told.ends_with(";Subject=\"CN=friend.test\";DNS=friend.test"), "{told}");
        let nothing = optional.then_some(None);
        assert_eq!(ask(client_with(&server, &stranger)).await, nothing);
        assert_eq!(ask(Arc::new(client(&[&server]))).await, nothing);
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_own_certificate_is_not_passed_on() {
    let backend = Backend::saying("hello").await;
    for fast_path in [true, false] {
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).start().await;
        let request = "GET / HTTP/1.1\r\nhost: t\r\nx-forwarded-client-cert: Subject=\"CN=forged\"\r\n\r\n";
        assert_eq!(proxy.send(request).await.status, 200);
        assert!(!backend.last_headers().contains_key("x-forwarded-client-cert"));
    }
}

/// A server over TLS that agrees to `protocol` and, if `clients` is set, asks for a certificate.
async fn secure_endpoint(own: &v1::Certificate, protocol: &[u8], clients: Option<&Authority>) -> RawBackend {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(&authority.pem).unwrap()).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = vec![CertificateDer::from_pem_slice(&own.chain_pem).unwrap()];
    let mut config = builder.with_single_cert(chain, key_of(own)).unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    let (acceptor, http2) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), protocol == b"h2");
    RawBackend::new(move |stream, number| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
                use http_body_util::BodyExt;
                let scheme = request.uri().scheme_str().unwrap_or("-").to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let answer = format!("connection {number}, {scheme}, {} bytes", body.len());
                Ok::<_, std::convert::Infallible>(crate::harness::text(answer))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            if http2 {
                let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                let _ = builder.serve_connection(io, service).await;
            } else {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        }
    })
    .await
}

fn to_endpoint(tls: v1::EndpointTls, protocol: v1::Protocol) -> impl FnOnce(&mut v1::Backend) {
    move |backend| {
        backend.tls = Some(tls);
        backend.protocol = protocol.into();
    }
}

#[tokio::test]
async fn endpoints_are_spoken_to_over_tls_in_both_versions_of_http_and_connections_are_kept() {
    let authority = Authority::new("ours");
    let own = authority.sign("pod.test");
    let tls = v1::EndpointTls { hostname: "pod.test".into(), ca_pem: authority.pem.clone(), ..Default::default() };
    for (fast_path, alpn, protocol) in [
        (true, &b"http/1.1"[..], v1::Protocol::Http11),
        (false, b"http/1.1", v1::Protocol::Http11),
        (false, b"h2", v1::Protocol::H2c),
    ] {
        let endpoint = secure_endpoint(&own, alpn, None).await;
        let mut setup = Setup::to(&[endpoint.address]).fast_path(fast_path);
        setup.workers = 1;
        let proxy = setup.backend(to_endpoint(tls.clone(), protocol)).start().await;
        let scheme = if alpn == b"h2" { "https" } else { "-" };
        let mut raw = proxy.raw().await;
        for size in [0, 10, 300_000] {
            let body = "x".repeat(size);
            raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {size}\r\n\r\n{body}")).await;
            let answer = raw.answer().await;
            assert_eq!((answer.status, answer.body), (200, format!("connection 0, {scheme}, {size} bytes")));
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_prove_who_it_is_is_not_spoken_to() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = v1::EndpointTls { hostname: "pod.test".into(), ca_pem: ours.pem.clone(), ..Default::default() };
    let status = async |own: &v1::Certificate, tls: v1::EndpointTls| {
        let endpoint = secure_endpoint(own, b"http/1.1", None).await;
        let proxy = Setup::to(&[endpoint.address]).backend(to_endpoint(tls, v1::Protocol::Http11)).start().await;
        proxy.get("/").await.status
    };
    let pod = ours.sign("pod.test");
    assert_eq!(status(&pod, good.clone()).await, 200);
    assert_eq!(status(&theirs.sign("pod.test"), good.clone()).await, 502, "another authority");
    assert_eq!(status(&ours.sign("other.test"), good.clone()).await, 502, "another name");
    let alternative = v1::EndpointTls { subject_alt_names: vec!["x.test".into(), "other.test".into()], ..good.clone() };
    assert_eq!(status(&ours.sign("other.test"), alternative.clone()).await, 200);
    assert_eq!(status(&pod, alternative).await, 502, "the names stand for the host's");
    assert_eq!(status(&pod, v1::EndpointTls { nobody: true, ..good.clone() }).await, 502);
    assert_eq!(status(&pod, v1::EndpointTls { ca_pem: Vec::new(), ..good }).await, 502, "the system does not know it");
}

#[tokio::test]
async fn an_endpoint_is_shown_the_proxys_own_certificate() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let pod = ours.sign("pod.test");
    let shown = |certificate: Option<v1::Certificate>| v1::EndpointTls {
        hostname: "pod.test".into(),
        ca_pem: ours.pem.clone(),
        client_certificate: certificate,
        ..Default::default()
    };
    for fast_path in [true, false] {
        let endpoint = secure_endpoint(&pod, b"http/1.1", Some(&clients)).await;
        let status = async |certificate: Option<v1::Certificate>| {
            let setup = Setup::to(&[endpoint.address]).fast_path(fast_path);
            let proxy = setup.backend(to_endpoint(shown(certificate), v1::Protocol::Http11)).start().await;
            proxy.get("/").await.status
        };
        assert_eq!(status(Some(clients.sign("proxy.test"))).await, 200);
        assert_eq!(status(Some(ours.sign("proxy.test"))).await, 502);
        assert_eq!(status(None).await, 502);
    }
}
