//! HTTPS and HTTP/2 of the real binary against clients that are not ours: curl, Go's TLS and HTTP/2, and the conformance suite h2spec.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;
use trimtab_tests::tools::Tools;

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    socket.local_addr().expect("bound").port()
}

/// A folder of objects, and what serves it.
struct Served {
    folder: tempfile::TempDir,
    http: SocketAddr,
    https: SocketAddr,
    _pod: Pod,
    _trimtab: Process,
}

/// Writes a Secret, and the certificate in it for clients.
fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(&chain),
        indented(&key)
    );
    std::fs::write(folder.join("ca.pem"), chain).expect("written");
    std::fs::write(folder.join("secret.yaml.new"), secret).expect("written");
    std::fs::rename(folder.join("secret.yaml.new"), folder.join("secret.yaml")).expect("renamed");
}

async fn serve() -> Served {
    let service = ServiceTime::Exponential { ms_mean: 1.0 };
    let pod =
        Pod::start(PodSpec { name: "pod".to_owned(), service, ..PodSpec::default() }).await.expect("a pod starts");
    let folder = tempfile::tempdir().expect("a folder");
    write_certificate(folder.path());
    let (http, https) = (free_port(), free_port());
    let objects = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g}}
spec:
  gatewayClassName: trimtab
  addresses: [{{value: 127.0.0.1}}]
  listeners:
  - {{name: http, port: {http}, protocol: HTTP}}
  - {{name: https, port: {https}, protocol: HTTPS, tls: {{certificateRefs: [{{name: a}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{name: g}}]
  rules: [{{backendRefs: [{{name: s, port: 80}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: s}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
",
        pod.address().port()
    );
    std::fs::write(folder.path().join("objects.yaml"), objects).expect("written");
    let path = folder.path().to_str().expect("a path").to_owned();
    let args = ["up", "-f", &path, "--dashboard", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--no-recordings"];
    let trimtab = Process::start(args);
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let client = Client::default();
    let get = || async { client.get(address(http), "/").await.map(|answer| answer.status) };
    eventually("it serves", Duration::from_secs(20), get, |status| *status == Ok(200)).await;
    Served { folder, http: address(http), https: address(https), _pod: pod, _trimtab: trimtab }
}

/// What a command prints, if it succeeds.
async fn run(program: &Path, args: &[&str]) -> Result<String, String> {
    let run = Command::new(program).args(args).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(120), run).await.expect("it ends").expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_peoples_clients_agree_on_http_2_and_the_post_quantum_hybrid() {
    let tools = Tools::find(&["h2spec"]).await.expect("Go is here");
    let served = serve().await;
    let ca = served.folder.path().join("ca.pem");
    let ca = ca.to_str().expect("a path");
    let address = served.https.to_string();
    let handshake = async |ca: &str| run(tools.path("handshake").expect("built"), &[&address, "a.test", ca]).await;
    assert_eq!(handshake(ca).await.as_deref().map(str::trim), Ok("TLS 1.3 X25519MLKEM768 h2 HTTP/2.0 200"));

    let port = served.https.port();
    let (resolve, url) = (format!("a.test:{port}:127.0.0.1"), format!("https://a.test:{port}/"));
    let curl = async |more: &[&str]| {
        let format = "%{http_version} %{http_code}";
        let args = ["-sS", "-o", "/dev/null", "-w", format, "--cacert", ca, "--resolve", &resolve, &url];
        run(Path::new("curl"), &[&args[..], more].concat()).await
    };
    assert_eq!(curl(&["--http1.1"]).await.as_deref(), Ok("1.1 200"));
    assert_eq!(curl(&["--http2"]).await.as_deref(), Ok("2 200"));
    assert_eq!(curl(&["--tls-max", "1.2"]).await.as_deref(), Ok("2 200"));

    // A new certificate in the folder is shown without a restart; who trusts only the old one is told so.
    let old = served.folder.path().join("old.pem");
    std::fs::copy(ca, &old).expect("copied");
    write_certificate(served.folder.path());
    let again = || handshake(ca);
    eventually("the new certificate", Duration::from_secs(20), again, |said| {
        said.as_ref().is_ok_and(|s| s.contains("200"))
    })
    .await;
    let error = handshake(old.to_str().expect("a path")).await.expect_err("it is not shown any more");
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_finds_nothing() {
    let tools = Tools::find(&["h2spec"]).await.expect("Go is here");
    let served = serve().await;
    for (address, tls) in [(served.http, false), (served.https, true)] {
        let port = address.port().to_string();
        let mut args = vec!["-h", "127.0.0.1", "-p", &port, "-o", "5"];
        if tls {
            args.extend(["-t", "-k"]);
        }
        let said = run(tools.path("h2spec").expect("built"), &args).await;
        let (Ok(said) | Err(said)) = said;
        let summary = said.lines().rev().find(|line| line.contains(" passed")).unwrap_or_default().to_owned();
        // In clear text HTTP/1.1 is spoken too: what does not begin as HTTP/2 is answered 400 in HTTP/1.1 before the connection is closed, and
        // the suite cannot read that.
        let failures = said.lines().filter(|line| line.trim_start().starts_with('×')).map(str::trim);
        let failures: std::collections::BTreeSet<&str> = failures.collect();
        let allowed: &[&str] = if tls { &[] } else { &["× 2: Sends invalid connection preface"] };
        assert!(summary.starts_with("145 tests,"), "TLS {tls}: {summary}\n{said}");
        assert!(failures.iter().all(|failure| allowed.contains(failure)), "TLS {tls}: {failures:#?}\n{said}");
    }
}
