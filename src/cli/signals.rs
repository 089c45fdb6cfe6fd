//! SIGTERM and Ctrl-C: the first drains, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Calls `act` on every SIGHUP from now on, instead of ending.
pub fn on_hangup(act: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            act();
        }
    });
    Ok(())
}

/// A token that the first SIGTERM or SIGINT cancels. A second one exits with 130.
pub fn stop() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let token = token.clone();
        async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if token.is_cancelled() {
                    std::process::exit(130);
                }
                token.cancel();
                tracing::info!("draining; once more to stop at once");
            }
        }
    });
    Ok(token)
}
