//! What this proxy tells its peers, and when: endpoints whose counts changed at once, all others every [`HEARTBEAT`], in as few datagrams
//! as they fit into, and never more than a budget: where there is more to tell than it allows, everything is told in turn. Where there are
//! more endpoints than [`LOOKED_AT`] they are looked at in turn as well: of thousands hardly any is busy enough to be chosen by two proxies
//! within a few milliseconds, and looking at all of them a thousand times a second would take more of a core than the requests.

use std::collections::BTreeMap;

use super::{
    About, Counts, HEARTBEAT, Subject,
    mac::MacKeys,
    wire::{BLOCK, Header, Writer},
};
use crate::{load::CLASSES_MAX, time::Timestamp};

/// Datagrams a second at most, one to each peer counted by itself: about a tenth of a core.
const SENDS_PER_S: f64 = 32_000.0;
/// So many may go out in one go, after a silence; at least one to each peer.
const BURST: f64 = 64.0;

/// Endpoints whose counts are looked at in one go, of all backends together; about.
const LOOKED_AT: usize = 512;

/// The telling side.
#[derive(Debug)]
pub struct Sent {
    header: Header,
    backends: BTreeMap<u64, Told>,
    /// Where the last round ran out of budget: backend and block.
    next: (u64, usize),
    sends: f64,
    at: Timestamp,
}

/// What was seen and told of one backend.
#[derive(Debug)]
struct Told {
    about: About,
    counts: Vec<Counts>,
    /// None of its endpoints has been looked at.
    fresh: bool,
    /// When each block was told as it is now; `None`: not yet.
    at: Vec<Option<Timestamp>>,
    /// The endpoint that is looked at next.
    look: usize,
}

impl Sent {
    /// Of the proxy with this key, in the life with this epoch.
    pub fn new(key: u64, epoch: u64, now: Timestamp) -> Self {
        Self {
            header: Header { sender: key, epoch, sequence: 0 },
            backends: BTreeMap::new(),
            next: (0, 0),
            sends: BURST,
            at: now,
        }
    }

    /// The datagrams to send now, each to all of so many `peers`. To be asked every [`super::INTERVAL`].
    pub fn datagrams(&mut self, now: Timestamp, subjects: &[Subject], peers: usize, keys: &MacKeys) -> Vec<Vec<u8>> {
        let each = peers.max(1) as f64;
        let earned = now.since(std::mem::replace(&mut self.at, now)).as_secs_f64() * SENDS_PER_S;
        self.sends = (self.sends + earned).min(BURST.max(each));
        if peers == 0 {
            return Vec::new();
        }
        self.look(subjects);
        let mut datagrams = Vec::new();
        let mut writer: Option<Writer> = None;
        for (backend, block) in self.due(now) {
            let Some(told) = self.backends.get_mut(&backend) else { continue };
            let from = block * BLOCK;
            let counts = &told.counts[from..told.counts.len().min(from + BLOCK)];
            let fits = writer.as_mut().is_some_and(|writer| writer.push(&told.about, from as u32, counts));
            if !fits {
                if let Some(full) = writer.take() {
                    datagrams.push(full.finish(|bytes| keys.sign(bytes, now)));
                }
                if self.sends < each {
                    self.next = (backend, block);
                    return datagrams;
                }
                self.sends -= each;
                self.header.sequence += 1;
                let mut fresh = Writer::new(&self.header);
                fresh.push(&told.about, from as u32, counts);
                writer = Some(fresh);
            }
            told.at[block] = Some(now);
        }
        datagrams.extend(writer.map(|last| last.finish(|bytes| keys.sign(bytes, now))));
        datagrams
    }

    /// Takes in what is in flight now.
    fn look(&mut self, subjects: &[Subject]) {
        if self.backends.len() > subjects.len() {
            self.backends.retain(|hash, _| subjects.iter().any(|subject| subject.about.backend == *hash));
        }
        let total: usize = subjects.iter().map(|subject| subject.backend.endpoints().len()).sum();
        let rounds = total.div_ceil(LOOKED_AT).max(1);
        for Subject { about, backend } in subjects {
            let endpoints = backend.endpoints();
            let told = self.backends.entry(about.backend).or_insert_with(|| Told::new(about, endpoints.len()));
            if told.about != *about || told.counts.len() != endpoints.len() {
                *told = Told { look: told.look, ..Told::new(about, endpoints.len()) };
            }
            // All of them at first: what is not known yet would be told as idle.
            let count =
                if std::mem::take(&mut told.fresh) { endpoints.len() } else { endpoints.len().div_ceil(rounds) };
            let from = told.look.checked_rem(endpoints.len()).unwrap_or(0);
            for position in (from..endpoints.len()).chain(0..from).take(count) {
                let counts = endpoints[position].load.in_flight_by_class();
                if counts != told.counts[position] {
                    told.counts[position] = counts;
                    told.at[position / BLOCK] = None;
                }
            }
            told.look = from + count;
        }
    }

    /// Blocks that are to be told, beginning where the last round ended.
    fn due(&self, now: Timestamp) -> Vec<(u64, usize)> {
        let old = |at: &Option<Timestamp>| at.is_none_or(|at| now.since(at) >= HEARTBEAT);
        let blocks =
            |told: &Told| told.at.iter().enumerate().filter(|(_, at)| old(at)).map(|(block, _)| block).collect();
        let due = self.backends.iter().map(|(hash, told)| (hash, blocks(told)));
        let mut due: Vec<(u64, usize)> =
            due.flat_map(|(hash, blocks): (_, Vec<usize>)| blocks.into_iter().map(|block| (*hash, block))).collect();
        let first = due.partition_point(|block| *block < self.next);
        due.rotate_left(first);
        due
    }
}

impl Told {
    fn new(about: &About, endpoints: usize) -> Self {
        Self {
            about: *about,
            counts: vec![[0; CLASSES_MAX]; endpoints],
            fresh: true,
            at: vec![None; endpoints.div_ceil(BLOCK)],
            look: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{
            INTERVAL,
            mac::TAG_BYTES,
            testing::{KEY, START, begin, pass, subject},
            wire::{self, Section},
        },
        *,
    };

    fn tell(sent: &mut Sent, subjects: &[Subject], peers: usize, at: Timestamp) -> Vec<Section> {
        let datagrams = sent.datagrams(at, subjects, peers, &MacKeys::new(KEY, START));
        let sections = |datagram: &Vec<u8>| wire::sections(&datagram[..datagram.len() - TAG_BYTES]).unwrap();
        datagrams.iter().flat_map(sections).collect()
    }

    fn ranges(sections: &[Section]) -> Vec<(u32, u32, usize)> {
        sections.iter().map(|section| (section.from, section.to, section.entries.len())).collect()
    }

    #[test]
    fn what_changed_is_told_at_once_and_the_rest_every_25_ms() {
        let subjects = [subject("a", 1, 40)];
        let mut sent = Sent::new(1, 1, START);
        let mut told = |ms| ranges(&tell(&mut sent, &subjects, 3, START + Duration::from_millis(ms)));
        assert_eq!(told(0), [(0, 40, 0)], "all of it at first");
        assert_eq!(told(2), []);
        begin(&subjects[0], 20, 3);
        begin(&subjects[0], 20, 4);
        assert_eq!(told(4), [(16, 32, 2)]);
        pass(&subjects[0], 0, 0);
        assert_eq!(told(6), [], "it came and went between two looks");
        assert_eq!(told(25), [(0, 16, 0), (32, 40, 0)], "what was told since is younger");
        assert_eq!(told(29), [(16, 32, 2)]);
    }

    #[test]
    fn of_thousands_of_endpoints_a_change_is_told_within_as_many_rounds_as_it_takes_to_look_at_all() {
        let subjects = [subject("a", 1, 4_000), subject("b", 1, 1_000)];
        let mut sent = Sent::new(1, 1, START);
        begin(&subjects[0], 17, 1);
        let first = tell(&mut sent, &subjects, 1, START);
        let known: Vec<usize> =
            first.iter().map(|section| section.entries.len()).filter(|entries| *entries > 0).collect();
        assert_eq!(known, [1], "what is in flight at first is told at first");
        (0..4_000).for_each(|endpoint| begin(&subjects[0], endpoint, 1));
        (0..1_000).for_each(|endpoint| begin(&subjects[1], endpoint, 1));
        let mut seen = [vec![false; 4_000], vec![false; 1_000]];
        let rounds = 5_000_usize.div_ceil(LOOKED_AT);
        for round in 1..=rounds {
            let told = tell(&mut sent, &subjects, 1, START + INTERVAL * round as u32);
            for section in told.iter().filter(|section| !section.entries.is_empty()) {
                let which = usize::from(section.about.backend == subjects[1].about.backend);
                section.entries.iter().for_each(|entry| seen[which][entry.position as usize] = true);
            }
            let share = seen[0].iter().filter(|seen| **seen).count();
            assert!(
                share.abs_diff(4_000 * round / rounds) <= BLOCK,
                "{share} of 4,000 after {round} of {rounds} rounds"
            );
        }
        assert!(seen.iter().flatten().all(|seen| *seen));
    }

    #[test]
    fn another_list_of_endpoints_is_told_anew() {
        let mut sent = Sent::new(1, 1, START);
        tell(&mut sent, &[subject("a", 1, 16), subject("b", 1, 3)], 1, START);
        let told = tell(&mut sent, &[subject("a", 2, 17)], 1, START + INTERVAL);
        assert_eq!(ranges(&told), [(0, 17, 0)]);
        assert_eq!(told[0].about.generation, 2);
        assert_eq!(sent.backends.len(), 1);
    }

    #[test]
    fn nobody_is_told_where_there_is_nobody() {
        assert_eq!(tell(&mut Sent::new(1, 1, START), &[subject("a", 1, 1)], 0, START), []);
    }

    #[test]
    fn sequences_count_up_over_all_datagrams() {
        let subjects = [subject("a", 1, 2_000)];
        (0..2_000).for_each(|endpoint| begin(&subjects[0], endpoint, 1));
        let datagrams = Sent::new(7, 8, START).datagrams(START, &subjects, 1, &MacKeys::new(KEY, START));
        let headers: Vec<Header> = datagrams.iter().map(|datagram| wire::header(datagram).unwrap()).collect();
        let expected: Vec<Header> =
            (1..=datagrams.len() as u64).map(|sequence| Header { sender: 7, epoch: 8, sequence }).collect();
        assert_eq!(headers, expected);
        assert!((4..=5).contains(&datagrams.len()), "{} datagrams for 4,000 bytes", datagrams.len());
    }

    #[test]
    fn beyond_the_budget_everything_is_told_in_turn() {
        let subjects = [subject("a", 1, 5_000)];
        let mut sent = Sent::new(1, 1, START);
        let keys = MacKeys::new(KEY, START);
        let mut seen = vec![0; 5_000];
        let mut sends = 0;
        for round in 0..1_000 {
            // Every endpoint changes all the time.
            (0..5_000).for_each(|endpoint| begin(&subjects[0], endpoint, 1));
            for datagram in sent.datagrams(START + INTERVAL * round, &subjects, 100, &keys) {
                sends += 100;
                for section in wire::sections(&datagram[..datagram.len() - TAG_BYTES]).unwrap() {
                    (section.from..section.to).for_each(|position| seen[position as usize] += 1);
                }
            }
        }
        assert!((25_000..=33_000).contains(&sends), "{sends} in a second");
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(*least > 10 && most - least <= 1, "each as often as the others: {least} to {most}");
    }
}
