//! The folder of a training: its state, its checkpoints, its event file, its picture. Every file is written whole or not at
//! all, but for the event file, which grows by whole records.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use trimtab_model::checkpoint::Checkpoint;
use trimtab_training::learn::curve::{Line, LineStyle, draw};
use trimtab_training::learn::events::Event;
use trimtab_training::learn::parameters::Kind;
use trimtab_training::learn::state::write_whole;
use trimtab_training::learn::trainer::{Row, Trainer};

/// Scalar in which event files keep the time spent.
const ELAPSED: &str = "time/elapsed_s";

/// A folder that is written to.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    events: Option<File>,
}

impl Folder {
    /// Makes the folder if it is not there. A training that is in it is gone on with, or left alone.
    pub fn open(path: &Path, resume: bool) -> anyhow::Result<Self> {
        let name = path.display();
        let folder = Self { path: path.to_owned(), events: None };
        if resume && !folder.state().is_file() {
            bail!("--resume: {} is not there: no training was started with --out {name}", folder.state().display());
        }
        if !resume && folder.state().exists() {
            bail!("--out {name} holds a training already: go on with it by --resume, or name another folder");
        }
        fs::create_dir_all(path).with_context(|| format!("--out {name}"))?;
        Ok(folder)
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.safetensors")
    }

    /// Opens the event file: the one that is there, cut after what `history` knows, or a new one. Seconds spent so far.
    pub fn events(&mut self, history: &[Row]) -> anyhow::Result<f64> {
        let path = self.event_file()?;
        let named = || path.display().to_string();
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(named)?;
        let (mut end, mut elapsed_s) = (0, 0.0);
        let mut reader = BufReader::new(&mut file);
        let last = history.last().map_or(0, |row| row.generation as i64);
        while let Some(event) = Event::read(&mut reader).with_context(named)?.filter(|event| event.step <= last) {
            end = reader.stream_position().with_context(named)?;
            elapsed_s = event.values().find(|(tag, _)| *tag == ELAPSED).map_or(elapsed_s, |(_, s)| f64::from(s));
        }
        file.set_len(end).with_context(named)?;
        file.seek(std::io::SeekFrom::End(0)).with_context(named)?;
        if end == 0 {
            Event::first(wall_time()).write(&mut file).with_context(named)?;
        }
        self.events = Some(file);
        Ok(elapsed_s)
    }

    /// Appends a generation to the event file.
    pub fn log(&mut self, row: &Row, elapsed_s: f64) -> anyhow::Result<()> {
        let kind = row.kind.name();
        let tag = |what: &str| format!("{kind}/{what}");
        let mut scalars = vec![
            (tag("cost_of_candidates"), row.candidates),
            (tag("cost_of_prior"), row.prior),
            (tag("candidates_less_prior"), row.candidates - row.prior),
            (tag("sigma"), row.sigma),
            (ELAPSED.to_owned(), elapsed_s),
        ];
        scalars.extend(row.validation.map(|cost| (tag("validation_cost"), cost)));
        let scalars = scalars.iter().map(|(tag, value)| (tag.as_str(), *value));
        if let Some(file) = &mut self.events {
            let event = Event::scalars(wall_time(), row.generation, scalars);
            event.write(file).with_context(|| format!("the event file in {}", self.path.display()))?;
        }
        Ok(())
    }

    /// Writes what `--resume` needs.
    pub fn save(&self, trainer: &Trainer) -> anyhow::Result<()> {
        Ok(write_whole(&self.state(), &trainer.state()?)?)
    }

    /// Writes the checkpoints and the picture.
    pub fn publish(&self, trainer: &Trainer) -> anyhow::Result<()> {
        let write = |name: &str, checkpoint: &Checkpoint| -> anyhow::Result<()> {
            Ok(write_whole(&self.path.join(format!("{name}.safetensors")), &checkpoint.to_bytes()?)?)
        };
        for best in trainer.bests() {
            write(best.kind.name(), &best.checkpoint)?;
        }
        write("best", &trainer.winner()?)?;
        let title = format!("Training with seed {}", trainer.options().seed);
        let svg = draw(&title, &lines(trainer))?;
        Ok(write_whole(&self.path.join("curve.svg"), svg.as_bytes())?)
    }

    /// Writes what the command prints at its end.
    pub fn summary(&self, summary: &impl serde::Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(summary)? + "\n";
        Ok(write_whole(&self.path.join("summary.json"), text.as_bytes())?)
    }

    /// The event file that is there, or the name of a new one; TensorBoard goes by the part `tfevents`.
    fn event_file(&self) -> anyhow::Result<PathBuf> {
        let named = || self.path.display().to_string();
        for entry in fs::read_dir(&self.path).with_context(named)? {
            let path = entry.with_context(named)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tfevents.")) {
                return Ok(path);
            }
        }
        Ok(self.path.join(format!("events.out.tfevents.{:010}.trimtab", wall_time() as u64)))
    }
}

/// The lines of the learning curve: what is compared with first, so that it lies behind.
fn lines(trainer: &Trainer) -> Vec<Line> {
    let last = trainer.history().last().map_or(1.0, |row| row.generation as f64);
    let level = |(name, cost): &(String, f64)| {
        let points = vec![(0.0, *cost), (last, *cost)];
        Line { name: format!("{name}, validation"), points, style: LineStyle::Level }
    };
    // Rivals that are far off would press everything else flat.
    let mut lines: Vec<Line> = trainer.rivals().iter().take(2).map(level).collect();
    for kind in Kind::ALL {
        let of_kind = || trainer.history().iter().filter(|row| row.kind == kind);
        let validated: Vec<(f64, f64)> =
            of_kind().filter_map(|row| Some((row.generation as f64, row.validation?))).collect();
        if of_kind().next().is_some() {
            lines.push(Line { name: format!("{kind}, validation"), points: validated, style: LineStyle::Dotted });
        }
    }
    // Generations differ in their lessons far more than by learning: what is drawn is the difference to the prior on the same
    // lessons, from the prior's level on the validation scenarios.
    let base = trainer.rivals().first().map_or(0.0, |(_, cost)| *cost);
    let points =
        trainer.history().iter().map(|row| (row.generation as f64, base + row.candidates - row.prior)).collect();
    lines.push(Line { name: "candidates, on lessons".to_owned(), points, style: LineStyle::Faint });
    lines
}

/// Seconds since 1970, for TensorBoard's axis.
#[expect(clippy::disallowed_methods, reason = "events carry the time at which they were written")]
fn wall_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
