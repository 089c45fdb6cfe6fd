//! Whose turn it is. Time is cut into blocks of two halves; in one of them, by the toss of a coin, a *visitor* decides for the first ticks, and the
//! *host* for all others. The same ticks of both halves are compared, so that each difference is one of a fair experiment: if the visitor changed
//! nothing, either half could as well have been its own.
//!
//! Switching all traffic in time, and not a part of the requests, is what keeps the two apart: half the requests routed badly would slow down the
//! other half too (Bojinov, Simchi-Levi & Zhao, "Design and analysis of switchback experiments", Management Science 69, 2023).

use rand::Rng;

/// Ticks on end in which the visitor decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// The first of them, from the beginning of the half.
    pub from: u32,
    /// How many.
    pub ticks: u32,
    /// Whether the host takes over again in the middle of the last one.
    pub brief: bool,
}

/// From the beginning of the half.
const fn ticks(ticks: u32) -> Visit {
    Visit { from: 0, ticks, brief: false }
}

const HALF_A_TICK: Visit = Visit { from: 0, ticks: 1, brief: true };

/// A way to take turns, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Length of a half.
    pub half: u32,
    /// When the visitor decides, in its half: one after the other.
    pub visits: &'static [Visit],
    /// Ticks at the beginning of a half that are not compared: what was in flight at the switch belongs to nobody.
    pub wash_out: u32,
    /// Ticks after a visit that are compared with it: answers to what it routed come then.
    pub tail: u32,
}

impl Turns {
    /// Blocks that the ladder of visits at 5 % stays on each rung.
    pub const RUNG_BLOCKS: u64 = 6;
    /// The first looks at a candidate: half a tick, and never two of them within a minute, so that even one that harms every request, and is not
    /// found out, harms less than one in a hundred, queues that it leaves behind included.
    pub const PEEK: Self = Self { half: 120, visits: &[HALF_A_TICK], wash_out: 0, tail: 3 };
    /// The very first look, where the service is steady: after half a tick a whole one and then two on end follow within five seconds, each only if
    /// nothing was seen of the one before. What harms only when it goes on for longer shows itself then, and not minutes later. As many ticks as
    /// three looks of the other kind and a half: if each harmed every request unseen, three in a hundred of the minute's, once.
    pub const FIRST: Self = Self {
        half: 120,
        visits: &[HALF_A_TICK, Visit { from: 3, ticks: 1, brief: false }, Visit { from: 6, ticks: 2, brief: false }],
        wash_out: 0,
        tail: 3,
    };
    /// The ladder at 5 % of the time: the same share in longer and longer visits, so that what harms at once does so for one tick.
    pub const FIVE: [Self; 3] = [
        Self { half: 10, visits: &[ticks(1)], wash_out: 0, tail: 3 },
        Self { half: 20, visits: &[ticks(2)], wash_out: 0, tail: 3 },
        Self { half: 40, visits: &[ticks(4)], wash_out: 1, tail: 3 },
    ];
    /// A quarter of the time.
    pub const TWENTY_FIVE: Self = Self { half: 8, visits: &[ticks(4)], wash_out: 1, tail: 1 };
    /// Half of the time.
    pub const HALF: Self = Self { half: 8, visits: &[ticks(8)], wash_out: 2, tail: 0 };
    /// Who is in force is compared with the fallback in 2.5 % of the time.
    pub const HOLD_BACK: Self = Self { half: 40, visits: &[ticks(2)], wash_out: 0, tail: 3 };
    /// The same when something has happened that must be told apart from what is in force, at once.
    pub const INQUIRY: Self = Self { half: 4, visits: &[ticks(4)], wash_out: 1, tail: 0 };

    /// Which ticks of a half are compared.
    fn compared(&self) -> std::ops::Range<u32> {
        let end = self.visits.iter().map(|visit| visit.from + visit.ticks).max().unwrap_or(0);
        self.wash_out..(end + self.tail).min(self.half)
    }

    /// Whether these are first looks.
    pub fn are_looks(&self) -> bool {
        self.visits.iter().any(|visit| visit.brief)
    }

    fn visited(&self) -> f64 {
        self.visits.iter().map(|visit| f64::from(visit.ticks) - if visit.brief { 0.5 } else { 0.0 }).sum()
    }

    /// How many ticks are compared for each tick of a visit: what happens in it is thinned out by so much.
    pub fn dilution(&self) -> f64 {
        f64::from(self.compared().len() as u32) / self.visited()
    }

    /// Share of the time that is the visitor's.
    pub fn share(&self) -> f64 {
        f64::from(self.visits.iter().map(|visit| visit.ticks).sum::<u32>()) / f64::from(2 * self.half)
    }
}

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    turns: Turns,
    /// Whether the visitor has the second half.
    second: bool,
    tick: u32,
}

/// What a tick of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Whether the visitor decides.
    pub visitor: bool,
    /// Whether only for the first half of the tick.
    pub brief: bool,
    /// Whether it has decided before in this half and begins anew.
    pub again: bool,
    /// Whose half the outcome of this tick is compared for; `None`: for none.
    pub compared: Option<Side>,
}

/// A side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The half with the visit.
    Visitor,
    /// The other one.
    Host,
}

impl Block {
    /// A fresh one.
    pub fn new(turns: Turns, rng: &mut impl Rng) -> Self {
        Self { turns, second: rng.random(), tick: 0 }
    }

    /// The present tick.
    pub fn turn(&self) -> Turn {
        let Turns { half, visits, .. } = self.turns;
        let (in_second, at) = (self.tick >= half, self.tick % half);
        let own_half = in_second == self.second;
        let visit = visits.iter().find(|visit| own_half && (visit.from..visit.from + visit.ticks).contains(&at));
        Turn {
            visitor: visit.is_some(),
            brief: visit.is_some_and(|visit| visit.brief && at + 1 == visit.from + visit.ticks),
            again: visit.is_some_and(|visit| visit.from > 0 && visit.from == at),
            compared: self.turns.compared().contains(&at).then_some(if own_half { Side::Visitor } else { Side::Host }),
        }
    }

    /// Whether a half begins with the present tick.
    pub fn begins_half(&self) -> bool {
        self.tick.is_multiple_of(self.turns.half)
    }

    /// Goes on by a tick; whether the block is over.
    pub fn pass(&mut self) -> bool {
        self.tick += 1;
        self.tick >= 2 * self.turns.half
    }

    /// How it takes turns.
    pub fn turns(&self) -> Turns {
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_visitor_gets_its_share_and_both_sides_the_same_ticks() {
        let mut rng = StdRng::seed_from_u64(1);
        let every = [Turns::PEEK, Turns::FIRST, Turns::TWENTY_FIVE, Turns::HALF, Turns::HOLD_BACK, Turns::INQUIRY];
        for turns in Turns::FIVE.into_iter().chain(every) {
            let (mut visits, mut sides, mut seconds) = (0, [0, 0], 0);
            for _ in 0..100 {
                let mut block = Block::new(turns, &mut rng);
                seconds += u32::from(block.second);
                loop {
                    let turn = block.turn();
                    visits += u32::from(turn.visitor);
                    match turn.compared {
                        Some(Side::Visitor) => sides[0] += 1,
                        Some(Side::Host) => sides[1] += 1,
                        None => {}
                    }
                    if block.pass() {
                        break;
                    }
                }
            }
            assert_eq!(f64::from(visits), turns.share() * f64::from(200 * turns.half));
            assert_eq!(sides[0], sides[1], "{turns:?}");
            assert!(sides[0] > 0 && (20..80).contains(&seconds), "{turns:?}: {seconds}");
        }
    }
}
