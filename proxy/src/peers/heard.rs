//! What this proxy hears from its peers: the last counts of each of them, summed by endpoint for the rule.
//!
//! A peer's word on an endpoint counts for [`FRESH`]. Those that are silent, or take part in no exchange, count as the mean of those that are
//! heard: they get their share of the same clients. While fewer than half of the expected peers are heard nothing is handed to the rule,
//! which then scales its own counts by the number of proxies, as it does without any exchange.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    time::Duration,
};

use super::{
    About, Counts, FRESH, Subject,
    mac::MacKeys,
    wire::{self, Section},
};
use crate::{
    config::{Peer, PeerTable},
    load::CLASSES_MAX,
    time::Timestamp,
};

/// How often it is looked for words that no longer count.
const SWEEP: Duration = Duration::from_millis(10);
/// A controller that has restarted lists proxies as they come back to it; those that are not there yet are believed for so long.
const GRACE: Duration = Duration::from_secs(15);
/// A peer that has not been heard for so long (it cannot be reached, most likely) is told things only every [`PROBE`].
const SILENT: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(1);

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It does not parse, or is of another version.
    #[error("malformed")]
    Malformed,
    /// Its tag is of no key that holds.
    #[error("forged")]
    Forged,
    /// Its sender is not listed, or was in an earlier life.
    #[error("stranger")]
    Stranger,
    /// Its sender has said something later before: it is a duplicate, or was overtaken.
    #[error("late")]
    Late,
    /// It is about backends or endpoints that this proxy does not have, or no longer, or not yet.
    #[error("other_endpoints")]
    OtherEndpoints,
}

impl Rejected {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Malformed, Self::Forged, Self::Stranger, Self::Late, Self::OtherEndpoints];
}

/// The hearing side.
#[derive(Debug)]
pub struct Heard {
    own: u64,
    keys: Option<MacKeys>,
    proxies: u32,
    peers: BTreeMap<u64, Remote>,
    backends: HashMap<u64, Sums>,
    swept: Timestamp,
}

/// A peer as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerState {
    /// Who.
    pub peer: Peer,
    /// When it was heard last.
    pub heard_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Remote {
    state: PeerState,
    listed_at: Timestamp,
    /// Since when it is not listed any more.
    unlisted_at: Option<Timestamp>,
    probed_at: Option<Timestamp>,
    sequence: u64,
    told: HashMap<u64, Told>,
}

/// What one peer said of one backend, by position.
#[derive(Debug)]
struct Told {
    counts: Vec<Counts>,
    /// When; `None`: it does not count.
    at: Vec<Option<Timestamp>>,
}

/// What all peers together said of one backend, by position.
#[derive(Debug)]
struct Sums {
    about: About,
    counts: Vec<[u32; CLASSES_MAX]>,
    /// How many peers it is the sum of.
    peers: Vec<u32>,
    /// Where something was said since it was handed over.
    touched: Vec<Range<usize>>,
}

impl Heard {
    /// Of the proxy with this key; it knows nobody yet.
    pub fn new(own: u64, now: Timestamp) -> Self {
        Self { own, keys: None, proxies: 1, peers: BTreeMap::new(), backends: HashMap::new(), swept: now }
    }

    /// Takes over who the others are.
    pub fn set_table(&mut self, table: &PeerTable, now: Timestamp) {
        let renewed = match &mut self.keys {
            Some(keys) => keys.renew(table.mac_key, now),
            None => {
                self.keys = Some(MacKeys::new(table.mac_key, now));
                false
            }
        };
        self.proxies = table.proxies;
        let listed: BTreeMap<u64, &Peer> =
            table.peers.iter().filter(|peer| peer.key != self.own).map(|peer| (peer.key, peer)).collect();
        let mut gone = Vec::new();
        for (key, remote) in &mut self.peers {
            match listed.get(key) {
                Some(peer) if peer.epoch == remote.state.peer.epoch => {
                    remote.state.peer = **peer;
                    remote.unlisted_at = None;
                }
                None if renewed => remote.unlisted_at = Some(now),
                None if remote.unlisted_at.is_some() => {}
                _ => gone.push(*key),
            }
        }
        gone.into_iter().for_each(|key| self.forget(key));
        for (key, peer) in listed {
            self.peers.entry(key).or_insert_with(|| Remote::new(*peer, now));
        }
    }

    /// Takes over which backends there are.
    pub fn follow(&mut self, subjects: &[Subject]) {
        let present: HashSet<u64> = subjects.iter().map(|subject| subject.about.backend).collect();
        let mut stale: Vec<u64> = self.backends.keys().filter(|hash| !present.contains(hash)).copied().collect();
        for Subject { about, backend } in subjects {
            let endpoints = backend.endpoints().len();
            let kept = self.backends.get(&about.backend);
            if kept.is_none_or(|kept| kept.about != *about || kept.counts.len() != endpoints) {
                stale.push(about.backend);
            }
        }
        for hash in stale {
            self.backends.remove(&hash);
            self.peers.values_mut().for_each(|remote| drop(remote.told.remove(&hash)));
        }
        for Subject { about, backend } in subjects {
            let endpoints = backend.endpoints().len();
            self.backends.entry(about.backend).or_insert_with(|| Sums {
                about: *about,
                counts: vec![[0; CLASSES_MAX]; endpoints],
                peers: vec![0; endpoints],
                touched: Vec::new(),
            });
        }
    }

    /// Takes in a datagram.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn receive(&mut self, datagram: &[u8], now: Timestamp) -> Result<(), Rejected> {
        let header = wire::header(datagram).map_err(|_| Rejected::Malformed)?;
        let keys = self.keys.as_ref().ok_or(Rejected::Stranger)?;
        let signed = keys.verified(datagram, now).ok_or(Rejected::Forged)?;
        let remote = self.peers.get_mut(&header.sender).ok_or(Rejected::Stranger)?;
        if remote.state.peer.epoch != header.epoch {
            return Err(Rejected::Stranger);
        }
        if header.sequence <= remote.sequence {
            return Err(Rejected::Late);
        }
        let sections = wire::sections(signed).map_err(|_| Rejected::Malformed)?;
        remote.sequence = header.sequence;
        remote.state.heard_at = Some(now);
        let mut heeded = false;
        for section in &sections {
            let Some(sums) = self.backends.get_mut(&section.about.backend) else { continue };
            if sums.about.generation == section.about.generation && section.to as usize <= sums.counts.len() {
                let told = remote.told.entry(section.about.backend).or_insert_with(|| Told::new(sums.counts.len()));
                sums.take_in(told, section, now);
                heeded = true;
            }
        }
        if heeded { Ok(()) } else { Err(Rejected::OtherEndpoints) }
    }

    /// Hands the rule what was heard since the last time.
    pub fn hand_over(&mut self, subjects: &[Subject], now: Timestamp) {
        if now.since(self.swept) >= SWEEP {
            self.sweep(now);
        }
        let expected = self.expected();
        for Subject { about, backend } in subjects {
            let Some(sums) = self.backends.get_mut(&about.backend) else { continue };
            for position in std::mem::take(&mut sums.touched).into_iter().flatten() {
                let (counts, peers) = (&sums.counts[position], sums.peers[position]);
                if peers > 0 && peers * 2 >= expected {
                    backend.endpoints()[position].load.heard_from_peers(now, &scaled(counts, expected, peers));
                }
            }
        }
    }

    /// With what to sign; `None` before there is anybody to talk to.
    pub fn keys(&self) -> Option<&MacKeys> {
        self.keys.as_ref()
    }

    /// How many other proxies there are, those that take part in no exchange included.
    pub fn expected(&self) -> u32 {
        self.proxies.saturating_sub(1).max(self.peers.len() as u32)
    }

    /// The peers.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = PeerState> {
        self.peers.values().map(|remote| remote.state)
    }

    /// Where to send the datagrams of now.
    pub fn destinations(&mut self, now: Timestamp) -> Vec<SocketAddr> {
        let wanted = |remote: &mut Remote| {
            let silent = now.since(remote.state.heard_at.unwrap_or(remote.listed_at)) >= SILENT;
            if silent && remote.probed_at.is_some_and(|at| now.since(at) < PROBE) {
                return None;
            }
            remote.probed_at = silent.then_some(now);
            Some(remote.state.peer.address)
        };
        self.peers.values_mut().filter_map(wanted).collect()
    }

    /// Lets go of what no longer counts.
    fn sweep(&mut self, now: Timestamp) {
        self.swept = now;
        for remote in self.peers.values_mut() {
            for (hash, told) in &mut remote.told {
                let Some(sums) = self.backends.get_mut(hash) else { continue };
                for position in 0..told.at.len() {
                    if told.at[position].is_some_and(|at| now.since(at) >= FRESH) {
                        sums.retract(told, position);
                    }
                }
            }
        }
        let over = |remote: &Remote| remote.unlisted_at.is_some_and(|at| now.since(at) >= GRACE);
        let gone: Vec<u64> = self.peers.iter().filter(|(_, remote)| over(remote)).map(|(key, _)| *key).collect();
        gone.into_iter().for_each(|key| self.forget(key));
    }

    fn forget(&mut self, key: u64) {
        for (hash, mut told) in self.peers.remove(&key).into_iter().flat_map(|remote| remote.told) {
            let Some(sums) = self.backends.get_mut(&hash) else { continue };
            (0..told.at.len()).for_each(|position| sums.retract(&mut told, position));
        }
    }
}

impl Remote {
    fn new(peer: Peer, now: Timestamp) -> Self {
        Self {
            state: PeerState { peer, heard_at: None },
            listed_at: now,
            unlisted_at: None,
            probed_at: None,
            sequence: 0,
            told: HashMap::new(),
        }
    }
}

impl Told {
    fn new(endpoints: usize) -> Self {
        Self { counts: vec![[0; CLASSES_MAX]; endpoints], at: vec![None; endpoints] }
    }
}

impl Sums {
    /// Replaces what the peer said of the section's range, which must be within the endpoints.
    fn take_in(&mut self, told: &mut Told, section: &Section, now: Timestamp) {
        let (from, to) = (section.from as usize, section.to as usize);
        let same_classes = section.about.numbering == self.about.numbering;
        let mut entries = section.entries.iter().peekable();
        for position in from..to {
            let mut counts = [0; CLASSES_MAX];
            while let Some(entry) = entries.next_if(|entry| entry.position as usize == position) {
                let class = if same_classes { usize::from(entry.class) } else { 0 };
                counts[class] = entry.count.saturating_add(counts[class]);
            }
            if told.at[position].is_none() {
                self.peers[position] += 1;
            }
            if told.counts[position] != counts {
                let sums = self.counts[position].iter_mut().zip(counts).zip(told.counts[position]);
                sums.for_each(|((sum, new), old)| *sum = *sum + u32::from(new) - u32::from(old));
                told.counts[position] = counts;
            }
            told.at[position] = Some(now);
        }
        match self.touched.last_mut() {
            Some(last) if (last.start..=last.end).contains(&from) => last.end = last.end.max(to),
            _ => self.touched.push(from..to),
        }
    }

    /// Takes back what the peer said of one endpoint, if it counts.
    fn retract(&mut self, told: &mut Told, position: usize) {
        if told.at[position].take().is_none() {
            return;
        }
        self.peers[position] -= 1;
        let old = std::mem::take(&mut told.counts[position]);
        self.counts[position].iter_mut().zip(old).for_each(|(sum, old)| *sum -= u32::from(old));
    }
}

/// The sum over so many `peers`, as if it were one over all that are expected.
fn scaled(counts: &[u32; CLASSES_MAX], expected: u32, peers: u32) -> Counts {
    let one = |sum: u32| {
        let scaled = if peers < expected {
            (u64::from(sum) * u64::from(expected) + u64::from(peers) / 2) / u64::from(peers)
        } else {
            u64::from(sum)
        };
        u16::try_from(scaled).unwrap_or(u16::MAX)
    };
    counts.map(one)
}

#[cfg(test)]
mod tests;
