//! The page's files, embedded: what is served is what was built, without a network and without a build step.

/// One file of the page.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Where it is served.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// Its text.
    pub body: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($file:literal, $content_type:expr) => {
        Asset {
            path: concat!("/assets/", $file),
            content_type: $content_type,
            body: include_str!(concat!("../assets/", $file)),
        }
    };
}

/// All files.
pub const ALL: [Asset; 22] = [
    Asset { path: "/", content_type: HTML, body: include_str!("../assets/index.html") },
    asset!("icon.svg", SVG),
    asset!("base.css", CSS),
    asset!("layout.css", CSS),
    asset!("charts.css", CSS),
    asset!("table.css", CSS),
    asset!("main.js", JS),
    asset!("api.js", JS),
    asset!("store.js", JS),
    asset!("format.js", JS),
    asset!("dom.js", JS),
    asset!("color.js", JS),
    asset!("scale.js", JS),
    asset!("chart.js", JS),
    asset!("charts.js", JS),
    asset!("sparkline.js", JS),
    asset!("header.js", JS),
    asset!("numbers.js", JS),
    asset!("guard.js", JS),
    asset!("table.js", JS),
    asset!("classes.js", JS),
    asset!("model.js", JS),
];
