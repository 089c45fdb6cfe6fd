//! Tunes rivals and prints every candidate as a table, with the values to keep.
//!
//! `cargo run --release --workspace --example tune -- [--seeds N] [--seconds S] [NAME…]`: names as in `tune::TUNABLES`, all without any; N
//! training seeds from 100 on (default 1), S measured seconds (default 8).
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;

use trimtab_training::tune::{BUDGET, Field, TUNABLES, Tunable, search, tunable};

const SEEDS_FROM: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut seeds, mut seconds) = (1, 8);
    let mut chosen: Vec<&'static Tunable> = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number =
            || arguments.next().ok_or(format!("{argument} needs a number"))?.parse().map_err(Box::<dyn Error>::from);
        match argument.as_str() {
            "--seeds" => seeds = number()?,
            "--seconds" => seconds = number()?,
            name => chosen.push(tunable(name).ok_or_else(|| {
                let names: Vec<&str> = TUNABLES.iter().map(|tunable| tunable.name).collect();
                format!("{name:?} has no knobs; there are {}", names.join(", "))
            })?),
        }
    }
    if chosen.is_empty() {
        chosen = TUNABLES.iter().collect();
    }
    for overload in [false, true] {
        if chosen.iter().any(|tunable| tunable.overload == overload) {
            let field = Field::new(overload, SEEDS_FROM..SEEDS_FROM + seeds, seconds)?;
            for tunable in chosen.iter().filter(|tunable| tunable.overload == overload) {
                tune(tunable, &field)?;
            }
        }
    }
    Ok(())
}

fn tune(tunable: &Tunable, field: &Field) -> Result<(), Box<dyn Error>> {
    let names: Vec<&str> = tunable.knobs.iter().map(|knob| knob.name).collect();
    println!("\n| {}: {} | cost |\n|---|{}", tunable.name, names.join(" | "), "---|".repeat(names.len()));
    let row = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(" | ");
    let (best, cost) = search(
        tunable,
        BUDGET,
        |rival| field.score(rival),
        |values, cost| {
            println!("| {} | {cost:.4} |", row(values));
        },
    )?;
    println!("\n{}: {} at cost {cost:.4}", tunable.name, row(&best));
    Ok(())
}
