//! Simulated pods in a process of their own, steered by JSON lines on its standard input. `serve` is that process,
//! [`PodsProcess`] the other end.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use trimtab::demo::faults::Faults;
use trimtab::demo::pod::{Pod, PodSpec};

use crate::tools::own_binary;

/// What a pods process can be told. Pods are numbered from 0 in the order in which they were started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Start a pod.
    Start(Box<PodSpec>),
    /// Change what is wrong with a pod.
    Faults {
        /// Which.
        pod: usize,
        /// From now on.
        faults: Faults,
    },
    /// Let a pod finish what it has, and end.
    Drain {
        /// Which.
        pod: usize,
        /// It accepts connections for this long yet.
        after_ms: u64,
    },
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A pod listens there.
    Started(SocketAddr),
    /// It is done.
    Done,
    /// It could not be done.
    Failed(String),
}

/// Obeys orders from standard input until it ends.
///
/// # Errors
/// If standard input or output break.
pub async fn serve() -> anyhow::Result<()> {
    let mut pods: Vec<std::sync::Arc<Pod>> = Vec::new();
    let (lines, mut orders) = tokio::sync::mpsc::unbounded_channel();
    // Reading standard input blocks, and cannot be given up: a thread of its own, which ends with the input.
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    while let Some(line) = orders.recv().await {
        let answer = match serde_json::from_str::<Order>(&line) {
            Ok(order) => obey(&mut pods, order).await,
            Err(error) => Answer::Failed(format!("{line:?} is no order: {error}")),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

async fn obey(pods: &mut Vec<std::sync::Arc<Pod>>, order: Order) -> Answer {
    let unknown = |pod: usize| Answer::Failed(format!("there is no pod {pod}"));
    match order {
        Order::Start(spec) => match Pod::start(*spec).await {
            Ok(pod) => {
                let address = pod.address();
                pods.push(pod.into());
                Answer::Started(address)
            }
            Err(error) => Answer::Failed(error.to_string()),
        },
        Order::Faults { pod, faults } => match pods.get(pod) {
            Some(pod) => {
                pod.set_faults(faults);
                Answer::Done
            }
            None => unknown(pod),
        },
        Order::Drain { pod, after_ms } => match pods.get(pod).cloned() {
            Some(pod) => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    pod.drain(Duration::from_secs(10)).await;
                });
                Answer::Done
            }
            None => unknown(pod),
        },
    }
}

/// A pods process, seen from outside. It ends when this is dropped.
#[derive(Debug)]
pub struct PodsProcess {
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl PodsProcess {
    /// Starts the process, without a pod yet.
    ///
    /// # Errors
    /// If the `pods` binary is not built.
    pub fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(own_binary("pods")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the pods process")?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { orders, answers, _child: child })
    }

    /// Gives an order and waits for the answer.
    ///
    /// # Errors
    /// If the process is gone or could not obey.
    pub async fn order(&mut self, order: &Order) -> anyhow::Result<Option<SocketAddr>> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).await.context("the pods process is gone")?;
        let line = self.answers.next_line().await?.context("the pods process is gone")?;
        match serde_json::from_str(&line)? {
            Answer::Started(address) => Ok(Some(address)),
            Answer::Done => Ok(None),
            Answer::Failed(why) => bail!("the pods process refused {order:?}: {why}"),
        }
    }

    /// Starts a pod; tells where it listens.
    ///
    /// # Errors
    /// See [`PodsProcess::order`].
    pub async fn start_pod(&mut self, spec: PodSpec) -> anyhow::Result<SocketAddr> {
        self.order(&Order::Start(Box::new(spec))).await?.context("a started pod has an address")
    }
}
