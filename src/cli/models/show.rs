//! What `trimtab models` prints.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use trimtab_controller::clock::timestamp;
use trimtab_controller::models::{Log, Numbered, StoredVersion};
use trimtab_model::rollout::{BackendState, Event, VersionManifest, What};

use super::Output;

/// Backends that the log names; `None` stands for all others.
fn backends(log: &Log) -> Vec<Option<String>> {
    let named: BTreeSet<&str> = log.events().filter_map(|event| event.backend.as_deref()).collect();
    std::iter::once(None).chain(named.into_iter().map(|name| Some(name.to_owned()))).collect()
}

fn label(backend: Option<&str>) -> &str {
    backend.unwrap_or("all others")
}

/// Where a version stands, with the stage.
fn standing(state: &BackendState, version: &str) -> String {
    let word = state.standing(version);
    match (&state.trial, state.rolled_back.get(version)) {
        (Some(trial), _) if trial.version == version => format!("{word} ({})", trial.stage),
        (_, Some(out)) if word == "rolled back" => format!("{word} ({:?})", out.why),
        _ => word.to_owned(),
    }
}

/// Where it stands on each backend, the same said once.
fn standings(log: &Log, version: &str) -> Vec<(String, String)> {
    let backends = backends(log);
    let one = backends.len() == 1;
    backends
        .iter()
        .map(|backend| {
            let state = log.state_of(backend.as_deref().unwrap_or_default());
            let name = if one { "all".to_owned() } else { label(backend.as_deref()).to_owned() };
            (name, standing(&state, version))
        })
        .filter(|(name, standing)| name != "all others" || standing != "not tried")
        .collect()
}

fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    rows.into_iter().for_each(|row| _ = table.add_row(row));
    table.trim_fmt().lines().map(str::to_owned).collect()
}

fn problems(log: &Log) -> impl Iterator<Item = String> + '_ {
    let future = log.future.as_ref().map(|(path, found)| format!("{path} has schema version {found}: upgrade Trimtab"));
    future.into_iter().chain(log.problems.iter().cloned()).map(|problem| format!("! {problem}"))
}

/// All versions.
pub fn list(versions: &[StoredVersion], log: &Log, output: Output) -> anyhow::Result<Vec<String>> {
    if output == Output::Json {
        let versions = versions.iter().map(|stored| {
            let standings: BTreeMap<_, _> = standings(log, &stored.version).into_iter().collect();
            let (manifest, problem) = match &stored.manifest {
                Ok(manifest) => (json!(manifest), Value::Null),
                Err(problem) => (Value::Null, json!(problem)),
            };
            json!({ "version": stored.version, "manifest": manifest, "problem": problem, "standing": standings })
        });
        let versions: Vec<Value> = versions.collect();
        let problems: Vec<String> = problems(log).collect();
        return Ok(vec![serde_json::to_string(&json!({ "versions": versions, "problems": problems }))?]);
    }
    let rows = versions.iter().map(|stored| {
        let standings = standings(log, &stored.version);
        let standing = match &standings[..] {
            [] => "not tried".to_owned(),
            all => all.iter().map(|(name, standing)| format!("{name}: {standing}")).collect::<Vec<_>>().join("\n"),
        };
        match &stored.manifest {
            Ok(manifest) => vec![
                stored.version.clone(),
                timestamp(manifest.created_at_ms),
                manifest.parent.clone().unwrap_or_else(|| "–".to_owned()),
                gate(manifest).to_owned(),
                standing,
            ],
            Err(problem) => {
                vec![stored.version.clone(), "–".into(), "–".into(), "–".into(), format!("broken: {problem}")]
            }
        }
    });
    let mut lines = table(&["VERSION", "MADE", "FROM", "GATE", "STANDING"], rows);
    if versions.is_empty() {
        lines = vec!["no versions yet; `trimtab models promote FILE` puts one in".to_owned()];
    }
    let pins = backends(log).into_iter().filter_map(|backend| {
        let state = log.state_of(backend.as_deref().unwrap_or_default());
        Some(format!("pinned on {}: {}", label(backend.as_deref()), state.pinned?))
    });
    lines.extend(pins);
    lines.extend(problems(log));
    Ok(lines)
}

fn gate(manifest: &VersionManifest) -> &'static str {
    match &manifest.gate {
        Some(gate) if gate.passed => "passed",
        Some(_) => "refused",
        None => "not asked",
    }
}

/// One version.
pub fn one(manifest: &VersionManifest, log: &Log, output: Output) -> anyhow::Result<Vec<String>> {
    let events: Vec<&Numbered> =
        log.events.iter().filter(|event| event.event.what.version() == Some(&manifest.version)).collect();
    if output == Output::Json {
        let standings: BTreeMap<_, _> = standings(log, &manifest.version).into_iter().collect();
        let events: Vec<Value> = events.iter().map(|event| event_json(event)).collect();
        let whole = json!({ "manifest": manifest, "standing": standings, "events": events });
        return Ok(vec![serde_json::to_string(&whole)?]);
    }
    let mut lines = vec![
        format!("version   {}", manifest.version),
        format!("made      {} by {}", timestamp(manifest.created_at_ms), manifest.created_by),
        format!("from      {}", manifest.parent.as_deref().unwrap_or("nothing")),
        format!("gate      {}", gate(manifest)),
    ];
    for (name, standing) in standings(log, &manifest.version) {
        lines.push(format!("standing  {name}: {standing}"));
    }
    for (name, value) in leaves(manifest) {
        lines.push(format!("  {name} = {value}"));
    }
    if !events.is_empty() {
        lines.push(String::new());
        lines.extend(event_lines(events.into_iter()));
    }
    Ok(lines)
}

/// Two versions side by side: what differs, and how each fared live.
pub fn compare(a: &VersionManifest, b: &VersionManifest, log: &Log, output: Output) -> anyhow::Result<Vec<String>> {
    let mut of_a = leaves(a);
    let mut of_b = leaves(b);
    for (version, leaves) in [(&a.version, &mut of_a), (&b.version, &mut of_b)] {
        leaves.extend(standings(log, version).into_iter().map(|(name, standing)| (format!("live.{name}"), standing)));
        for event in log.events().filter(|event| event.what.version() == Some(version)) {
            let name = format!("live.{}.{}", label(event.backend.as_deref()), event.what.name());
            walk(&name, &event.evidence, leaves);
        }
    }
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let differ = names.into_iter().filter(|name| of_a.get(*name) != of_b.get(*name));
    if output == Output::Json {
        let pairs: serde_json::Map<String, Value> = differ
            .map(|name| (name.clone(), json!({ &a.version: of_a.get(name), &b.version: of_b.get(name) })))
            .collect();
        return Ok(vec![serde_json::to_string(&pairs)?]);
    }
    let cell = |value: Option<&String>| value.cloned().unwrap_or_else(|| "–".to_owned());
    let rows = differ.map(|name| vec![name.clone(), cell(of_a.get(name)), cell(of_b.get(name))]);
    Ok(table(&["", &a.version, &b.version], rows))
}

/// Every number and word of a manifest, by its path.
fn leaves(manifest: &VersionManifest) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(manifest) {
        walk("", &value, &mut leaves);
    }
    for said in ["schema_version", "version", "created_at_ms", "created_by", "parent", "gate.passed"] {
        leaves.remove(said);
    }
    leaves
}

fn walk(name: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    let inside = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(part, value)| walk(&inside(part), value, leaves)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(at, value)| walk(&inside(&at.to_string()), value, leaves));
        }
        Value::Null => {}
        Value::String(text) => _ = leaves.insert(name.to_owned(), text.clone()),
        other => _ = leaves.insert(name.to_owned(), other.to_string()),
    }
}

/// The log.
pub fn log(log: &Log, backend: Option<&str>, output: Output) -> anyhow::Result<Vec<String>> {
    let events = log.events.iter().filter(|event| backend.is_none_or(|backend| event.event.concerns(backend)));
    if output == Output::Json {
        let events: Vec<Value> = events.map(event_json).collect();
        let problems: Vec<String> = problems(log).collect();
        return Ok(vec![serde_json::to_string(&json!({ "events": events, "problems": problems }))?]);
    }
    let mut lines = event_lines(events);
    if log.events.is_empty() {
        lines = vec!["nothing has happened yet".to_owned()];
    }
    lines.extend(problems(log));
    Ok(lines)
}

fn event_lines<'e>(events: impl Iterator<Item = &'e Numbered>) -> Vec<String> {
    let rows = events.map(|Numbered { number, event }| {
        let about = event.backend.clone().unwrap_or_else(|| "all".to_owned());
        vec![number.to_string(), timestamp(event.at_ms), event.by.clone(), about, what(event)]
    });
    table(&["NO", "WHEN", "WHO", "BACKEND", "WHAT"], rows)
}

fn event_json(numbered: &Numbered) -> Value {
    let mut value = json!(numbered.event);
    value["number"] = numbered.number.into();
    value
}

/// What happened, in words.
fn what(event: &Event) -> String {
    match &event.what {
        What::Proposed { version } => format!("{version} is to be tried"),
        What::StageEntered { version, stage } => format!("{version} entered stage {stage}"),
        What::Confirmed { version } => format!("{version} is in force"),
        What::RolledBack { version, why, detail } => format!("{version} was rolled back ({why:?}): {detail}"),
        What::Pinned { to } => format!("{to} was pinned"),
        What::Unpinned => "the pin was taken away".to_owned(),
    }
}

/// What was written.
pub fn appended(number: u64, event: &Event, output: Output) -> anyhow::Result<Vec<String>> {
    if output == Output::Json {
        return Ok(vec![serde_json::to_string(&event_json(&Numbered { number, event: event.clone() }))?]);
    }
    let about = event.backend.as_deref().unwrap_or("all backends");
    Ok(vec![format!("{} on {about} (event {number})", what(event))])
}
