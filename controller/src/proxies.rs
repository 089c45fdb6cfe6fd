//! Who is connected: proxies by id, each with at most one ADS and one telemetry stream that count. A proxy that reconnects before
//! its old stream has been noticed dead takes over; what the old stream still says is ignored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Now;
use crate::peers::PeerNode;
use crate::view::ProxyView;
use crate::xds::AdsEvent;

#[derive(Debug, Default)]
struct Proxy {
    ads: Option<Ads>,
    telemetry: Option<u64>,
    last_report: Option<Instant>,
}

#[derive(Debug, Default)]
struct Ads {
    stream: u64,
    peer: Option<PeerNode>,
    acks: u64,
    nacks: u64,
    last_nack: Option<String>,
    in_sync: Option<u64>,
}

/// Pushes of which it is remembered when they went out; a proxy that hangs must not make more of them.
const PENDING_MAX: usize = 1024;

/// The registry.
#[derive(Debug, Default)]
pub struct Proxies {
    by_id: BTreeMap<Arc<str>, Proxy>,
    /// Snapshots that not all proxies have yet, and when they were published; the oldest first.
    pending: VecDeque<(u64, Instant)>,
}

/// Responses answered since the previous event, for the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Acknowledged.
    pub acks: u64,
    /// Refused.
    pub nacks: u64,
    /// How long ago those snapshots were published that all connected proxies have as of now.
    pub settled: Vec<Duration>,
}

impl Proxies {
    /// A snapshot of this number was published.
    pub fn published(&mut self, number: u64, now: Now) {
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back((number, now.instant));
    }

    /// Takes in what happened on an ADS stream.
    pub fn ads(&mut self, event: AdsEvent, now: Now) -> Answers {
        let mut answers = self.take(event);
        let all = self.by_id.values().filter_map(|proxy| proxy.ads.as_ref());
        // Where nobody is connected there is nobody to have anything.
        let Some(least) = all.map(|ads| ads.in_sync.unwrap_or(0)).min() else {
            self.pending.clear();
            return answers;
        };
        while let Some((_, at)) = self.pending.pop_front_if(|(number, _)| *number <= least) {
            answers.settled.push(now.instant.saturating_duration_since(at));
        }
        answers
    }

    fn take(&mut self, event: AdsEvent) -> Answers {
        match event {
            AdsEvent::Connected { stream, proxy, peer } => {
                tracing::info!(proxy, stream, "proxy connected");
                self.by_id.entry(proxy.into()).or_default().ads = Some(Ads { stream, peer, ..Default::default() });
                Answers::default()
            }
            AdsEvent::Answered { stream, acks, nacks, last_nack, in_sync } => {
                let Some(ads) = self.of_stream(stream) else {
                    return Answers::default();
                };
                let (acks_before, nacks_before) = (ads.acks, ads.nacks);
                // An answer to something older does not undo what has been confirmed.
                let in_sync = in_sync.or(ads.in_sync);
                *ads = Ads { stream, peer: ads.peer, acks, nacks, last_nack, in_sync };
                Answers {
                    acks: acks.saturating_sub(acks_before),
                    nacks: nacks.saturating_sub(nacks_before),
                    settled: Vec::new(),
                }
            }
            AdsEvent::Closed { stream } => {
                for (id, proxy) in &mut self.by_id {
                    if proxy.ads.take_if(|ads| ads.stream == stream).is_some() {
                        tracing::info!(proxy = &**id, stream, "proxy disconnected");
                    }
                }
                self.forget_gone();
                Answers::default()
            }
        }
    }

    fn of_stream(&mut self, stream: u64) -> Option<&mut Ads> {
        self.by_id.values_mut().filter_map(|proxy| proxy.ads.as_mut()).find(|ads| ads.stream == stream)
    }

    /// A telemetry stream began.
    pub fn telemetry_connected(&mut self, proxy: &Arc<str>, stream: u64) {
        self.by_id.entry(proxy.clone()).or_default().telemetry = Some(stream);
    }

    /// A telemetry stream ended.
    pub fn telemetry_closed(&mut self, proxy: &Arc<str>, stream: u64) {
        if let Some(proxy) = self.by_id.get_mut(proxy) {
            proxy.telemetry.take_if(|current| *current == stream);
        }
        self.forget_gone();
    }

    /// A load report came.
    pub fn reported(&mut self, proxy: &Arc<str>, now: Now) {
        self.by_id.entry(proxy.clone()).or_default().last_report = Some(now.instant);
    }

    fn forget_gone(&mut self) {
        self.by_id.retain(|_, proxy| proxy.ads.is_some() || proxy.telemetry.is_some());
    }

    /// Those that exchange with others what they have in flight, by id.
    pub fn peers(&self) -> impl Iterator<Item = (&str, PeerNode)> {
        let of = |proxy: &Proxy| proxy.ads.as_ref()?.peer;
        self.by_id.iter().filter_map(move |(id, proxy)| Some((&**id, of(proxy)?)))
    }

    /// How many have an ADS stream: those that are told who the others are.
    pub fn connected(&self) -> usize {
        self.by_id.values().filter(|proxy| proxy.ads.is_some()).count()
    }

    /// How many are known, on either stream.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// For people. `newest` is the number of the snapshot that all should have acknowledged by now.
    pub fn view(&self, newest: u64, now: Now) -> Vec<ProxyView> {
        self.by_id
            .iter()
            .map(|(id, proxy)| {
                let ads = proxy.ads.as_ref();
                ProxyView {
                    id: id.to_string(),
                    report_age_s: proxy.last_report.map(|at| now.since_s(at)),
                    acks: ads.map_or(0, |ads| ads.acks),
                    nacks: ads.map_or(0, |ads| ads.nacks),
                    last_nack: ads.and_then(|ads| ads.last_nack.clone()),
                    in_sync: ads.is_some_and(|ads| ads.in_sync == Some(newest)),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(stream: u64) -> AdsEvent {
        AdsEvent::Connected { stream, proxy: "p".into(), peer: None }
    }

    fn answered(stream: u64, acks: u64, in_sync: Option<u64>) -> AdsEvent {
        AdsEvent::Answered { stream, acks, nacks: 0, last_nack: None, in_sync }
    }

    #[test]
    fn an_old_stream_that_closes_late_does_not_remove_the_proxy() {
        let (mut proxies, now) = (Proxies::default(), crate::clock::now());
        proxies.ads(connected(1), now);
        proxies.ads(connected(2), now);
        proxies.ads(AdsEvent::Closed { stream: 1 }, now);
        assert_eq!(proxies.len(), 1);
        assert_eq!(proxies.ads(answered(1, 9, None), now), Answers::default());
        proxies.ads(AdsEvent::Closed { stream: 2 }, now);
        assert_eq!(proxies.len(), 0);
    }

    #[test]
    fn in_sync_means_the_newest_snapshot() {
        let now = crate::clock::now();
        let mut proxies = Proxies::default();
        proxies.ads(connected(1), now);
        assert!(!proxies.view(7, now)[0].in_sync);
        assert_eq!(proxies.ads(answered(1, 5, Some(7)), now), Answers { acks: 5, ..Default::default() });
        assert!(proxies.view(7, now)[0].in_sync);
        assert!(!proxies.view(8, now)[0].in_sync);
    }

    #[test]
    fn a_push_is_settled_when_the_last_proxy_has_it_or_a_newer_one() {
        let (mut proxies, start) = (Proxies::default(), crate::clock::now());
        let at = |ms| Now { instant: start.instant + Duration::from_millis(ms), ..start };
        let other = AdsEvent::Connected { stream: 2, proxy: "q".into(), peer: None };
        proxies.published(1, at(0));
        assert!(
            proxies.ads(connected(1), at(10)).settled.is_empty(),
            "nobody was there, now it is one that has nothing"
        );
        proxies.ads(other, at(10));
        proxies.published(2, at(20));
        proxies.published(3, at(30));
        assert!(proxies.ads(answered(1, 1, Some(3)), at(50)).settled.is_empty());
        let settled = proxies.ads(answered(2, 1, Some(2)), at(60)).settled;
        assert_eq!(settled, [Duration::from_millis(60), Duration::from_millis(40)]);
        // The one that is behind leaves.
        assert_eq!(proxies.ads(AdsEvent::Closed { stream: 2 }, at(90)).settled, [Duration::from_millis(60)]);
    }
}
