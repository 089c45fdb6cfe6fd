//! The dashboard over a synthetic service, to work on the page: `cargo run -p trimtab-dashboards --example synthetic -- [ENDPOINTS] [PORT]`.

#[path = "../tests/common/feed.rs"]
mod feed;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use trimtab_controller::view::View;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let endpoints = arguments.next().map_or(Ok(12), |text| text.parse())?;
    let port = arguments.next().map_or(Ok(8090u16), |text| text.parse())?;
    let (sender, view) = watch::channel(Arc::new(View::default()));
    let router = trimtab_dashboards::router(view);
    let mut feed = feed::Feed::new(endpoints);
    tokio::spawn(async move {
        if endpoints == 0 {
            return std::future::pending().await;
        }
        // Most of the story has already happened when the page opens.
        for _ in 0..1_000 {
            sender.send_replace(Arc::new(feed.view()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        loop {
            sender.send_replace(Arc::new(feed.view()));
            tokio::time::sleep(Duration::from_millis(feed::TICK_MS as u64)).await;
        }
    });
    axum::serve(TcpListener::bind(("127.0.0.1", port)).await?, router).await?;
    Ok(())
}
