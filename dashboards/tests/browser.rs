//! The page in a real browser: what it shows, how it looks, and that the console stays empty. The pictures are in
//! `target/screenshots/`.

#![allow(clippy::unwrap_used, reason = "a test ends where it finds something else than it expects")]

mod common;

use common::browser::{Browser, Window};
use common::feed::{BACKEND, Feed};
use common::server::Server;
use trimtab_controller::view::View;

const WIDE: Window = Window { width: 1440, height: 2250, dark: false };
const PHONE: Window = Window { width: 390, height: 1_500, dark: false };

/// True once the history is drawn and the numbers are there.
const READY: &str =
    "document.querySelectorAll('#table tbody tr').length > 0 && document.querySelectorAll('.log li').length > 0";

async fn open(server: &Server, window: Window) -> Browser {
    Browser::open(&format!("http://{}/", server.address), window).await
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "the page does not say {part:?}:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_view_says() {
    let server = Server::start().await;
    let mut feed = Feed::new(12);
    server.publish_all(&mut feed, 1_000).await;
    let names = feed.names();
    let feeding = server.keep_publishing(feed);
    let mut browser = open(&server, WIDE).await;
    browser.until(READY).await;
    browser.screenshot("dashboard.png").await;

    let text = browser.text().await;
    contains(
        &text,
        &[BACKEND, "trimtab", "Active", "150\u{202f}ms derived", "prior-1", "3 of 3\u{202f}in sync", "live"],
    );
    contains(&text, &["p50", "p99", "Goodput", "Errors", "Shed", "within the objective"]);
    contains(
        &text,
        &["ShareFloor", "StepLimit", "SlowStart", "raised to the floor of 1.25\u{a0}%".replace('\u{a0}', " ").as_str()],
    );
    contains(&text, &["checkout-7 is being tried", "14 blocks", "-4.2\u{202f}%", "not for sure yet", "~3"]);
    let stage = browser.evaluate("document.querySelector('.stages [aria-current=step]').textContent").await;
    assert_eq!(stage, "25%");
    contains(&text, &names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(browser.evaluate("document.querySelectorAll('#table tbody tr').length").await, 12);
    // Pointing at a chart reads out its values; pointing at a reason says what it means.
    browser.point_at(".chart.wide canvas").await;
    browser.until("document.querySelector('.readout:not([hidden])')?.textContent.includes('%')").await;
    browser.screenshot("dashboard-readout.png").await;
    browser.point_at(".log .chip").await;
    browser.until("document.querySelector('#tip:not([hidden])')?.textContent.length > 40").await;
    assert_eq!(browser.complaints(), [""; 0]);

    browser.call("Input.dispatchMouseEvent", serde_json::json!({"type": "mouseMoved", "x": 1, "y": 1})).await;
    browser.evaluate("window.scrollTo(0, 0)").await;
    browser.resize(Window { dark: true, ..WIDE }).await;
    browser.next_tick().await;
    browser.screenshot("dashboard-dark.png").await;
    for (part, name) in [(0, "dashboard-phone.png"), (1, "dashboard-phone-below.png")] {
        browser.resize(PHONE).await;
        browser.next_tick().await;
        browser.evaluate(&format!("window.scrollTo(0, {part} * document.body.scrollHeight)")).await;
        browser.screenshot(name).await;
    }
    // Nothing sticks out: the page itself never scrolls sideways.
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth").await, 390);
    feeding.abort();
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_endpoints_stay_readable() {
    let server = Server::start().await;
    let mut feed = Feed::new(300);
    server.publish_all(&mut feed, 800).await;
    let feeding = server.keep_publishing(feed);
    let mut browser = open(&server, WIDE).await;
    browser.until(READY).await;
    browser.screenshot("dashboard-300.png").await;
    feeding.abort();
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_sorts_filters_and_chooses_with_the_keyboard_alone() {
    let server = Server::start().await;
    let mut feed = Feed::new(120);
    server.publish_all(&mut feed, 60).await;
    let name = feed.names()[77].clone();
    let mut browser = open(&server, WIDE).await;
    browser.until(READY).await;
    let rows = "[...document.querySelectorAll('#table tbody tr')]";
    assert_eq!(browser.evaluate(&format!("{rows}.length")).await, 50);

    // Sorted by p99, the largest first, then the smallest first.
    for (direction, compare) in [("descending", ">="), ("ascending", "<=")] {
        browser.evaluate("document.querySelector('th[data-id=latency_ms_p99] button').focus()").await;
        browser.press("Enter").await;
        browser
            .until(&format!("document.querySelector('th[aria-sort={direction}]')?.dataset.id === 'latency_ms_p99'"))
            .await;
        let p99 = format!("{rows}.map((row) => Number(row.cells[9].textContent.replace(',', '')))");
        browser
            .until(&format!("{p99}.every((value, index, all) => index === 0 || all[index - 1] {compare} value)"))
            .await;
    }
    browser.evaluate("document.getElementById('filter').focus()").await;
    browser.call("Input.insertText", serde_json::json!({"text": name[name.len() - 5..]})).await;
    browser.until(&format!("{rows}.length === 1")).await;
    browser.press("Tab").await;
    for _ in 0..20 {
        if browser.evaluate("document.activeElement.closest('tbody') !== null").await == true {
            break;
        }
        browser.press("Tab").await;
    }
    browser.press("Enter").await;
    browser
        .until(&format!("[...document.querySelectorAll('.chart h3')].some((title) => title.textContent === '{name}')"))
        .await;
    contains(&browser.text().await, &["1 of 118 endpoints match"]);
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_from_outside_are_only_ever_text() {
    let server = Server::start().await;
    let mut feed = Feed::new(3);
    let evil = "<img src=x onerror=document.title=1><b>bold</b>";
    for _ in 0..5 {
        let mut view = feed.view();
        view.problems = vec![format!("backends.txt line 3: {evil}")];
        view.policy_version = evil.into();
        let backend = &mut view.backends[0];
        backend.endpoints[0].name = evil.into();
        backend.endpoints[0].scrape_error = Some(evil.into());
        backend.guard.iter_mut().for_each(|action| {
            action.detail = evil.into();
            action.endpoint = Some(evil.into());
        });
        server.publish(view).await;
    }
    let mut browser = open(&server, WIDE).await;
    browser.until(READY).await;
    assert_eq!(
        browser.evaluate("document.querySelectorAll('#banners b, #table b, .log b, main img[src=x]').length").await,
        0
    );
    assert_ne!(browser.evaluate("document.title").await, "1");
    let text = browser.text().await;
    contains(&text, &["Problem", &format!("backends.txt line 3: {evil}")]);
    assert!(text.matches(evil).count() >= 4, "{text}");
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_backends_can_be_chosen() {
    let server = Server::start().await;
    let mut feeds = [Feed::new(4), Feed::new(9)];
    for _ in 0..20 {
        let [mut view, other] = [feeds[0].view(), feeds[1].view()];
        view.backends.extend(other.backends);
        view.backends[1].name = "shop/search:9000".into();
        server.publish(view).await;
    }
    let mut browser = open(&server, WIDE).await;
    browser.until("document.querySelectorAll('#table tbody tr').length === 3").await;
    let choose = "const select = document.getElementById('backend'); select.value = 'shop/search:9000'; \
                  select.dispatchEvent(new Event('change'))";
    browser.evaluate(choose).await;
    browser.until("document.querySelectorAll('#table tbody tr').length === 7").await;
    browser.until("location.hash === '#shop%2Fsearch%3A9000' && document.title.startsWith('shop/search:9000')").await;
    // The address names the backend, so a reload stays there.
    browser.call("Page.reload", serde_json::json!({})).await;
    browser.until("document.querySelectorAll('#table tbody tr').length === 7").await;
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_said_and_comes_back_by_itself() {
    let server = Server::start().await;
    let mut feed = Feed::new(5);
    server.publish_all(&mut feed, 30).await;
    let mut browser = open(&server, WIDE).await;
    browser.until("document.getElementById('link').dataset.state === 'live'").await;
    let port = server.address.port();
    server.stop().await;
    browser.until("document.body.innerText.includes('Connection lost, retrying')").await;
    contains(&browser.text().await, &["The numbers below are the last that arrived."]);

    let server = Server::start_at(port, trimtab_dashboards::Hosts::Local).await;
    server.publish_all(&mut feed, 30).await;
    browser.until("document.getElementById('link').dataset.state === 'live'").await;
    browser.until("!document.body.innerText.includes('Connection lost')").await;
    // No more ticks: the page says so.
    browser.until("document.body.innerText.includes('No new tick')").await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_endpoints_leave_the_page_quick() {
    let server = Server::start().await;
    let mut feed = Feed::new(5_000);
    server.publish_all(&mut feed, 30).await;
    let feeding = server.keep_publishing(feed);
    let mut browser = open(&server, WIDE).await;
    browser.until(READY).await;
    let before = browser.busy_ms().await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let ms_per_tick = (browser.busy_ms().await - before) / 10.0;
    feeding.abort();
    browser.screenshot("dashboard-5000.png").await;
    println!("5,000 endpoints: {ms_per_tick:.0} ms of the page's main thread a tick");
    assert!(ms_per_tick < 250.0, "{ms_per_tick} ms of the page's main thread a tick");
    contains(&browser.text().await, &["4,998 endpoints", "showing the first 50"]);
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_page_says_what_it_waits_for() {
    let server = Server::start().await;
    let mut browser = open(&server, Window { height: 700, ..WIDE }).await;
    browser.until("document.body.innerText.includes('Waiting for the first tick')").await;
    browser.screenshot("dashboard-waiting.png").await;
    server.publish(View { at_ms: 1_000, ..View::default() }).await;
    browser.until("document.body.innerText.includes('No backends yet')").await;

    // Endpoints, but nobody has asked for anything yet.
    let mut view = Feed::new(4).view();
    view.backends[0].objective_ms = None;
    view.backends[0].guard.clear();
    view.proxies.clear();
    let backend = &mut view.backends[0];
    (backend.rps, backend.goodput_rps, backend.latency_ms_p50, backend.latency_ms_p99) = (0.0, 0.0, None, None);
    for endpoint in &mut backend.endpoints {
        (endpoint.rps, endpoint.share, endpoint.in_flight, endpoint.capacity_rps) = (0.0, 0.0, 0.0, None);
        (endpoint.latency_ms_p50, endpoint.latency_ms_p99) = (None, None);
    }
    server.publish(view).await;
    browser.until("document.querySelectorAll('#table tbody tr').length === 3").await;
    let text = browser.text().await;
    contains(&text, &["no requests yet", "no objective yet", "none yet", "capacity is not known yet", "No proxy"]);
    contains(&text, &["The guard had nothing to change or refuse"]);
    browser.resize(WIDE).await;
    browser.screenshot("dashboard-quiet.png").await;
    assert_eq!(browser.complaints(), [""; 0]);
    browser.close().await;
}
