//! Tests of the choice of classes, and of what is pushed when.

use super::*;

/// A proxy's report on one endpoint: kinds by name, requests per second and latency; answers of classes by key and cost.
struct Report<'a> {
    found: &'a [(&'a str, f32, f32)],
    answers: &'a [(u64, u32, f32)],
}

impl Report<'_> {
    fn wire(&self) -> v1::BackendLoad {
        let candidate = |&(name, requests_per_s, latency_ms): &(&str, f32, f32)| v1::ClassCandidate {
            key: identity::key_of(name).0,
            name: name.into(),
            requests_per_s,
            work_ms_per_s: requests_per_s * latency_ms,
            cost_ms: latency_ms / 2.0,
            samples: 50.0,
        };
        let top: Vec<_> = self.found.iter().map(candidate).collect();
        let candidates = v1::ClassCandidates {
            requests_per_s: top.iter().map(|candidate| candidate.requests_per_s).sum(),
            work_ms_per_s: top.iter().map(|candidate| candidate.work_ms_per_s).sum(),
            top,
        };
        let classes = self.answers.iter();
        let classes = classes
            .map(|&(key, successes, cost_ms)| v1::ClassLoad { key, successes, unqueued: successes, cost_ms })
            .collect();
        v1::BackendLoad {
            endpoints: vec![v1::EndpointLoad { key: 7, classes, ..Default::default() }],
            candidates: Some(candidates),
            ..Default::default()
        }
    }
}

fn resource() -> v1::Backend {
    v1::Backend { name: "a/b:1".into(), generation: 3, ..Default::default() }
}

const ENDPOINTS: [EndpointKey; 2] = [EndpointKey(7), EndpointKey(8)];

fn report(classes: &mut Classes, proxy: &str, report: &Report<'_>, now: Now) {
    classes.reported(&proxy.into(), &report.wire(), |_| true, now);
}

fn names(table: &v1::ClassTable) -> Vec<&str> {
    table.classes.iter().map(|class| &*class.name).collect()
}

const SHOP: &[(&str, f32, f32)] = &[("GET /report", 10.0, 200.0), ("GET /item/{}", 90.0, 2.0)];

#[test]
fn kinds_of_all_proxies_are_pooled_and_their_costs_come_from_samples_until_there_are_answers() {
    let now = crate::clock::now();
    let mut classes = Classes::default();
    assert_eq!(classes.tick(&resource(), ENDPOINTS.into_iter(), |_| None, now), None, "nothing is known yet");
    report(&mut classes, "p", &Report { found: SHOP, answers: &[] }, now);
    report(&mut classes, "q", &Report { found: &[("GET /item/{}", 300.0, 6.0)], answers: &[] }, now);
    let later = now.plus(Duration::from_secs(2));
    let table = classes.tick(&resource(), ENDPOINTS.into_iter(), |key| (key.0 == 8).then_some(4.0), later).unwrap();
    assert_eq!(names(&table), ["GET /item/{}", "GET /report"]);
    assert_eq!((table.classes[0].share, table.classes[1].share), (0.975, 0.025));
    assert_eq!((table.classes[0].cost_ms, table.classes[1].cost_ms), (2.0, 100.0));
    assert_eq!((table.generation, &table.slots[..]), (3, &[0.0, 4.0][..]));
    assert!(table.factors.is_empty());

    let key = identity::key_of("GET /report").0;
    report(&mut classes, "p", &Report { found: SHOP, answers: &[(key, 500, 80.0)] }, later);
    let table = classes.tick(&resource(), ENDPOINTS.into_iter(), |_| None, later.plus(Duration::from_secs(3))).unwrap();
    assert!((table.classes[1].cost_ms - 80.0).abs() < 8.0, "{table:?}");
    assert_eq!(table.factors.len(), 2 * 3);
}

#[test]
fn what_has_not_changed_noticeably_is_not_pushed_again() {
    let mut now = crate::clock::now();
    let mut classes = Classes::default();
    let mut pushes = 0;
    for step in 0..20 {
        // Shares and costs that are steady but for their noise.
        let noise = 1.0 + 0.01 * (step % 3) as f32;
        let found: Vec<_> = SHOP.iter().map(|(name, rate, latency)| (*name, rate * noise, latency * noise)).collect();
        report(&mut classes, "p", &Report { found: &found, answers: &[] }, now);
        pushes += usize::from(classes.tick(&resource(), ENDPOINTS.into_iter(), |_| None, now).is_some());
        now = now.plus(Duration::from_millis(500));
    }
    assert_eq!(pushes, 1);
    let mut other = resource();
    other.generation = 4;
    report(&mut classes, "p", &Report { found: SHOP, answers: &[] }, now);
    assert!(
        classes.tick(&other, ENDPOINTS.into_iter(), |_| None, now).is_some(),
        "another list of endpoints is told at once"
    );
}

#[test]
fn priorities_are_the_configurations_and_told_when_they_change() {
    let now = crate::clock::now();
    let mut classes = Classes::default();
    report(&mut classes, "p", &Report { found: SHOP, answers: &[] }, now);
    let priority = v1::ClassPriority { r#match: "GET /item*".into(), priority: 1.0 };
    let said = v1::RequestClasses { priorities: vec![priority], ..Default::default() };
    let resource = v1::Backend { classes: Some(said), ..resource() };
    let table = classes.tick(&resource, ENDPOINTS.into_iter(), |_| None, now).unwrap();
    assert_eq!(table.classes.iter().map(|class| class.priority).collect::<Vec<_>>(), [0.0, 1.0]);
}

#[test]
fn where_requests_are_not_told_apart_any_more_proxies_are_told_so_once() {
    let now = crate::clock::now();
    let mut classes = Classes::default();
    report(&mut classes, "p", &Report { found: SHOP, answers: &[] }, now);
    assert!(classes.tick(&resource(), ENDPOINTS.into_iter(), |_| None, now).is_some());
    let said = v1::RequestClasses { enabled: Some(false), ..Default::default() };
    let off = v1::Backend { classes: Some(said), ..resource() };
    assert_eq!(classes.tick(&off, ENDPOINTS.into_iter(), |_| None, now).map(|table| table.classes), Some(vec![]));
    assert_eq!(classes.tick(&off, ENDPOINTS.into_iter(), |_| None, now), None);
}

#[test]
fn a_share_that_was_shed_is_told_and_fades() {
    let now = crate::clock::now();
    let mut classes = Classes::default();
    report(&mut classes, "p", &Report { found: SHOP, answers: &[] }, now);
    classes.tick(&resource(), ENDPOINTS.into_iter(), |_| None, now);
    let key = identity::key_of("GET /report").0;
    let mut load = Report { found: SHOP, answers: &[(key, 30, 80.0)] }.wire();
    load.class_shed = vec![v1::ClassShed { key, shed: 10 }, v1::ClassShed { key: 1, shed: 10 }];
    classes.reported(&"p".into(), &load, |_| true, now);
    let shed: Vec<f64> = classes.pushed().map(|(_, shed)| shed).collect();
    assert_eq!(shed, [0.25, 0.0]);
}

#[test]
fn what_cannot_be_is_not_believed() {
    let now = crate::clock::now();
    let mut classes = Classes::default();
    let mut load = Report { found: SHOP, answers: &[] }.wire();
    let found = load.candidates.as_mut().unwrap();
    found.top[0].key += 1;
    found.top[1].cost_ms = f32::NAN;
    found.top[1].requests_per_s = f32::INFINITY;
    found.work_ms_per_s = -1.0;
    found.top.push(v1::ClassCandidate { name: "x".repeat(9999), ..Default::default() });
    classes.reported(&"p".into(), &load, |_| true, now);
    assert_eq!(classes.tick(&resource(), ENDPOINTS.into_iter(), |_| None, now), None);
}
