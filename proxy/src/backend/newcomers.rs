//! Which endpoints of a backend are new, and how a request is kept from one that has had its share: [`crate::arrival`] says what that is and why.

use rand::RngCore;

use super::{Backend, Endpoint};
use crate::{
    arrival::{self, Window},
    config::EndpointKey,
    load::EndpointLoad,
    pick::{Pick, PickRequest, costs::Costs},
    time::Timestamp,
};

/// The new endpoints of a table, looked for when it is made (twice a second at least where a controller decides), and not with each request.
#[derive(Debug, Clone, Default)]
pub(super) struct Newcomers {
    /// Their positions.
    positions: Box<[u32]>,
    /// When the last of them is new no longer.
    until: Timestamp,
    /// Slots of a mean endpoint, of those whose slots are known; 0: of none.
    slots_mean: f32,
}

impl Newcomers {
    /// Those of a table, `candidates` of whose endpoints may be picked. None where more are new than can be held to a share.
    pub(super) fn of(endpoints: &[Endpoint], candidates: usize, costs: Option<&Costs>, now: Timestamp) -> Self {
        let until = |endpoint: &Endpoint| endpoint.load.arrival().held_until().filter(|until| now < *until);
        let new = endpoints.iter().enumerate().filter_map(|(index, endpoint)| Some((index as u32, until(endpoint)?)));
        let (positions, untils): (Vec<u32>, Vec<Timestamp>) = new.unzip();
        if !arrival::are_few(positions.len(), candidates) {
            return Self::default();
        }
        let slots_mean = costs.filter(|_| !positions.is_empty()).map_or(0.0, |costs| {
            let known = (0..endpoints.len()).map(|index| costs.slots(index)).filter(|slots| *slots > 0.0);
            let (sum, count) = known.fold((0.0, 0.0_f32), |(sum, count), slots| (sum + slots, count + 1.0));
            sum / count.max(1.0)
        });
        Self { positions: positions.into(), until: untils.into_iter().max().unwrap_or_default(), slots_mean }
    }

    /// Whether there are any.
    #[inline]
    pub(super) fn are_some(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// The part of the requests that is meant for the endpoint at `index` among so many. That it is cold, and worth less than it says, is for the rule to find
    /// out, and no reason to hold it shorter.
    fn share(&self, index: usize, candidates: usize, costs: Option<&Costs>) -> f64 {
        let relative = match costs {
            Some(costs) if self.slots_mean > 0.0 => (costs.slots(index) / self.slots_mean).max(1.0),
            _ => 1.0,
        };
        f64::from(relative) / candidates.max(1) as f64
    }
}

impl Backend {
    /// The endpoint at `index`, or another one where it is new and has had its share.
    pub(super) fn within_share<R: RngCore + ?Sized>(
        &self,
        index: usize,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> usize {
        let window = Window::of(now);
        let all = self.state.picked.count(window);
        let new = |index: usize| -> Option<&EndpointLoad> {
            Some(&*self.endpoints[index].load).filter(|load| load.arrival().is_held(now))
        };
        let full = |index: usize| {
            let share = self.newcomers.share(index, self.pool.candidates.len(), self.costs.as_deref());
            new(index).is_some_and(|load| !load.arrival().may(load.key(), window, all, share))
        };
        let mut chosen = index;
        if full(index) {
            let others = self.newcomers.positions.iter().map(|index| *index as usize).filter(|index| full(*index));
            let others = others.map(|index| self.endpoints[index].config.key);
            let exclude: Vec<EndpointKey> = request.exclude.iter().copied().chain(others).collect();
            let request = PickRequest { exclude: &exclude, ..*request };
            // Where there is nobody else it is better than nobody.
            if let Some(position) = self.picker.pick(&self.pool, &request, now, rng) {
                chosen = self.pool.candidates[position].index as usize;
            }
        }
        if let Some(load) = new(chosen) {
            load.arrival().gets(window);
        }
        chosen
    }
}
