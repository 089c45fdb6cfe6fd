//! The exchange of in-flight counts between proxies in a simulated run: what production proxies send each other in datagrams, without the
//! datagrams.

use trimtab_proxy::load::CLASSES_MAX;

use super::proxy::Proxy;

/// Every proxy hears what the others had in flight at each endpoint when they told.
pub(super) fn tell(now_ns: u64, proxies: &[Proxy], counts: &[Vec<[u16; CLASSES_MAX]>]) {
    let endpoints = counts.first().map_or(0, Vec::len);
    for endpoint in 0..endpoints {
        let mut total = [0u16; CLASSES_MAX];
        for own in counts {
            total.iter_mut().zip(&own[endpoint]).for_each(|(total, own)| *total = total.wrapping_add(*own));
        }
        for (proxy, own) in proxies.iter().zip(counts) {
            let peers = std::array::from_fn(|class| total[class].wrapping_sub(own[endpoint][class]));
            proxy.heard(now_ns, endpoint, &peers);
        }
    }
}
