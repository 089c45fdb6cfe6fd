//! Training as a whole, on so little that it learns nothing: it ends at the same bits however it is run.

use std::{fs, path::Path};

use trimtab_model::Policy;
use trimtab_training::learn::{
    state::write_whole,
    trainer::{Options, Trainer},
};

fn options() -> Options {
    Options {
        seed: 7,
        stages: vec!["constants".into(), "linear".into(), "network".into()],
        generations: Some(6),
        pairs: 2,
        lessons: 2,
        seconds: Some(1),
        validate_every: 2,
        validation_lessons: 3,
        patience: 5,
        survey_lessons: 4,
    }
}

fn trained(jobs: usize) -> Vec<u8> {
    let mut trainer = Trainer::start(options(), jobs, "a test", |_| {}).expect("it starts");
    while trainer.step().expect("it trains").is_some() {}
    trainer.state().expect("it has a state")
}

/// Training that is killed after each generation and goes on from the file.
fn trained_with_interruptions(path: &Path) -> Vec<u8> {
    let trainer = Trainer::start(options(), 2, "a test", |_| {}).expect("it starts");
    write_whole(path, &trainer.state().expect("it has a state")).expect("written");
    loop {
        let mut trainer = Trainer::resume(path, None, 2).expect("it goes on");
        let Some(row) = trainer.step().expect("it trains") else {
            return fs::read(path).expect("read");
        };
        assert_eq!(trainer.history().last(), Some(&row));
        write_whole(path, &trainer.state().expect("it has a state")).expect("written");
    }
}

#[test]
fn training_ends_at_the_same_bits_whatever_the_jobs_and_interruptions() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let alone = trained(1);
    assert!(alone == trained(3), "three jobs end elsewhere than one");
    assert!(alone == trained_with_interruptions(&path), "interrupted training ends elsewhere");

    let trainer = Trainer::resume(&path, None, 1).expect("it is read");
    assert!(trainer.is_done() && trainer.history().len() == 6, "{:?}", trainer.history());
    let kinds: Vec<String> = trainer.bests().iter().map(|best| best.kind.to_string()).collect();
    assert_eq!(kinds, ["constants", "linear", "network"]);
    let winner = trainer.winner().expect("there is one");
    Policy::new(&winner).expect("it runs");
    assert_eq!(winner.manifest().created_by, "a test");
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    let check = |change: fn(&mut Options), expected: &str| {
        let mut options = options();
        change(&mut options);
        let error = Trainer::start(options, 1, "a test", |_| {}).expect_err("it is refused");
        assert_eq!(error.to_string(), expected);
    };
    check(|options| options.pairs = 0, "pairs is 0, it must be at least 1");
    check(|options| options.stages = vec!["deep".into()], "policy is deep, it must be constants, linear or network");
    check(|options| options.validation_lessons = 0, "validation-lessons is 0, it must be from 1 to 84000");
}
