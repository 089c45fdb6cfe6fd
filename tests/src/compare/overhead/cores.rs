//! Which cores do what, so that a proxy has its own.

use anyhow::ensure;

/// Cores as `taskset` wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Workers of the proxy, one a core.
    pub workers: usize,
    /// The proxy's.
    pub proxy: String,
    /// Those of whoever sends the requests.
    pub load: String,
    /// Threads of it.
    pub threads: usize,
    /// Those of the endpoint.
    pub endpoint: String,
    /// Workers of it.
    pub endpoint_workers: usize,
}

impl Cores {
    /// One core for the proxy, one for all others: enough to tell what a request costs.
    ///
    /// # Errors
    /// If there is only one.
    pub fn two() -> anyhow::Result<Self> {
        ensure!(available() >= 2, "this measurement needs two cores: one for the proxy, one for load and backend");
        let other = "1".to_owned();
        Ok(Self {
            workers: 1,
            proxy: "0".to_owned(),
            load: other.clone(),
            threads: 1,
            endpoint: other,
            endpoint_workers: 1,
        })
    }

    /// As many for the proxy as it has workers, and of those beyond `reserved` one half each for load and endpoint, so that neither is what limits.
    ///
    /// # Errors
    /// If there are too few cores: load and endpoint need as many each as are reserved, and one more.
    pub fn all(workers: usize, reserved: usize) -> anyhow::Result<Self> {
        Self::split(workers, reserved, available())
    }

    fn split(workers: usize, reserved: usize, available: usize) -> anyhow::Result<Self> {
        let first = reserved.max(workers);
        let needed = first + 2 * (first + 1);
        ensure!(
            available >= needed,
            "a proxy that has {first} of the cores to itself needs {needed} in all, so that load and endpoint do not limit it; there are {available}"
        );
        let middle = first + (available - first) / 2;
        Ok(Self {
            workers,
            proxy: range(0, workers),
            load: range(first, middle),
            threads: middle - first,
            endpoint: range(middle, available),
            endpoint_workers: available - middle,
        })
    }
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Cores from `first` up to, and without, `end`.
fn range(first: usize, end: usize) -> String {
    format!("{first}-{}", end.saturating_sub(1).max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_shares_a_core_with_the_proxy() {
        let one = Cores::split(1, 2, 16).unwrap();
        assert_eq!((one.proxy.as_str(), one.load.as_str(), one.endpoint.as_str()), ("0-0", "2-8", "9-15"));
        let two = Cores::split(2, 2, 16).unwrap();
        assert_eq!((two.proxy.as_str(), two.load.as_str(), two.threads), ("0-1", "2-8", 7));
        assert_eq!((two.endpoint.as_str(), two.endpoint_workers), ("9-15", 7));
        let few = "a proxy that has 2 of the cores to itself needs 8 in all, so that load and endpoint do not limit it; there are 4";
        for workers in [1, 2] {
            assert_eq!(Cores::split(workers, 2, 4).unwrap_err().to_string(), few, "said by the largest of them");
        }
    }
}
