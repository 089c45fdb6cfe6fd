//! Plots as SVG: what each policy achieves in each family, with intervals; and latency over time.

use super::{
    Baseline, Interval, Metric, Results,
    canvas::{Canvas, FAINT, INK, LogAxis, PlotError, QUIET, Side, color, label},
    timeline::Bin,
};
use crate::scenario::Family;

const WIDTH: u32 = 1_000;
const LEFT: f64 = 150.0;
/// Room for the legend.
const RIGHT: f64 = 210.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 46.0;
/// Between two policies of a family.
const STEP: f64 = 9.0;
/// Beyond this many times the best, how much worse something is tells nothing any more.
const RATIO_MAX: f64 = 60.0;

/// What the horizontal axis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// Logarithmic, 1 stands out.
    Ratio,
    /// Logarithmic.
    Milliseconds,
    /// Linear from 0.
    Percent,
}

/// One row of a plot: its name, and each shown policy's value.
type Row = (String, Vec<Option<Interval>>);

/// A metric of all shown policies in every family of the results, averaged over proxies, endpoints and loads: dots with interval
/// bars, one band a family. Latencies are on a logarithmic axis of ratios, shares on a linear one of percents. `shown` are numbers of
/// policies; the first gets the colour that stands out. `note` says what the rest is.
///
/// # Errors
/// If the backend fails.
pub fn families(results: &Results<'_>, shown: &[usize], metric: Metric, note: &str) -> Result<String, PlotError> {
    let mut families: Vec<Family> = results.grid.cells.iter().map(|cell| cell.family).collect();
    families.dedup();
    // Where load is more than can be served, who sheds answers other requests than who does not: their latencies do not compare.
    let overload = families.iter().filter(|family| family.is_overload()).count();
    if metric.is_latency() && overload < families.len() {
        families.retain(|family| !family.is_overload());
    }
    let values = |wanted: &dyn Fn(Family) -> bool| -> Vec<Option<Interval>> {
        shown.iter().map(|policy| results.over(|cell| wanted(cell.family), *policy, metric)).collect()
    };
    let mut rows: Vec<Row> =
        families.iter().map(|family| (family.name().to_owned(), values(&|other| other == *family))).collect();
    if metric.is_latency() && families.len() > 1 {
        let name = if overload > 0 { "all but overload" } else { "all" };
        rows.push((name.into(), values(&|family| families.contains(&family))));
    }
    let scale = match (metric.is_latency(), results.baseline) {
        (false, _) => Scale::Percent,
        (true, Baseline::Absolute) => Scale::Milliseconds,
        (true, _) => Scale::Ratio,
    };
    let title = match metric {
        Metric::P99 => "99th percentile of latency",
        Metric::P50 => "Median latency",
        Metric::Mean => "Mean latency",
        Metric::Errors => "Errors, % of requests",
        Metric::Goodput => "Goodput, % of requests",
        Metric::Shed => "Shed, % of requests",
    };
    let names: Vec<&str> = shown.iter().map(|policy| results.policies[*policy].name()).collect();
    bands(title, note, &names, &rows, scale)
}

fn bands(title: &str, note: &str, names: &[&str], rows: &[Row], scale: Scale) -> Result<String, PlotError> {
    let band = (STEP * names.len() as f64 + 12.0).max(26.0);
    let legend = TOP + 20.0 * names.len() as f64;
    let height = (TOP + band * rows.len() as f64).max(legend) + BOTTOM;
    let right = f64::from(WIDTH) - RIGHT;
    let bottom = TOP + band * rows.len() as f64;
    let ends = rows.iter().flat_map(|row| row.1.iter().flatten()).flat_map(|value| {
        let (low, high) = value.bounds.unwrap_or((value.mean, value.mean));
        [low.max(value.mean / 2.0), high.min(value.mean * 2.0)]
    });
    let (low, high) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), end| (low.min(end), high.max(end)));
    let (low, high) = if low.is_finite() { (low, high) } else { (1.0, 2.0) };

    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, (WIDTH, height as u32))?;
    heading(&canvas, title, note)?;
    let axis: Box<dyn Fn(f64) -> f64>;
    let ticks: Vec<f64>;
    if scale != Scale::Percent {
        let ends = if scale == Scale::Ratio { (low.min(0.95), high.clamp(1.1, RATIO_MAX)) } else { (low, high) };
        let logarithmic = LogAxis::new(ends.0, ends.1, (LEFT, right));
        ticks = logarithmic.ticks();
        axis = Box::new(move |value| logarithmic.at(value));
    } else {
        let to = (1.05 * high).clamp(0.1, 100.0);
        let step = step_of(to);
        ticks = (0..=(to / step) as u32).map(|number| f64::from(number) * step).collect();
        axis = Box::new(move |value: f64| LEFT + (value / to).clamp(0.0, 1.0) * (right - LEFT));
    }
    for (number, (name, _)) in rows.iter().enumerate() {
        let top = TOP + band * number as f64;
        if number % 2 == 0 {
            canvas.rectangle((LEFT, top), (right, top + band), FAINT, 0.3)?;
        }
        canvas.text((LEFT - 10.0, top + band / 2.0), Side::Left, 13.0, INK, name.starts_with("all"), name)?;
    }
    let mut last = f64::NEG_INFINITY;
    for tick in ticks {
        let x = axis(tick);
        let one = scale == Scale::Ratio && (tick - 1.0).abs() < 1e-9;
        canvas.line(&[(x, TOP), (x, bottom)], if one { INK } else { FAINT }, 1, 1.0)?;
        if x - last > 26.0 || one {
            canvas.text((x, bottom + 14.0), Side::Middle, 12.0, QUIET, false, &label(tick))?;
            last = x;
        }
    }
    for (number, (_, values)) in rows.iter().enumerate() {
        let first = TOP + band * number as f64 + band / 2.0 - STEP * (names.len() as f64 - 1.0) / 2.0;
        for (policy, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let y = first + STEP * policy as f64;
            if let Some((low, high)) = value.bounds {
                canvas.line(&[(axis(low), y), (axis(high), y)], color(policy), 2, 0.55)?;
            }
            canvas.mark((axis(value.mean), y), policy)?;
            if scale == Scale::Ratio && value.mean > RATIO_MAX {
                let beyond = format!("{} >", label(value.mean.round()));
                canvas.text((axis(value.mean) - 8.0, y), Side::Left, 10.0, color(policy), true, &beyond)?;
            }
        }
    }
    legend_of(&canvas, names, right + 22.0)?;
    canvas.finish()?;
    Ok(svg)
}

/// Latency over time of several policies in one scenario: the 99th percentile above, the median below, both on logarithmic axes.
///
/// # Errors
/// If the backend fails.
pub fn timeline(title: &str, note: &str, series: &[(&str, Vec<Bin>)]) -> Result<String, PlotError> {
    const PANEL: f64 = 230.0;
    const GAP: f64 = 44.0;
    type Pick = fn(&Bin) -> Option<f64>;
    let left = 70.0;
    let right = f64::from(WIDTH) - RIGHT;
    let names: Vec<&str> = series.iter().map(|(name, _)| *name).collect();
    let panels: [(&str, Pick); 2] = [("p99, ms", |bin| bin.latency_ms_p99), ("p50, ms", |bin| bin.latency_ms_p50)];
    let times = series.iter().flat_map(|(_, bins)| bins.iter().map(|bin| bin.at_s));
    let (from_s, to_s) = times.fold((0.0_f64, 1.0_f64), |(from, to), at| (from.min(at), to.max(at)));
    let x_of = |at_s: f64| left + (at_s - from_s) / (to_s - from_s) * (right - left);
    let height = (TOP + 2.0 * PANEL + GAP).max(TOP + 20.0 * names.len() as f64) + BOTTOM;

    let mut svg = String::new();
    let canvas = Canvas::new(&mut svg, (WIDTH, height as u32))?;
    heading(&canvas, title, note)?;
    for (number, (name, pick)) in panels.into_iter().enumerate() {
        let top = TOP + number as f64 * (PANEL + GAP);
        let bottom = top + PANEL;
        let values = series.iter().flat_map(|(_, bins)| bins.iter().filter_map(pick)).filter(|value| *value > 0.0);
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low.is_finite() { (low, high) } else { (1.0, 10.0) };
        let axis = LogAxis::new(low, high, (bottom, top));
        canvas.rectangle((left, top), (x_of(0.0), bottom), FAINT, 0.35)?;
        for tick in axis.ticks() {
            let y = axis.at(tick);
            canvas.line(&[(left, y), (right, y)], FAINT, 1, 1.0)?;
            canvas.text((left - 8.0, y), Side::Left, 12.0, QUIET, false, &label(tick))?;
        }
        canvas.text((left + 6.0, top + 12.0), Side::Right, 12.0, INK, true, name)?;
        let step = step_of(to_s);
        for second in (0..=(to_s / step) as u32).map(|number| f64::from(number) * step) {
            canvas.line(&[(x_of(second), bottom), (x_of(second), bottom + 4.0)], QUIET, 1, 1.0)?;
            canvas.text((x_of(second), bottom + 15.0), Side::Middle, 12.0, QUIET, false, &label(second))?;
        }
        // The first policy is what the plot is about: it is drawn last, above the others.
        for (policy, (_, bins)) in series.iter().enumerate().rev() {
            let width = if policy == 0 { 3 } else { 2 };
            // A bin without answers breaks the line.
            for run in bins.split(|bin| pick(bin).is_none()) {
                let points: Vec<(f64, f64)> =
                    run.iter().filter_map(|bin| Some((x_of(bin.at_s), axis.at(pick(bin)?)))).collect();
                if points.len() > 1 {
                    canvas.line(&points, color(policy), width, 0.9)?;
                }
            }
        }
    }
    let y = TOP + 2.0 * PANEL + GAP + 34.0;
    canvas.text(((left + right) / 2.0, y), Side::Middle, 12.0, QUIET, false, "seconds since measuring began")?;
    legend_of(&canvas, &names, right + 22.0)?;
    canvas.finish()?;
    Ok(svg)
}

fn heading(canvas: &Canvas<'_>, title: &str, note: &str) -> Result<(), PlotError> {
    canvas.text((18.0, 22.0), Side::Right, 17.0, INK, true, title)?;
    canvas.text((18.0, 44.0), Side::Right, 12.0, QUIET, false, note)
}

fn legend_of(canvas: &Canvas<'_>, names: &[&str], x: f64) -> Result<(), PlotError> {
    for (policy, name) in names.iter().enumerate() {
        let y = TOP + 10.0 + 20.0 * policy as f64;
        canvas.mark((x, y), policy)?;
        canvas.text((x + 12.0, y), Side::Right, 13.0, INK, policy == 0, name)?;
    }
    Ok(())
}

/// A round distance of ticks on a linear axis from 0 to `to`: five to ten of them.
fn step_of(to: f64) -> f64 {
    let power = 10_f64.powf((to / 5.0).log10().floor());
    [5.0, 2.0, 1.0].into_iter().map(|step| step * power).find(|step| to / step >= 5.0).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contest, report::Grid};
    use std::num::NonZeroUsize;

    #[test]
    fn a_plot_names_every_family_and_policy_and_is_the_same_each_time() {
        let policies = ["c3-local", "shortest-expected-delay"].map(|name| contest::by_name(name).unwrap());
        let cells = Grid::product(&[Family::Homogeneous, Family::Gray], &[1], &[4], &[Some(0.5)]);
        let grid = Grid { cells, seeds: 1..3, seconds: Some(1), reports_in_flight: None, slots_told: true };
        let runs = grid.run(&policies, NonZeroUsize::MIN, None, &|_| {});
        let results = Results {
            grid: &grid,
            policies: &policies,
            baseline: Baseline::BestBound { clairvoyant: true },
            runs: &runs,
        };
        for metric in Metric::ALL {
            let svg = families(&results, &[0, 1], metric, "two seeds").unwrap();
            for text in ["<svg", "</svg>", "homogeneous", "gray", "c3-local", "shortest-expected-delay", "two seeds"] {
                assert!(svg.contains(text), "{metric:?} has no {text}");
            }
            assert!(!svg.contains("NaN"), "{metric:?}");
            assert_eq!(svg, families(&results, &[0, 1], metric, "two seeds").unwrap());
        }
    }

    #[test]
    fn a_timeline_without_answers_is_empty_and_no_error() {
        let bin = Bin { at_s: 0.25, arrived: 0, latency_ms_p50: None, latency_ms_p99: None };
        let svg = timeline("title", "note", &[("one", vec![bin; 3])]).unwrap();
        assert!(svg.contains("one") && !svg.contains("NaN"));
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([100.0, 12.0, 0.7].map(step_of), [20.0, 2.0, 0.1]);
    }
}
