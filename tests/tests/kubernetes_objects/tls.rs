//! Certificates as Secrets, and a client over TLS that is not ours: curl.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

/// A certificate for a host, as a client trusts it and as a Secret holds it.
pub struct Certificate {
    folder: tempfile::TempDir,
    /// The Secret's YAML but for its name.
    pub secret: String,
}

impl Certificate {
    /// A new one.
    pub fn new(host: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
        let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let secret = format!(
            "type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indented(&chain),
            indented(&key)
        );
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), chain).expect("written");
        Self { folder, secret }
    }

    /// The Secret with this name, in a namespace.
    pub fn as_secret(&self, namespace: &str, name: &str) -> String {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n{}", self.secret)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// The status of `GET https://HOST:PORT/` by who trusts this certificate and no other, on a new connection; else what curl says.
pub async fn get(host: &str, port: u16, trusted: &Certificate) -> Result<u16, String> {
    let (resolve, url) = (format!("{host}:{port}:127.0.0.1"), format!("https://{host}:{port}/"));
    let mut command = Command::new(Path::new("curl"));
    command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", &resolve, "--cacert"]);
    let run = command.arg(trusted.file()).arg(url).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(30), run).await.expect("it ends").expect("curl starts");
    match output.status.success() {
        true => String::from_utf8_lossy(&output.stdout).parse().map_err(|_| "no status".to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
