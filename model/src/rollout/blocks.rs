//! Whose turn it is. Time is cut into blocks of two halves; in one of them, by the toss of a coin, a *visitor* decides for the first ticks, and the
//! *host* for all others. The same ticks of both halves are compared, so that each difference is one of a fair experiment: if the visitor changed
//! nothing, either half could as well have been its own.
//!
//! Switching all traffic in time, and not a part of the requests, is what keeps the two apart: half the requests routed badly would slow down the
//! other half too (Bojinov, Simchi-Levi & Zhao, "Design and analysis of switchback experiments", Management Science 69, 2023).

use rand::Rng;

/// A way to take turns, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Length of a half.
    pub half: u32,
    /// How long the visitor decides, from the beginning of its half.
    pub visit: u32,
    /// Whether the host takes over again in the middle of the visit's last tick.
    pub brief: bool,
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
    pub const PEEK: Self = Self { half: 120, visit: 1, brief: true, wash_out: 0, tail: 3 };
    /// The ladder at 5 % of the time: the same share in longer and longer visits, so that what harms at once does so for one tick.
    pub const FIVE: [Self; 3] = [
        Self { half: 10, visit: 1, brief: false, wash_out: 0, tail: 3 },
        Self { half: 20, visit: 2, brief: false, wash_out: 0, tail: 3 },
        Self { half: 40, visit: 4, brief: false, wash_out: 1, tail: 3 },
    ];
    /// A quarter of the time.
    pub const TWENTY_FIVE: Self = Self { half: 8, visit: 4, brief: false, wash_out: 1, tail: 1 };
    /// Half of the time.
    pub const HALF: Self = Self { half: 8, visit: 8, brief: false, wash_out: 2, tail: 0 };
    /// Who is in force is compared with the fallback in 2.5 % of the time.
    pub const HOLD_BACK: Self = Self { half: 40, visit: 2, brief: false, wash_out: 0, tail: 3 };
    /// The same when something has happened that must be told apart from what is in force, at once.
    pub const INQUIRY: Self = Self { half: 4, visit: 4, brief: false, wash_out: 1, tail: 0 };

    /// Which ticks of a half are compared.
    fn compared(&self) -> std::ops::Range<u32> {
        self.wash_out..(self.visit + self.tail).min(self.half)
    }

    /// How many ticks are compared for each tick of a visit: what happens in it is thinned out by so much.
    pub fn dilution(&self) -> f64 {
        f64::from(self.compared().len() as u32) / (f64::from(self.visit) - if self.brief { 0.5 } else { 0.0 })
    }

    /// Share of the time that is the visitor's.
    pub fn share(&self) -> f64 {
        f64::from(self.visit) / f64::from(2 * self.half)
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
        let Turns { half, visit, .. } = self.turns;
        let (in_second, at) = (self.tick >= half, self.tick % half);
        let own_half = in_second == self.second;
        Turn {
            visitor: own_half && at < visit,
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
        let every = [Turns::PEEK, Turns::TWENTY_FIVE, Turns::HALF, Turns::HOLD_BACK, Turns::INQUIRY];
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
