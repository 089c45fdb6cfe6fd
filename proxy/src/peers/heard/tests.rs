//! Peers that talk to one proxy: `Sent` of each of them against the `Heard` of that one.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    super::{
        INTERVAL,
        mac::TAG_BYTES,
        sent::Sent,
        testing::{KEY, START, begin, subject},
        wire::{Header, Writer},
    },
    *,
};
use crate::{config::MacKey, time::Coarse};

const OWN: u64 = 100;

fn peer(key: u64) -> Peer {
    Peer { key, address: ([10, 0, 0, key as u8], 1).into(), epoch: key * 10 }
}

fn table(keys: &[u64], proxies: u32) -> PeerTable {
    PeerTable { peers: keys.iter().map(|key| peer(*key)).collect(), proxies, mac_key: KEY }
}

/// A proxy that knows the peers 1, 2, 3 and itself, and hears of one backend of three endpoints.
struct Proxy {
    heard: Heard,
    subjects: [Subject; 1],
}

impl Proxy {
    fn new() -> Self {
        let mut heard = Heard::new(OWN, START);
        heard.set_table(&table(&[1, 2, 3, OWN], 4), START);
        let subjects = [subject("a", 1, 3)];
        heard.follow(&subjects);
        Self { heard, subjects }
    }

    /// Hands over, and tells what the rule then knows of the endpoint at 0: class by class where it is not 0.
    fn knows(&mut self, now: Timestamp) -> Option<Vec<(usize, u16)>> {
        self.heard.hand_over(&self.subjects, now);
        let counts = self.subjects[0].backend.endpoints()[0].load.peers(Coarse::of(now))?;
        Some(counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect())
    }
}

/// What peer `key` says when it has requests of these classes in flight at endpoint 0.
fn says(key: u64, sequence: u64, about: &About, classes: &[u8]) -> Vec<u8> {
    let mut counts = [[0; CLASSES_MAX]; 3];
    classes.iter().for_each(|class| counts[0][usize::from(*class)] += 1);
    let mut writer = Writer::new(&Header { sender: key, epoch: key * 10, sequence });
    assert!(writer.push(about, 0, &counts));
    writer.finish(|bytes| MacKeys::new(KEY, START).sign(bytes, START))
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_rule_knows_what_peers_say_they_have_in_flight() {
    let mut proxy = Proxy::new();
    let keys = MacKeys::new(KEY, START);
    let others: Vec<Subject> = (1..=3).map(|_| subject("a", 1, 3)).collect();
    let mut sent: Vec<Sent> = (1..=3).map(|key| Sent::new(key, key * 10, START)).collect();
    begin(&others[0], 0, 2);
    begin(&others[1], 0, 2);
    begin(&others[2], 0, 5);
    begin(&others[2], 1, 5);
    let mut exchange = |proxy: &mut Proxy, at: Timestamp| {
        for (sent, subject) in sent.iter_mut().zip(&others) {
            for datagram in sent.datagrams(at, std::slice::from_ref(subject), 3, &keys) {
                assert_eq!(proxy.heard.receive(&datagram, at), Ok(()));
            }
        }
        proxy.knows(at)
    };
    assert_eq!(exchange(&mut proxy, START), Some(vec![(2, 2), (5, 1)]));
    begin(&others[1], 0, 0);
    assert_eq!(exchange(&mut proxy, START + INTERVAL), Some(vec![(0, 1), (2, 2), (5, 1)]));
    let later = (1..500).map(|n| START + INTERVAL * n).all(|at| exchange(&mut proxy, at).is_some());
    assert!(later, "heartbeats keep it fresh");
}

#[test]
fn silent_peers_count_as_the_mean_of_the_others_down_to_half_of_them() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    for (key, classes) in [(1, &[1, 1, 1, 1][..]), (2, &[1, 1]), (3, &[1])] {
        assert_eq!(proxy.heard.receive(&says(key, 1, &about, classes), START), Ok(()));
    }
    assert_eq!(proxy.knows(START), Some(vec![(1, 7)]));
    let at = START + ms(90);
    assert_eq!(proxy.heard.receive(&says(1, 2, &about, &[1, 1, 1, 1]), at), Ok(()));
    assert_eq!(proxy.heard.receive(&says(2, 2, &about, &[1, 1]), at), Ok(()));
    let at = START + ms(110);
    assert_eq!(proxy.heard.receive(&says(1, 3, &about, &[1, 1, 1, 1]), at), Ok(()));
    assert_eq!(proxy.knows(at), Some(vec![(1, 9)]), "two of three heard: 6 × 3 / 2");
    let at = START + ms(200);
    assert_eq!(proxy.heard.receive(&says(1, 4, &about, &[1, 1, 1, 1]), at), Ok(()));
    proxy.heard.hand_over(&proxy.subjects, at);
    assert_eq!(proxy.knows(START + ms(215)), None, "one of three says too little");
}

#[test]
fn a_peer_that_is_no_longer_listed_is_forgotten_at_once() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    (1..=3).for_each(|key| proxy.heard.receive(&says(key, 1, &about, &[key as u8]), START).unwrap());
    proxy.heard.set_table(&table(&[1, 3, OWN], 3), START);
    assert_eq!(proxy.knows(START), Some(vec![(1, 1), (3, 1)]));
    assert_eq!(proxy.heard.receive(&says(2, 2, &about, &[]), START), Err(Rejected::Stranger));
    assert_eq!(proxy.heard.destinations(START).len(), 2);
}

#[test]
fn after_a_restart_of_the_controller_those_that_are_not_back_yet_are_believed() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    let again = PeerTable { mac_key: MacKey([6; 32]), ..table(&[OWN], 1) };
    proxy.heard.set_table(&again, START);
    (1..=3).for_each(|key| proxy.heard.receive(&says(key, 1, &about, &[0]), START).unwrap());
    assert_eq!(proxy.knows(START), Some(vec![(0, 3)]));
    proxy.heard.set_table(&PeerTable { mac_key: MacKey([6; 32]), ..table(&[1, OWN], 2) }, START);
    proxy.knows(START + ms(14_000));
    assert_eq!(proxy.heard.peers().len(), 3);
    proxy.knows(START + ms(15_000));
    assert_eq!(proxy.heard.peers().map(|state| state.peer.key).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_is_not_to_be_believed_is_dropped_with_the_reason() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    let good = says(1, 5, &about, &[0]);
    let mut check = |datagram: &[u8], expected| assert_eq!(proxy.heard.receive(datagram, START), expected);
    check(&[], Err(Rejected::Malformed));
    check(&[0; 100], Err(Rejected::Malformed));
    let mut forged = good.clone();
    forged[40] ^= 1;
    check(&forged, Err(Rejected::Forged));
    let mut other_key = good.clone();
    let length = other_key.len() - TAG_BYTES;
    let tag = MacKeys::new(MacKey([9; 32]), START).sign(&other_key[..length], START);
    other_key[length..].copy_from_slice(&tag);
    check(&other_key, Err(Rejected::Forged));
    check(&says(9, 1, &about, &[0]), Err(Rejected::Stranger));
    check(&says(OWN, 1, &about, &[0]), Err(Rejected::Stranger));
    check(&good, Ok(()));
    check(&good, Err(Rejected::Late));
    check(&says(1, 4, &about, &[0]), Err(Rejected::Late));
    check(&says(1, 6, &About { generation: 2, ..about }, &[0]), Err(Rejected::OtherEndpoints));
    check(&says(1, 7, &About { backend: 2, ..about }, &[0]), Err(Rejected::OtherEndpoints));
}

#[test]
fn a_restarted_peer_starts_over_and_its_earlier_life_is_a_stranger() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    assert_eq!(proxy.heard.receive(&says(1, 900, &about, &[1, 1]), START), Ok(()));
    let mut again = table(&[1, 2, 3, OWN], 4);
    again.peers[0].epoch = 11;
    proxy.heard.set_table(&again, START);
    assert_eq!(proxy.heard.receive(&says(1, 901, &about, &[1, 1]), START), Err(Rejected::Stranger));
    let mut writer = Writer::new(&Header { sender: 1, epoch: 11, sequence: 1 });
    writer.push(&about, 0, &[[0; CLASSES_MAX]; 3]);
    let datagram = writer.finish(|bytes| MacKeys::new(KEY, START).sign(bytes, START));
    assert_eq!(proxy.heard.receive(&datagram, START), Ok(()));
}

#[test]
fn counts_of_classes_that_are_numbered_otherwise_are_those_of_class_0() {
    let mut proxy = Proxy::new();
    let about = About { numbering: 77, ..proxy.subjects[0].about };
    (1..=3).for_each(|key| proxy.heard.receive(&says(key, 1, &about, &[4, 5]), START).unwrap());
    assert_eq!(proxy.knows(START), Some(vec![(0, 6)]));
}

#[test]
fn another_list_of_endpoints_starts_over() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    (1..=3).for_each(|key| proxy.heard.receive(&says(key, 1, &about, &[1]), START).unwrap());
    proxy.subjects = [subject("a", 2, 2)];
    proxy.heard.follow(&proxy.subjects);
    assert_eq!(proxy.knows(START), None);
    proxy.heard.follow(&[]);
    assert!(proxy.heard.backends.is_empty() && proxy.heard.peers.values().all(|remote| remote.told.is_empty()));
}

#[test]
fn those_that_never_answer_are_told_things_once_a_second() {
    let mut proxy = Proxy::new();
    let about = proxy.subjects[0].about;
    let mut sent = [0; 4];
    for tick in 0..10_000 {
        let now = START + ms(tick);
        if tick % 25 == 0 {
            proxy.heard.receive(&says(1, tick + 1, &about, &[]), now).unwrap();
        }
        for address in proxy.heard.destinations(now) {
            let IpAddr::V4(address) = address.ip() else { continue };
            sent[usize::from(address.octets()[3])] += 1;
        }
    }
    assert_eq!(sent[1..], [10_000, 5_005, 5_005]);
}

proptest! {
    /// However much is said, lost and forgotten: the sums are those of what counts, taken anew.
    #[test]
    fn sums_agree_with_their_slow_twin(steps in prop::collection::vec((1u64..5, 0u64..60, prop::collection::vec(0u8..16, 0..6), 0u32..3), 1..80)) {
        let mut proxy = Proxy::new();
        let about = proxy.subjects[0].about;
        let mut now = START;
        for (sequence, (key, wait, classes, drop)) in (1..).zip(steps) {
            now = now + ms(wait);
            if key < 4 {
                let _ = proxy.heard.receive(&says(key, sequence, &about, &classes), now);
            } else {
                let listed: Vec<u64> = (1..=3).filter(|key| u64::from(drop) + 1 != *key).collect();
                proxy.heard.set_table(&table(&listed, 4), now);
                proxy.heard.set_table(&table(&[1, 2, 3], 4), now);
            }
            proxy.heard.sweep(now);
            let sums = &proxy.heard.backends[&about.backend];
            for position in 0..3 {
                let told = proxy.heard.peers.values().filter_map(|remote| remote.told.get(&about.backend));
                let counting: Vec<&Told> = told.filter(|told| told.at[position].is_some()).collect();
                prop_assert_eq!(sums.peers[position] as usize, counting.len());
                for class in 0..CLASSES_MAX {
                    let sum: u32 = counting.iter().map(|told| u32::from(told.counts[position][class])).sum();
                    prop_assert_eq!(sums.counts[position][class], sum);
                }
                prop_assert!(counting.iter().all(|told| told.at[position].is_some_and(|at| now.since(at) < FRESH)));
            }
        }
    }
}
