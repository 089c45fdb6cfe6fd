//! SIGTERM and Ctrl-C: the first drains, the second ends at once. SIGHUP, which ends nothing.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What SIGHUP means to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// A log is opened anew.
    Reopens,
    /// There is nothing to be done.
    MeansNothing,
}

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

/// A token that the first SIGTERM or SIGINT cancels. A second one exits with 130. SIGHUP, with which logs are rotated and services reloaded, ends nothing;
/// but where standard input is a terminal, and the signal has no other meaning, it says that the terminal is gone.
pub fn stop(hangup: Hangup) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let gone = hangup == Hangup::MeansNothing && std::io::stdin().is_terminal();
    on_hangup({
        let token = token.clone();
        move || {
            if gone {
                tracing::info!("the terminal is gone: draining");
                token.cancel();
            }
        }
    })?;
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
