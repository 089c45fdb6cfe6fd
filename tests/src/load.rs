//! Requests one after the other, for tests of what is lost while something happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::http::Client;

/// Requests until it is stopped; what did not answer 200 is kept.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    /// So many clients, each with a request at a time.
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let run = |_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            tokio::spawn(async move {
                let (client, mut failed) = (Client::default(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match client.get(address, "/").await {
                        Ok(answer) if answer.status == 200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        other => failed.push(format!("{other:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                failed
            })
        };
        let tasks = (0..clients).map(run).collect();
        Self { stop, answered, tasks }
    }

    /// How many were answered 200 so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops it.
    ///
    /// # Panics
    /// If a request was not answered 200.
    pub async fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let failed = task.await.expect("no panic");
            assert!(failed.is_empty(), "{} failed, first {}", failed.len(), failed[0]);
        }
    }
}
