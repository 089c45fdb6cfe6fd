//! A real Chromium, driven over its DevTools pipe: messages of JSON, each ended by a zero byte, on file descriptors 3 and 4.
//! A shell puts our pipes there, so no web socket and no port is needed.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long anything in the browser may take. A loaded machine starts Chromium slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// A window, as the page sees it.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

/// One page in one browser.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: Option<String>,
    sent: u64,
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// Where Chromium is: `TRIMTAB_CHROMIUM`, else `chromium` or `google-chrome` on the path.
pub fn chromium() -> PathBuf {
    if let Some(named) = std::env::var_os("TRIMTAB_CHROMIUM") {
        let path = PathBuf::from(named);
        assert!(path.is_file(), "TRIMTAB_CHROMIUM names {}, which is not a file", path.display());
        return path;
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    ["chromium", "google-chrome"]
        .iter()
        .flat_map(|name| std::env::split_paths(&folders).map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
        .expect("no chromium or google-chrome on the path: install one with tests/tools.sh, or set TRIMTAB_CHROMIUM")
}

impl Browser {
    /// Opens `url` in a window.
    pub async fn open(url: &str, window: Window) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 >/dev/null 2>&1 </dev/null"])
            .arg(chromium())
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"])
            .args(["--disable-extensions", "--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser =
            Self { child, input, output, session: None, sent: 0, complaints: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let session = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.call(domain, json!({})).await;
        }
        browser.resize(window).await;
        browser.call("Page.navigate", json!({"url": url})).await;
        browser.until("document.readyState === 'complete' && location.href !== 'about:blank'").await;
        browser
    }

    /// Changes the window.
    pub async fn resize(&mut self, window: Window) {
        let Window { width, height, dark } = window;
        let mobile = width < 600;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// The value of a JavaScript expression, which may be a promise.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        for _ in 0..PATIENCE.as_millis() / 100 {
            if self.evaluate(&format!("Boolean({expression})")).await == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let text = self.text().await;
        panic!("never true: {expression}\ncomplaints: {:?}\nthe page says: {text}", self.complaints);
    }

    /// Presses and releases a key, by its DOM name.
    pub async fn press(&mut self, key: &str) {
        let (code, text) = if key == "Enter" { (13, "\r") } else { (9, "") };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Scrolls an element into the middle and points at it.
    pub async fn point_at(&mut self, selector: &str) {
        let scroll = format!("document.querySelector('{selector}').scrollIntoView({{block: 'center'}})");
        self.evaluate(&scroll).await;
        self.painted().await;
        let middle = format!(
            "(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let at = self.evaluate(&middle).await;
        self.call("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": at[0], "y": at[1]})).await;
    }

    /// Waits for two frames: what was asked for before is then also painted.
    async fn painted(&mut self) {
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))").await;
    }

    /// CPU time of the page's main thread, in milliseconds.
    pub async fn busy_ms(&mut self) -> f64 {
        self.call("Performance.enable", json!({"timeDomain": "threadTicks"})).await;
        let answer = self.call("Performance.getMetrics", json!({})).await;
        let metrics = answer["metrics"].as_array().unwrap();
        let busy = metrics.iter().find(|metric| metric["name"] == "TaskDuration").unwrap();
        busy["value"].as_f64().unwrap() * 1_000.0
    }

    /// Waits until the page has drawn another tick.
    pub async fn next_tick(&mut self) {
        let rows = "document.querySelector('#foot-recording').textContent";
        let before = self.evaluate(rows).await;
        self.until(&format!("{rows} !== {before}")).await;
    }

    /// What a person can read on the page.
    pub async fn text(&mut self) -> String {
        self.evaluate("document.body.innerText").await.as_str().unwrap_or_default().to_owned()
    }

    /// Writes a picture of the whole page to `target/screenshots/`.
    pub async fn screenshot(&mut self, name: &str) -> PathBuf {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("screenshots").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.painted().await;
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(&path, png).unwrap();
        path
    }

    /// Everything that the console holds against the page: errors, warnings, exceptions, refused or failed loads.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Ends the browser.
    pub async fn close(mut self) {
        self.session = None;
        self.send("Browser.close", json!({})).await;
        if timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            self.child.kill().await.unwrap();
        }
    }

    /// A command of the DevTools protocol, and its answer.
    pub async fn call(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.send(method, parameters).await;
        loop {
            let mut message = self.receive(method).await;
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {}", message["error"]);
                return message["result"].take();
            }
            self.complaints.extend(complaint(&message));
        }
    }

    async fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.unwrap_or_else(|error| panic!("Chromium has gone before {method}: {error}"));
        self.sent
    }

    async fn receive(&mut self, waiting_for: &str) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.output.read_until(0, &mut bytes)).await;
        read.unwrap_or_else(|_| panic!("no answer to {waiting_for} in {PATIENCE:?}")).unwrap();
        assert!(bytes.pop() == Some(0), "Chromium ended before it answered {waiting_for}: is it installed completely?");
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// What an event of the protocol says against the page, if it does.
fn complaint(message: &Value) -> Option<String> {
    let parameters = &message["params"];
    match message["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if ["error", "warning", "assert"].contains(&parameters["type"].as_str()?) => {
            Some(parameters["args"].to_string())
        }
        "Log.entryAdded" if ["error", "warning"].contains(&parameters["entry"]["level"].as_str()?) => {
            Some(parameters["entry"].to_string())
        }
        _ => None,
    }
}
