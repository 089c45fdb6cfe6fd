//! `trimtab weights`: the controller's view as a table.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use trimtab_controller::view::{BackendView, ClassView, EndpointState, EndpointView, ModelView, View};

use super::Output;

/// A view of 5,000 endpoints is about 3 MB of JSON.
const VIEW_BYTES_MAX: usize = 64 << 20;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `trimtab weights`.
#[derive(Debug, Args)]
pub struct WeightsArgs {
    /// Where the controller's dashboard listens
    #[arg(long, env = "TRIMTAB_DASHBOARD", default_value = "http://127.0.0.1:9900", value_name = "URL")]
    address: http::Uri,
    /// Only this backend, as `namespace/service:port`
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Print again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// How to print
    #[arg(long, default_value = "table")]
    output: Output,
}

/// Prints the weights once, or again and again.
pub async fn run(args: WeightsArgs) -> anyhow::Result<ExitCode> {
    let clear = args.watch && args.output == Output::Table && std::io::stdout().is_terminal();
    loop {
        let text = match fetch(&args.address).await.and_then(|view| render(&args, view)) {
            Ok(text) => text,
            // A watch outlives a controller's restart.
            Err(error) if args.watch => format!("{error:#}\n"),
            Err(error) => return Err(error),
        };
        let mut stdout = std::io::stdout().lock();
        let printed = match clear {
            true => write!(stdout, "\x1b[H\x1b[2J{text}"),
            false => write!(stdout, "{text}"),
        };
        match printed.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            other => other?,
        }
        drop(stdout);
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// The view of the controller whose dashboard is there.
pub(super) async fn fetch(address: &http::Uri) -> anyhow::Result<View> {
    // `127.0.0.1:9900` is an address, too.
    let base = if address.scheme().is_none() { format!("http://{address}") } else { address.to_string() };
    let uri: http::Uri = format!("{}/api/v1/view", base.trim_end_matches('/')).parse().context("--address")?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = async {
        let response = client.get(uri).await?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), VIEW_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::ensure!(status.is_success(), "it answered {status}");
        Ok(body.to_bytes())
    };
    let body = tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
        .with_context(|| format!("no controller at {base} (start one with `trimtab up`, or say --address)"))?;
    serde_json::from_slice(&body).with_context(|| format!("{base} does not speak this version's API"))
}

fn render(args: &WeightsArgs, mut view: View) -> anyhow::Result<String> {
    if let Some(name) = &args.backend {
        let known: Vec<_> = view.backends.iter().map(|backend| backend.name.clone()).collect();
        view.backends.retain(|backend| backend.name == *name);
        anyhow::ensure!(!view.backends.is_empty(), "--backend {name}: not known; there is {}", known.join(", "));
    }
    match args.output {
        Output::Json => Ok(format!("{}\n", serde_json::to_string(&view)?)),
        Output::Table => {
            Ok(view.backends.iter().map(backend_text).chain(problems(&view)).collect::<Vec<_>>().join("\n"))
        }
    }
}

/// Pods that autoscalers have asked for and that are not there yet, or not gone.
fn replicas_text(backend: &BackendView) -> String {
    match backend.replicas {
        Some(replicas) if replicas.desired > replicas.current => {
            format!("   {} more pods expected", replicas.desired - replicas.current)
        }
        Some(replicas) if replicas.desired < replicas.current => {
            format!("   {} pods will go", replicas.current - replicas.desired)
        }
        _ => String::new(),
    }
}

fn problems(view: &View) -> Option<String> {
    let lines = view.problems.iter().map(|problem| format!("! {problem}\n"));
    (!view.problems.is_empty()).then(|| lines.collect())
}

fn backend_text(backend: &BackendView) -> String {
    let objective = match (backend.objective_ms, backend.objective_derived) {
        (Some(ms), true) => format!("objective {ms:.0} ms (derived)"),
        (Some(ms), false) => format!("objective {ms:.0} ms"),
        (None, _) => "no objective yet".to_owned(),
    };
    let mut text = format!(
        "{}  {}  {:?}  {}\n{:.0} req/s   p50 {}   p99 {}   errors {:.2} %   shed {:.0}/s{}\n",
        backend.name,
        backend.algorithm,
        backend.mode,
        objective,
        backend.rps,
        milliseconds(backend.latency_ms_p50),
        milliseconds(backend.latency_ms_p99),
        backend.error_share * 100.0,
        backend.shed_rps,
        replicas_text(backend),
    );
    text.push_str(&model_text(&backend.model));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "ENDPOINT",
        "STATE",
        "WEIGHT",
        "SHARE",
        "REQ/S",
        "IN FLIGHT",
        "SLOTS",
        "P50",
        "P99",
        "ERRORS",
        "EJECTED BY",
        "REASON",
    ]);
    for column in table.column_iter_mut().skip(2).take(9) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for endpoint in &backend.endpoints {
        table.add_row(endpoint_row(backend, endpoint));
    }
    text.push_str(&table.trim_fmt());
    text.push('\n');
    text.push_str(&classes_text(&backend.classes));
    for action in backend.guard.iter().filter(|action| action.endpoint.is_none()) {
        text.push_str(&format!("guard: {:?}: {}\n", action.reason, action.detail));
    }
    text
}

/// Which policy decides, and how its rollout stands.
fn model_text(model: &ModelView) -> String {
    let mut text = match model.in_force.as_str() {
        "" => format!("policy {}", model.decides),
        in_force if model.pinned => format!("policy {in_force} (pinned)"),
        in_force => format!("policy {in_force}"),
    };
    if let (Some(candidate), Some(stage)) = (&model.candidate, &model.stage) {
        text.push_str(&format!("   trying {candidate}: {stage}, {} blocks", model.blocks));
        if let Some(difference) = model.difference {
            text.push_str(&format!(", log cost {difference:+.3}"));
        }
    }
    if model.drift > 0.005 {
        text.push_str(&format!("   drift {:.2}", model.drift));
    }
    text.push('\n');
    if !model.verdict.is_empty() {
        text.push_str(&format!("       {}\n", model.verdict));
    }
    text
}

/// The kinds of requests that are told apart, the most frequent first.
fn classes_text(classes: &[ClassView]) -> String {
    if classes.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["CLASS", "SHARE", "COST", "FACTORS", "PRIORITY", "SHED"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut sorted: Vec<&ClassView> = classes.iter().collect();
    sorted.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.name.cmp(&b.name)));
    for class in sorted {
        let factors = class.factor_min.zip(class.factor_max);
        table.add_row([
            class.name.clone(),
            format!("{:.1} %", class.share * 100.0),
            milliseconds(Some(class.cost_ms)),
            factors.map_or_else(|| "–".to_owned(), |(min, max)| format!("{min:.2}–{max:.2}")),
            format!("{:.0} %", class.priority * 100.0),
            format!("{:.1} %", class.shed_share * 100.0),
        ]);
    }
    format!("\n{}\n", table.trim_fmt())
}

fn endpoint_row(backend: &BackendView, endpoint: &EndpointView) -> [String; 12] {
    let of_this = backend.guard.iter().filter(|action| action.endpoint.as_deref() == Some(&endpoint.name));
    let mut reasons: Vec<_> = of_this.map(|action| format!("{:?}", action.reason)).collect();
    if (endpoint.adjustment - 1.0).abs() > 0.005 {
        reasons.push(format!("adjusted by {:.2}", endpoint.adjustment));
    }
    reasons.extend(endpoint.failing.iter().map(|why| format!("health check ({} proxies): {why}", endpoint.failing_by)));
    reasons.extend(endpoint.scrape_error.iter().map(|error| format!("not scraped: {error}")));
    let state = match endpoint.state {
        EndpointState::Active => "active",
        EndpointState::SlowStart => "slow start",
        EndpointState::PartlyEjected => "partly ejected",
        EndpointState::Ejected => "ejected",
        EndpointState::Unhealthy => "unhealthy",
        EndpointState::Draining => "draining",
    };
    [
        endpoint.name.clone(),
        state.to_owned(),
        format!("{:.1} %", endpoint.weight_applied * 100.0),
        format!("{:.1} %", endpoint.share * 100.0),
        format!("{:.0}", endpoint.rps),
        format!("{:.1}", endpoint.in_flight),
        slots_text(endpoint),
        milliseconds(endpoint.latency_ms_p50),
        milliseconds(endpoint.latency_ms_p99),
        format!("{:.2} %", endpoint.error * 100.0),
        endpoint.ejected_by.to_string(),
        reasons.join(", "),
    ]
}

/// `~` before what was learned.
fn slots_text(endpoint: &EndpointView) -> String {
    let learned = if endpoint.slots_learned { "~" } else { "" };
    endpoint.slots.map_or_else(|| "–".to_owned(), |slots| format!("{learned}{slots:.0}"))
}

fn milliseconds(value: Option<f64>) -> String {
    match value {
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) => format!("{ms:.0} ms"),
        None => "–".to_owned(),
    }
}
