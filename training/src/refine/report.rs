//! Why a version was promoted, or was not, as one page that needs nothing else: numbers that a person can check, and what each of them means.

use std::fmt::Write;

use super::{Refined, job::Judged};
use crate::{
    offline::{estimate::Estimate, outcome::Measure},
    report::Interval,
    twin::check::Ratios,
};

/// Width of a drawing of intervals, of what is left for their names and numbers, and height of one line.
const WIDTH: f64 = 720.0;
const NAMES: f64 = 170.0;
const NUMBERS: f64 = 240.0;
const LINE: f64 = 22.0;

/// The page. `heading` says what was refined, `how` the command.
pub fn page(refined: &Refined, heading: &str, how: &str) -> String {
    let mut page = String::new();
    let _ = write!(page, "<!doctype html><html lang=en><meta charset=utf-8><title>{}</title>", text(heading));
    page.push_str(STYLE);
    let _ = write!(page, "<h1>{}</h1><p class=verdict>{}</p>", text(heading), text(&verdict(refined)));
    candidates(&mut page, refined);
    recordings(&mut page, refined);
    twin(&mut page, refined);
    let _ = write!(
        page,
        "<h2>How to make this page again</h2><pre>{}</pre><p>Differences are the candidate's less the incumbent's: below 0 is better of latencies \
         and errors, above 0 of goodput. Intervals are of 95 %. A candidate is promoted \
         when the estimators that can be trusted agree, nothing may be worse by more than is accepted, and the 99th percentile or the \
         goodput is better for sure.</p>",
        text(how)
    );
    page
}

const STYLE: &str = "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2433}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;margin:.5rem 0}\
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #dde2ea}td:first-child,th:first-child{text-align:left}\
.verdict{font-size:1.1rem;padding:.6rem .9rem;background:#eef3fb;border-left:4px solid #2f6fdf}.no{color:#a33}.yes{color:#1a7a3c}\
pre{background:#f5f6f8;padding:.6rem;overflow:auto}svg{display:block;margin:.4rem 0}</style>";

fn verdict(refined: &Refined) -> String {
    match refined.promoted.and_then(|place| refined.judged.get(place)) {
        Some(Judged { candidate, .. }) => {
            format!(
                "“{}” is promoted: it {}. It goes live step by step, and out again if it does worse there.",
                candidate.name, candidate.what
            )
        }
        None if refined.judged.is_empty() => "The incumbent stays: the recordings suggest nothing else.".to_owned(),
        None => "The incumbent stays: no candidate passed the gate.".to_owned(),
    }
}

fn candidates(page: &mut String, refined: &Refined) {
    for (place, Judged { candidate, gate }) in refined.judged.iter().enumerate() {
        let promoted = refined.promoted == Some(place);
        let outcome = match (promoted, gate.promotes()) {
            (true, _) => "<span class=yes>promoted</span>",
            (false, true) => "passed, but another one is surer",
            (false, false) => "<span class=no>refused</span>",
        };
        let _ = write!(page, "<h2>Candidate “{}”: {outcome}</h2><p>It {}.</p>", candidate.name, text(&candidate.what));
        if !gate.refusals.is_empty() {
            page.push_str("<ul>");
            for refusal in &gate.refusals {
                let _ = write!(page, "<li>{}</li>", text(&refusal.in_words()));
            }
            page.push_str("</ul>");
        }
        if let Some(found) = gate.foresight {
            let _ = write!(
                page,
                "<p>Held-out requests: latencies deviate from what its facts predict by {:.1} % less than without them (at least {:.1} %); {} of \
                 these requests found no slot free.",
                100.0 * (1.0 - found.ratio),
                100.0 * (1.0 - found.high),
                found.waited
            );
            if let (Some(rise), Some(high)) = (found.rise, found.rise_high) {
                let _ = write!(
                    page,
                    " {} found more than half of the slots taken; they took longer than others by {rise:.2} (at most {high:.2}) of what it would be \
                     with half as many slots.",
                    found.crowded
                );
            }
            if let Some(high) = found.over_known_high {
                let _ = write!(
                    page,
                    " They deviate at most {high:.3} times as much as with the slots that the incumbent knows already."
                );
            }
            page.push_str("</p>");
        }
        for measure in Measure::ALL {
            let of_measure: Vec<&Estimate> = gate.estimates.iter().filter(|e| e.measure == measure).collect();
            intervals(page, measure, &of_measure);
        }
        abstentions(page, &gate.estimates);
    }
}

/// One line an estimator: its interval around 0.
fn intervals(page: &mut String, measure: Measure, estimates: &[&Estimate]) {
    let finite = |e: &&&Estimate| e.low.is_finite() && e.high.is_finite() && e.trusted;
    let shown: Vec<&&Estimate> = estimates.iter().filter(finite).collect();
    if shown.is_empty() {
        return;
    }
    let reach = shown.iter().map(|e| e.low.abs().max(e.high.abs())).fold(1e-4, f64::max);
    let x = |value: f64| NAMES + (value / reach + 1.0) / 2.0 * (WIDTH - NAMES - NUMBERS - 20.0);
    let height = LINE * (shown.len() as f64 + 1.0);
    let _ = write!(page, "<svg width={WIDTH} height={height} role=img aria-label=\"{}\">", measure.name());
    let _ = write!(page, "<text x=0 y=14 font-weight=600>{}</text>", in_percent(measure));
    let _ = write!(page, "<line x1={0} x2={0} y1=18 y2={height} stroke=#99a />", x(0.0));
    for (line, estimate) in shown.iter().enumerate() {
        let y = LINE * (line as f64 + 1.5);
        let better = if measure.is_cost() { estimate.high < 0.0 } else { estimate.low > 0.0 };
        let worse = if measure.is_cost() { estimate.low > 0.0 } else { estimate.high < 0.0 };
        let color = if better {
            "#1a7a3c"
        } else if worse {
            "#a33"
        } else {
            "#556"
        };
        let _ = write!(
            page,
            "<text x=12 y={0}>{1}</text><line x1={2} x2={3} y1={y} y2={y} stroke={color} stroke-width=3 /><circle cx={4} cy={y} r=4 \
             fill={color} /><text x={5} y={0} fill={color}>{6:+.2} [{7:+.2}, {8:+.2}]</text>",
            y + 5.0,
            text(&estimate.estimator),
            x(estimate.low),
            x(estimate.high),
            x(estimate.difference),
            WIDTH - NUMBERS,
            percent(measure, estimate.difference),
            percent(measure, estimate.low),
            percent(measure, estimate.high)
        );
    }
    page.push_str("</svg>");
}

fn in_percent(measure: Measure) -> &'static str {
    match measure {
        Measure::LogMean => "mean latency, %",
        Measure::LogP99 => "99th percentile, %",
        Measure::Errors => "errors, points",
        Measure::Goodput => "goodput, points",
    }
}

/// A difference as people read it: latencies in per cent, shares in points.
fn percent(measure: Measure, difference: f64) -> f64 {
    match measure {
        Measure::LogMean | Measure::LogP99 => 100.0 * difference.exp_m1(),
        Measure::Errors | Measure::Goodput => 100.0 * difference,
    }
}

fn abstentions(page: &mut String, estimates: &[Estimate]) {
    let silent: Vec<&Estimate> = estimates.iter().filter(|e| !e.trusted && e.measure == Measure::LogP99).collect();
    if silent.is_empty() {
        return;
    }
    page.push_str("<p>Who does not vote, and why:</p><ul>");
    for estimate in silent {
        let _ = write!(page, "<li>{}: {}</li>", text(&estimate.estimator), text(&estimate.reason));
    }
    page.push_str("</ul>");
}

fn recordings(page: &mut String, refined: &Refined) {
    let has = &refined.inventory;
    let policies: Vec<String> =
        has.policies.iter().map(|(version, share)| format!("{version} ({:.0} %)", 100.0 * share)).collect();
    let _ = write!(
        page,
        "<h2>What was recorded</h2><table><tr><th>backend<td>{}<tr><th>hours<td>{:.2}<tr><th>ticks<td>{}<tr><th>endpoints<td>{}\
         <tr><th>proxies<td>{}<tr><th>requests answered<td>{}<tr><th>of them sampled<td>{}<tr><th>classes<td>{}<tr><th>ticks with exploration\
         <td>{:.0} %<tr><th>gaps<td>{}<tr><th>policies in force<td>{}</table>",
        text(&has.backend),
        has.hours,
        has.ticks,
        has.endpoints,
        has.proxies,
        has.answered,
        has.requests,
        has.classes,
        100.0 * has.exploration_share,
        has.gaps,
        text(&policies.join(", "))
    );
}

fn twin(page: &mut String, refined: &Refined) {
    let (twin, fidelity) = (&refined.twin, &refined.fidelity);
    let objection = refined.checked.objection();
    let voice = match &objection {
        None => "it reproduces what it was not made from, and votes".to_owned(),
        Some(why) => format!("it does not vote: {why}"),
    };
    let _ = write!(
        page,
        "<h2>The twin</h2><p>The simulator, calibrated from the first part of the recordings and held against {} stretches of the rest, under \
         the policy that was in force: {}. Requests share an endpoint by {}; {:.1} % of the time something was wrong with an endpoint.</p>\
         <table><tr><th>twin over recording<th>p50<th>p99<th>errors, points",
        refined.stretches,
        text(&voice),
        match twin.fit.waiting.discipline {
            crate::simulator::endpoint::Discipline::Fcfs => "first come, first served",
            crate::simulator::endpoint::Discipline::ProcessorSharing => "processor sharing",
        },
        100.0 * twin.episodes.trouble_share()
    );
    let all = Ratios { p50: fidelity.p50, p99: fidelity.p99, errors: fidelity.errors };
    ratios(page, "all requests", &all);
    for (class, of) in fidelity.classes.iter().enumerate() {
        ratios(page, &format!("class {class}, {:.2} ms", twin.fit.classes[class].mean_ms), of);
    }
    for (endpoint, of) in fidelity.endpoints.iter().enumerate().take(32) {
        let fit = &twin.fit.endpoints[endpoint];
        let known = if fit.slots_known { "" } else { "about " };
        let label = format!("endpoint {endpoint}: {known}{} slots, {:.2} of the usual time", fit.slots, fit.slowness);
        ratios(page, &label, of);
    }
    page.push_str("</table>");
}

fn ratios(page: &mut String, label: &str, of: &Ratios) {
    let show = |interval: Option<Interval>, scale: f64| {
        let Some(Interval { mean, bounds }) = interval else { return "–".to_owned() };
        let bounds = bounds.map_or(String::new(), |(low, high)| format!(" [{:.2}, {:.2}]", scale * low, scale * high));
        format!("{:.2}{bounds}", scale * mean)
    };
    let (p50, p99, errors) = (show(of.p50, 1.0), show(of.p99, 1.0), show(of.errors, 100.0));
    let _ = write!(page, "<tr><td>{}<td>{p50}<td>{p99}<td>{errors}", text(label));
}

/// Text as HTML.
fn text(plain: &str) -> String {
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
