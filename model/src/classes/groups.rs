//! Groups of endpoints that find the same classes hard: node generations, warm and cold caches. What one endpoint of a group was seen to do tells
//! about the others, so that few answers of a class at each are enough. Found from the answers alone, by weighted k-means (Lloyd 1982)
//! on each endpoint's profile: what is left of the logarithm of a class's cost there after class and endpoint are accounted for.

/// At most so many groups.
const GROUPS_MAX: usize = 4;
/// The price of a group, as a multiple of Schwarz's: the best of many splits is found, so that one in twelve would be of noise alone.
const CAUTION: f64 = 1.25;
/// Rounds of k-means; it settles sooner.
const ROUNDS: usize = 8;
/// Variance of the logarithm of the cost of one request within its class: a coefficient of variation of about 0.7.
const VARIANCE: f64 = 0.4;
/// Answers beyond so many in a cell say no more about its group: what differs then is the endpoint itself.
const ANSWERS_MAX: f64 = 50.0;
/// The mean of a group counts as if it rested on so many answers fewer.
const SHRINKAGE_ANSWERS: f64 = 8.0;

/// Which group each endpoint is in, and the profile of each group.
pub(super) struct Groups {
    group: Vec<usize>,
    profiles: Vec<Vec<f64>>,
}

impl Groups {
    /// From each endpoint's answers and profile, both endpoint-major rows of `width` classes. As many groups as pay for themselves (Schwarz 1978).
    pub fn find(answers: &[f64], profile: &[f64], width: usize) -> Self {
        let weights: Vec<f64> = answers.iter().map(|answers| answers.min(ANSWERS_MAX)).collect();
        let endpoints = weights.len() / width.max(1);
        let seen: f64 = weights.iter().filter(|weight| **weight > 0.0).count() as f64;
        let mut best: Option<(f64, Self)> = None;
        for count in 1..=GROUPS_MAX.min(endpoints.max(1)) {
            let (groups, distance) = Self::means(&weights, profile, width, count);
            let cost = distance / VARIANCE + CAUTION * (count * width) as f64 * seen.max(1.0).ln();
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, groups));
            }
        }
        best.map_or_else(|| Self { group: Vec::new(), profiles: Vec::new() }, |(_, groups)| groups)
    }

    /// What is usual for a class in the group of an endpoint; 0 where nothing is known.
    pub fn usual(&self, endpoint: usize, class: usize) -> f64 {
        self.group.get(endpoint).map_or(0.0, |group| self.profiles[*group][class])
    }

    /// So many means, and the weighted sum of squares that is left.
    fn means(weights: &[f64], profile: &[f64], width: usize, count: usize) -> (Self, f64) {
        let rows = || weights.chunks(width).zip(profile.chunks(width));
        let endpoints = weights.len() / width;
        let mut groups = Self { group: vec![0; endpoints], profiles: vec![vec![0.0; width]] };
        groups.settle(weights, profile, width);
        while groups.profiles.len() < count {
            // Another group starts at the endpoint that its own describes worst.
            let misfit = |(endpoint, (weights, profile)): (usize, (&[f64], &[f64]))| {
                (distance(weights, profile, &groups.profiles[groups.group[endpoint]]), endpoint)
            };
            let worst = rows().enumerate().map(misfit).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, worst)| worst);
            let start = worst * width;
            groups.profiles.push(shrunk(&weights[start..start + width], &profile[start..start + width]));
            for _ in 0..ROUNDS {
                let nearest = |(weights, profile): (&[f64], &[f64])| {
                    let distances = groups.profiles.iter().map(|mean| distance(weights, profile, mean));
                    distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(nearest, _)| nearest)
                };
                let next: Vec<usize> = rows().map(nearest).collect();
                if next == groups.group {
                    break;
                }
                groups.group = next;
                groups.settle(weights, profile, width);
            }
        }
        let left = rows()
            .zip(&groups.group)
            .map(|((weights, profile), group)| distance(weights, profile, &groups.profiles[*group]))
            .sum();
        (groups, left)
    }

    /// Puts each profile at the mean of its group.
    fn settle(&mut self, weights: &[f64], profile: &[f64], width: usize) {
        for (number, mean) in self.profiles.iter_mut().enumerate() {
            let mut sums = vec![(0.0, SHRINKAGE_ANSWERS); width];
            for (endpoint, _) in self.group.iter().enumerate().filter(|(_, group)| **group == number) {
                let start = endpoint * width;
                for ((sum, weight), place) in sums.iter_mut().zip(start..start + width) {
                    *sum += weights[place] * profile[place];
                    *weight += weights[place];
                }
            }
            *mean = sums.into_iter().map(|(sum, weight)| sum / weight).collect();
        }
    }
}

fn shrunk(weights: &[f64], profile: &[f64]) -> Vec<f64> {
    weights.iter().zip(profile).map(|(weight, rest)| weight * rest / (weight + SHRINKAGE_ANSWERS)).collect()
}

/// Weighted sum of squares.
fn distance(weights: &[f64], profile: &[f64], mean: &[f64]) -> f64 {
    weights.iter().zip(profile).zip(mean).map(|((weight, rest), mean)| weight * (rest - mean).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use rand_distr::{Distribution, Normal};

    use super::*;

    #[test]
    fn endpoints_that_find_the_same_classes_hard_tell_about_each_other() {
        // Three groups of four endpoints and four classes; the last endpoint of each was never seen with class 0.
        let usual = [[0.8, -0.4, -0.4, 0.0], [-0.4, 0.8, 0.0, -0.4], [-0.4, -0.4, 0.4, 0.4]];
        let noise = |endpoint: usize, class: usize| 0.15 * (((endpoint * 7 + class * 3) % 5) as f64 / 2.0 - 1.0);
        let profile: Vec<f64> =
            (0..12).flat_map(|i| (0..4).map(move |class| usual[i / 4][class] + noise(i, class))).collect();
        let answers: Vec<f64> =
            (0..12).flat_map(|i| (0..4).map(move |class| if i % 4 == 3 && class == 0 { 0.0 } else { 20.0 })).collect();
        let groups = Groups::find(&answers, &profile, 4);
        assert_eq!(groups.profiles.len(), 3);
        for (group, usual) in usual.iter().enumerate() {
            let found = groups.usual(group * 4 + 3, 0);
            assert!((found - usual[0]).abs() < 0.25, "{found} for {usual:?}");
        }
    }

    #[test]
    fn noise_alone_makes_no_groups() {
        // Means of ten answers of the variance that is assumed, 25 endpoints of eight classes.
        let normal = Normal::new(0.0, (VARIANCE / 10.0).sqrt()).unwrap();
        let split = |seed: &u64| {
            let profile: Vec<f64> = normal.sample_iter(StdRng::seed_from_u64(*seed)).take(200).collect();
            Groups::find(&[10.0; 200], &profile, 8).profiles.len() > 1
        };
        let splits = (0..200).filter(split).count();
        assert!(splits <= 4, "{splits} of 200");
        assert_eq!(Groups::find(&[], &[], 8).usual(3, 0), 0.0);
    }
}
