use super::*;
use crate::{
    fleet::{Fleet, FleetOptions},
    scenario::{Family, Setting},
    simulator::simulate,
};

fn dataset(std: f64) -> Dataset {
    let scenario = Family::Heterogeneous.scenario(&Setting { seconds: Some(20), ..Setting::new(3, 1, 4) });
    let policy = trimtab_model::Policy::prior_only().with_exploration(std);
    let mut fleet = Fleet::with_policy(&scenario, &FleetOptions::TRIMTAB, policy).recording(0.0);
    simulate(&scenario, &mut fleet).unwrap();
    Dataset::new(&fleet.into_recording().ticks, None)
}

#[test]
fn actions_are_told_apart_only_where_something_was_explored() {
    assert!(Basis::new(&dataset(0.2)).acted());
    assert!(!Basis::new(&dataset(0.0)).acted());
    assert!(!Basis::new(&Dataset::default()).acted());
}

#[test]
fn the_gradients_of_all_endpoints_add_up_to_what_lasting_residuals_do() {
    let dataset = dataset(0.2);
    let basis = Basis::new(&dataset);
    let episode = &dataset.episodes[0];
    let lasting: Vec<f64> = (0..4).map(|index| 0.1 * index as f64 - 0.15).collect();
    let rows = basis.actions(episode, &vec![lasting.clone(); episode.steps.len()]);
    for (t, step) in episode.steps.iter().enumerate() {
        let mut sum = Array1::<f64>::zeros(basis.actions_len());
        for (index, at) in step.endpoints.iter().enumerate() {
            let (first, second) = basis.gradients(step, index);
            sum.scaled_add(at.share * lasting[index], &first);
            sum.scaled_add(at.share * lasting[index].powi(2), &second);
        }
        assert!((&sum - &rows.row(t)).iter().all(|difference| difference.abs() < 1e-9), "step {t}");
    }
}

#[test]
fn standardised_states_are_held_and_start_with_a_constant() {
    let dataset = dataset(0.2);
    let basis = Basis::new(&dataset);
    let states = basis.states(&dataset.episodes[0]);
    assert_eq!(states.ncols(), basis.states_len());
    assert!(states.column(0).iter().all(|x| *x == 1.0));
    assert!(states.iter().all(|x| x.abs() <= HELD));
}
