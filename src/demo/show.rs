//! What the demo says while it runs: frames on a terminal, plain lines elsewhere, and those on standard error where standard
//! output is kept for JSON.

use std::io::{self, Write};
use std::time::Duration;

use super::frame::{Frame, PodRow, Side, WorldFrame, ms, percent};
use super::pod::Pod;
use super::screen::Screen;
use super::script::{Event, Script};
use super::world::World;

/// Where the demo says it.
#[derive(Debug)]
pub enum Show {
    /// A terminal that is redrawn.
    Live(Screen),
    /// Lines on standard output.
    Out(Told),
    /// Lines on standard error.
    Err(Told),
}

/// What was told already.
#[derive(Debug, Default)]
pub struct Told {
    began: bool,
    chapter: Option<usize>,
    happened: usize,
    figures: Duration,
}

/// Plain lines give figures this often.
const FIGURES_EVERY: Duration = Duration::from_secs(5);

impl Show {
    /// Chooses how to show: `live` is false where nothing but a report may go to standard output.
    ///
    /// # Errors
    /// If the terminal cannot be written to.
    pub fn new(live: bool) -> io::Result<Self> {
        Ok(match live {
            true if Screen::fits() => Self::Live(Screen::take()?),
            true => Self::Out(Told::default()),
            false => Self::Err(Told::default()),
        })
    }

    /// Shows how both worlds are at `elapsed`.
    ///
    /// # Errors
    /// If standard output cannot be written to.
    pub fn show(&mut self, script: &Script, worlds: &[World; 2], elapsed: Duration) -> io::Result<()> {
        let frame = frame(script, worlds, elapsed);
        match self {
            Self::Live(screen) => screen.draw(&frame),
            Self::Out(told) => told.tell(&frame, &mut io::stdout().lock()),
            Self::Err(told) => told.tell(&frame, &mut io::stderr().lock()),
        }
    }
}

impl Told {
    /// Writes what is new since the last frame.
    fn tell(&mut self, frame: &Frame, out: &mut impl Write) -> io::Result<()> {
        let mut lines = Vec::new();
        let at_s = frame.elapsed.as_secs_f64();
        if let (true, Some(url)) = (!std::mem::replace(&mut self.began, true), &frame.dashboard) {
            lines.push(format!("{at_s:6.1} s  dashboard {url}"));
        }
        let chapter = frame.chapter.map(|(number, ..)| number);
        if let (true, Some((number, name, what))) = (chapter != self.chapter, frame.chapter) {
            lines.push(format!("{at_s:6.1} s  chapter {number} of {}: {name}: {what}", frame.chapters));
        }
        self.chapter = chapter;
        lines.extend(frame.happened.iter().skip(self.happened).cloned());
        self.happened = frame.happened.len();
        if frame.elapsed >= self.figures + FIGURES_EVERY {
            self.figures = frame.elapsed;
            lines.extend(frame.worlds.iter().map(|world| {
                let recent = &world.recent;
                format!(
                    "{at_s:6.1} s  {:<20} p50 {:>5} ms  p99 {:>5} ms  goodput {:>4.0}/s ({:>5} in time)  errors {:>5}",
                    world.name,
                    ms(recent.latency_ms_p50),
                    ms(recent.latency_ms_p99),
                    recent.goodput_rps,
                    percent(recent.goodput_share),
                    percent(recent.error_share),
                )
            }));
        }
        lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
        out.flush()
    }
}

fn frame(script: &Script, worlds: &[World; 2], elapsed: Duration) -> Frame {
    let pods = worlds[0].pods();
    let addresses: Vec<Vec<String>> =
        worlds.iter().map(|world| world.pods().iter().map(|pod| pod.address().to_string()).collect()).collect();
    let views = [worlds[0].view(), worlds[1].view()];
    let side = |world: usize, slot: usize| {
        let address = addresses[world].get(slot)?;
        let backend = views[world].backends.first()?;
        let endpoint = backend.endpoints.iter().find(|endpoint| endpoint.address == *address)?;
        Some(Side {
            share: endpoint.share,
            weight: endpoint.weight_applied,
            latency_ms_p99: endpoint.latency_ms_p99,
            state: endpoint.state,
        })
    };
    let guard = views[0].backends.first().map_or(&[][..], |backend| &backend.guard);
    let pod_name = |address: &String| {
        let slot = addresses[0].iter().position(|known| known == address);
        slot.and_then(|slot| pods.get(slot)).map_or_else(|| address.clone(), |pod| pod.spec().name.clone())
    };
    Frame {
        elapsed: elapsed.min(script.length()),
        length: script.length(),
        chapter: script.chapter_at(elapsed).map(|(index, chapter)| (index + 1, chapter.name, chapter.what)),
        chapters: script.chapters.len(),
        worlds: worlds
            .iter()
            .map(|world| {
                let (score, span) = world.recorder.recent(elapsed);
                WorldFrame { name: world.name, recent: score.summary(span), in_flight: world.recorder.in_flight() }
            })
            .collect(),
        pods: pods
            .iter()
            .enumerate()
            .map(|(slot, pod)| PodRow {
                name: pod.spec().name.clone(),
                speed: pod.spec().speed,
                trouble: trouble(pod),
                sides: vec![side(0, slot), side(1, slot)],
            })
            .collect(),
        guard: guard
            .iter()
            .map(|action| {
                let endpoint = action.endpoint.as_ref().map_or_else(|| "all pods".to_owned(), pod_name);
                format!("{:?} on {endpoint}: {}", action.reason, action.detail)
            })
            .collect(),
        happened: happened(script, elapsed),
        dashboard: worlds[0].dashboard().map(|address| format!("http://{address}/")),
    }
}

/// What is wrong with a pod, in at most nine characters.
fn trouble(pod: &Pod) -> String {
    let (faults, cold) = (pod.faults(), pod.cold_factor());
    match () {
        () if !pod.is_up() => "down".to_owned(),
        () if faults.paused => "paused".to_owned(),
        () if faults.errors.is_some_and(|errors| errors.fast) => "fails".to_owned(),
        () if faults.errors.is_some() => "errors".to_owned(),
        () if faults.slow_factor > 1.0 => format!("slow ×{:.0}", faults.slow_factor),
        () if cold > 1.05 => format!("cold ×{cold:.1}"),
        () => String::new(),
    }
}

fn happened(script: &Script, elapsed: Duration) -> Vec<String> {
    let past = script.acts.iter().take_while(|act| act.at <= elapsed);
    past.map(|act| {
        let names =
            |slots: &[usize]| slots.iter().map(|slot| format!("pod-{}", slot + 1)).collect::<Vec<_>>().join(", ");
        let what = match &act.event {
            Event::Fault { slots, says, .. } => format!("{}: {says}", names(slots)),
            Event::Replace { slots, .. } => format!("{}: replaced by new, cold pods", names(slots)),
        };
        format!("{:6.1} s  {what}", act.at.as_secs_f64())
    })
    .collect()
}
