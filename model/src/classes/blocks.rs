//! What an endpoint is like by nature: the median of how slow it was in each of the last blocks of a few seconds. A mean would
//! take in every spell; the median moves only when more than half of the blocks say so. An endpoint of which nothing is heard any more is forgotten block
//! by block: who was thought slow by mistake gets next to nothing, and nothing else would ever correct it.

use std::collections::VecDeque;

/// Blocks that are remembered.
const BLOCKS: usize = 15;
/// A block with fewer answers goes on: its mean would be noise.
const ANSWERS_MIN: f64 = 6.0;
/// So many blocks in a row may pass without an answer before the oldest that is remembered is forgotten with each further one.
const SILENT: u32 = 5;
/// From so many blocks on their median counts.
const TELLING: usize = 2;

/// How slow an endpoint was in the last blocks, in logarithms.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks {
    recent: VecDeque<f64>,
    /// Blocks in a row without an answer.
    silent: u32,
}

impl Blocks {
    /// A block with so many answers is over; `false` if they are too few.
    pub fn push(&mut self, answers: f64, slowness: f64) -> bool {
        if answers < ANSWERS_MIN {
            self.silent = if answers < 1.0 { self.silent.saturating_add(1) } else { 0 };
            if self.silent > SILENT {
                self.recent.pop_front();
            }
            return false;
        }
        self.silent = 0;
        if self.recent.len() == BLOCKS {
            self.recent.pop_front();
        }
        self.recent.push_back(slowness);
        true
    }

    /// The median; `None` before there are enough. While they are few one more that says "average" is counted in: a pod that starts cold is slow
    /// for a block or two.
    pub fn nature(&self) -> Option<f64> {
        if self.recent.len() < TELLING {
            return None;
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        if sorted.len() < BLOCKS {
            sorted.push(0.0);
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        Some(if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nature(blocks: &[f64]) -> Option<f64> {
        let mut told = Blocks::default();
        for slowness in blocks {
            assert!(told.push(50.0, *slowness));
        }
        told.nature()
    }

    #[test]
    fn a_spell_passes_without_being_learned_and_a_change_that_stays_is() {
        let mut blocks = [0.5; BLOCKS].to_vec();
        blocks.extend([1.9; 6]);
        assert_eq!(nature(&blocks), Some(0.5));
        blocks.extend([1.9; 2]);
        assert_eq!(nature(&blocks), Some(1.9));
    }

    #[test]
    fn a_pod_that_starts_cold_is_thought_average_half_way_and_one_that_stays_slow_is_known_after_three_blocks() {
        assert_eq!(nature(&[1.4]), None);
        assert_eq!(nature(&[1.4, 0.1]), Some(0.1));
        assert_eq!(nature(&[1.4, 1.4, 1.4]), Some(1.4));
    }

    #[test]
    fn who_is_not_heard_of_any_more_is_forgotten_and_who_answers_now_and_then_is_not() {
        let mut told = Blocks::default();
        (0..BLOCKS).for_each(|_| assert!(told.push(50.0, 1.4)));
        for _ in 0..20 {
            (0..SILENT).for_each(|_| assert!(!told.push(0.0, 0.0)));
            assert!(!told.push(1.0, 0.0));
        }
        assert_eq!(told.nature(), Some(1.4));
        (0..SILENT as usize + BLOCKS).for_each(|_| assert!(!told.push(0.0, 0.0)));
        assert_eq!(told.nature(), None);
    }

    #[test]
    fn a_block_of_few_answers_goes_on() {
        assert!(!Blocks::default().push(ANSWERS_MIN - 1.0, 3.0));
    }
}
