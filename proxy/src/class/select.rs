//! Which kinds of requests get a class of their own. Classes stay while they can: whoever routes by them counts requests in flight by class, and
//! learns what each costs, so that a class that comes and goes with the noise would be worth nothing.

use crate::{
    api::v1,
    config::{ClassCost, ClassKey, ClassTable, RequestClasses},
    load::CLASSES_MAX,
};

/// Classes beside "others".
pub const CHOSEN_MAX: usize = CLASSES_MAX - 1;
/// A kind of at least this importance becomes a class.
const ENTER: f32 = 0.005;
/// A class stays as long as it has this much.
const STAY: f32 = 0.0025;
/// Where all classes are taken, a kind must be so many times as important as the least of them to take its place.
const DISPLACE: f32 = 1.5;
/// A kind is believed after so many samples.
const SAMPLES_MIN: f32 = 8.0;

/// Positions in `found.top` of the kinds that are to be classes, where those with the keys `previous` are now. Those that stay keep their
/// order; those that are new follow, or stand where they displaced another.
pub fn select(previous: &[ClassKey], found: &v1::ClassCandidates) -> Vec<usize> {
    let importance = |index: usize| importance(&found.top[index], found);
    let of_key = |key: &ClassKey| found.top.iter().position(|candidate| candidate.key == key.0);
    let mut chosen: Vec<usize> =
        previous.iter().filter_map(of_key).filter(|&index| importance(index) >= STAY).collect();
    chosen.truncate(CHOSEN_MAX);
    let is_new = |&index: &usize| {
        let candidate = &found.top[index];
        importance(index) >= ENTER && candidate.samples >= SAMPLES_MIN && !previous.contains(&ClassKey(candidate.key))
    };
    let mut new: Vec<usize> = (0..found.top.len()).filter(is_new).collect();
    new.sort_by(|a, b| importance(*b).total_cmp(&importance(*a)));
    for index in new {
        if chosen.len() < CHOSEN_MAX {
            chosen.push(index);
            continue;
        }
        let least = chosen.iter_mut().min_by(|a, b| importance(**a).total_cmp(&importance(**b)));
        match least {
            Some(least) if importance(index) > DISPLACE * importance(*least) => *least = index,
            // The others are less important still.
            _ => break,
        }
    }
    chosen
}

/// Numbers for classes with these keys, 1..=15: those that had one keep it. The others get numbers that stood for nothing before, as long as
/// there are any, because requests in flight are counted by number.
pub fn numbers(previous: &[(ClassKey, u8)], keys: &[ClassKey]) -> Vec<u8> {
    let kept = |key: &ClassKey| previous.iter().find(|(other, _)| other == key).map(|(_, number)| *number);
    let mut numbers: Vec<Option<u8>> = keys.iter().map(kept).collect();
    let is_free = |number: &u8| !numbers.contains(&Some(*number));
    let was_used = |number: &u8| previous.iter().any(|(_, used)| used == number);
    let mut free: Vec<u8> = (1..CLASSES_MAX as u8).filter(is_free).collect();
    free.sort_by_key(|number| (was_used(number), *number));
    let mut free = free.into_iter();
    numbers.iter_mut().filter(|number| number.is_none()).for_each(|number| *number = free.next());
    // At most 15 keys: there is a number for each.
    numbers.into_iter().map(|number| number.unwrap_or_default()).collect()
}

/// The mean of a kind's share of the requests and of the work, 0..=1.
pub fn importance(candidate: &v1::ClassCandidate, found: &v1::ClassCandidates) -> f32 {
    let share = |part: f32, whole: f32| if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 };
    let requests = share(candidate.requests_per_s, found.requests_per_s);
    (requests + share(candidate.work_ms_per_s, found.work_ms_per_s)) / 2.0
}

/// The table of a proxy that nobody tells one: the same kinds, with costs from its own samples, and all endpoints alike. `None` where there
/// is no class to be made.
pub fn local_table(
    backend: &str,
    generation: u64,
    classes: &RequestClasses,
    previous: &[(ClassKey, u8)],
    found: &v1::ClassCandidates,
) -> Option<ClassTable> {
    let before: Vec<ClassKey> = previous.iter().map(|(key, _)| *key).collect();
    let chosen: Vec<&v1::ClassCandidate> = select(&before, found).into_iter().map(|index| &found.top[index]).collect();
    if chosen.is_empty() {
        return None;
    }
    let keys: Vec<ClassKey> = chosen.iter().map(|candidate| ClassKey(candidate.key)).collect();
    let whole = found.requests_per_s.max(f32::MIN_POSITIVE);
    let costs: Vec<ClassCost> = chosen
        .iter()
        .zip(numbers(previous, &keys))
        .map(|(candidate, number)| ClassCost {
            key: ClassKey(candidate.key),
            number,
            name: candidate.name.clone(),
            cost_ms: cost(candidate.cost_ms),
            share: (candidate.requests_per_s / whole).clamp(0.0, 1.0),
            priority: classes.priority_of(&candidate.name),
        })
        .collect();
    // Of the kinds that are no class only the mean latency is known; what a queue adds to it, it adds to the others too.
    let rest =
        |all: f32, part: fn(&v1::ClassCandidate) -> f32| (all - chosen.iter().map(|c| part(c)).sum::<f32>()).max(0.0);
    let (requests, work_ms) = (
        rest(found.requests_per_s, |candidate| candidate.requests_per_s),
        rest(found.work_ms_per_s, |candidate| candidate.work_ms_per_s),
    );
    let chosen_work: f32 = chosen.iter().map(|candidate| candidate.work_ms_per_s).sum();
    let chosen_cost: f32 = chosen.iter().map(|candidate| candidate.requests_per_s * candidate.cost_ms).sum();
    let unqueued = if chosen_work > 0.0 { (chosen_cost / chosen_work).clamp(0.0, 1.0) } else { 1.0 };
    let mean_ms = if requests > whole * 1e-3 { work_ms / requests } else { found.work_ms_per_s / whole };
    Some(ClassTable {
        backend: backend.to_owned(),
        generation,
        classes: costs,
        other_cost_ms: cost(mean_ms * unqueued),
        factors: Vec::new(),
        slots: Vec::new(),
    })
}

/// A cost as it may be.
fn cost(cost_ms: f32) -> f32 {
    if cost_ms.is_finite() { cost_ms.clamp(1e-3, 3.6e6) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kinds by number, with their share of the requests; all of the same cost.
    fn found(shares: &[(u64, f32)]) -> v1::ClassCandidates {
        let one = |&(key, share): &(u64, f32)| v1::ClassCandidate {
            key,
            name: format!("GET /{key}"),
            requests_per_s: share * 100.0,
            work_ms_per_s: share * 1_000.0,
            cost_ms: 10.0,
            samples: 100.0,
        };
        v1::ClassCandidates { top: shares.iter().map(one).collect(), requests_per_s: 100.0, work_ms_per_s: 1_000.0 }
    }

    #[track_caller]
    fn check(previous: &[u64], shares: &[(u64, f32)], expected: &[u64]) {
        let previous: Vec<ClassKey> = previous.iter().copied().map(ClassKey).collect();
        let found = found(shares);
        let chosen: Vec<u64> = select(&previous, &found).into_iter().map(|index| found.top[index].key).collect();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn kinds_with_a_share_become_classes_the_most_important_first() {
        check(&[], &[(1, 0.2), (2, 0.7), (3, 0.004)], &[2, 1]);
        check(&[], &[], &[]);
    }

    #[test]
    fn classes_do_not_flap_about_a_threshold() {
        check(&[1], &[(1, 0.004), (2, 0.004)], &[1]);
        check(&[1], &[(1, 0.002), (2, 0.9)], &[2]);
        check(&[3, 1], &[(1, 0.5), (2, 0.3), (3, 0.1)], &[3, 1, 2]);
    }

    #[test]
    fn a_full_house_gives_way_only_to_what_is_clearly_more_important() {
        let mut shares: Vec<(u64, f32)> = (1..=15).map(|key| (key, 0.02)).collect();
        shares[4].1 = 0.01;
        let keys: Vec<u64> = (1..=15).collect();
        shares.push((16, 0.014));
        check(&keys, &shares, &keys);
        shares[15].1 = 0.016;
        let expected: Vec<u64> = keys.iter().map(|&key| if key == 5 { 16 } else { key }).collect();
        check(&keys, &shares, &expected);
    }

    #[test]
    fn a_kind_that_was_seen_a_few_times_is_not_believed_yet() {
        let mut found = found(&[(1, 0.9), (2, 0.1)]);
        found.top[1].samples = 3.0;
        assert_eq!(select(&[], &found), [0]);
        assert_eq!(select(&[ClassKey(2)], &found), [1, 0], "but it stays");
    }

    #[test]
    fn classes_keep_their_numbers_and_new_ones_get_numbers_that_stood_for_nothing() {
        let run = |previous: &[(u64, u8)], keys: &[u64]| {
            let previous: Vec<_> = previous.iter().map(|(key, number)| (ClassKey(*key), *number)).collect();
            let keys: Vec<_> = keys.iter().copied().map(ClassKey).collect();
            numbers(&previous, &keys)
        };
        assert_eq!(run(&[], &[7, 8]), [1, 2]);
        assert_eq!(run(&[(7, 1), (8, 2)], &[9, 8]), [3, 2]);
        let full: Vec<(u64, u8)> = (1..=15).map(|number| (u64::from(number), number)).collect();
        let keys: Vec<u64> = (2..=16).collect();
        assert_eq!(run(&full, &keys).last(), Some(&1), "none is left but the one that became free");
    }

    #[test]
    fn a_proxy_by_itself_knows_costs_shares_and_priorities() {
        let mut found = found(&[(1, 0.5), (2, 0.4)]);
        found.top[1].cost_ms = 100.0;
        let priority = crate::config::ClassPriority { pattern: "GET /1".into(), priority: 1.0 };
        let classes = RequestClasses { priorities: vec![priority], ..Default::default() };
        let table = local_table("b", 7, &classes, &[], &found).unwrap();
        assert_eq!((table.generation, table.classes.len()), (7, 2));
        assert_eq!((table.classes[0].cost_ms, table.classes[0].share, table.classes[0].priority), (10.0, 0.5, 1.0));
        assert_eq!((table.classes[1].cost_ms, table.classes[1].priority), (100.0, 0.0));
        assert!((table.other_cost_ms - 10.0).abs() < 1e-3, "{}", table.other_cost_ms);
        assert_eq!(local_table("b", 7, &classes, &[], &v1::ClassCandidates::default()), None);
    }
}
