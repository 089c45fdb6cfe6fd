//! Many runs on all cores, with results that do not depend on how many there are.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// Computes `of(0)`, `of(1)`, … `of(count - 1)` on `jobs` threads; results in that order. What is slow should come first.
pub fn map<R: Send>(jobs: usize, count: usize, of: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(count));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let result = of(index);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.clamp(1, count.max(1)) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_order_whatever_the_number_of_jobs() {
        let squares: Vec<usize> = (0..100).map(|x| x * x).collect();
        for jobs in [0, 1, 3, 200] {
            assert_eq!(super::map(jobs, 100, |x| x * x), squares);
        }
        assert!(super::map(4, 0, |x| x).is_empty());
    }
}
