//! Request smuggling: requests that two servers may read differently, sent through a proxy to an endpoint that notes what it gets. What counts
//! is what comes out: a head that can still be read in two ways, or a request that was part of another one's body.

pub mod corpus;
pub mod endpoint;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::corpus::Case;
use self::endpoint::Endpoint;

/// What a proxy made of a case, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing came out, and the client was told so, or cut off.
    Refused,
    /// Something came out that can be read in one way only.
    MadeClear,
    /// A head came out that can be read in more than one way.
    Ambiguous,
    /// A request came out that stood in another one's body.
    Smuggled,
}

/// Silence after which nothing more is expected.
const SILENCE: Duration = Duration::from_millis(500);
/// Cases at a time.
const AT_ONCE: usize = 16;

/// Sends every case through the proxy at `address`, which sends to `endpoint`. Returns a verdict for each.
pub async fn run(address: SocketAddr, endpoint: &Endpoint, cases: &[Case]) -> Vec<Verdict> {
    let sent: Vec<Vec<u8>> = stream::iter(cases.iter().enumerate())
        .map(|(number, case)| send(address, case.bytes(number)))
        .buffered(AT_ONCE)
        .collect()
        .await;
    // What is still on its way.
    tokio::time::sleep(SILENCE).await;
    (0..sent.len()).map(|number| endpoint.verdict(number, &cases[number])).collect()
}

/// Writes bytes and reads until nothing more comes.
async fn send(address: SocketAddr, bytes: Vec<u8>) -> Vec<u8> {
    let mut answer = Vec::new();
    let Ok(mut stream) = TcpStream::connect(address).await else { return answer };
    // A proxy may close before it has taken all.
    let _ = stream.write_all(&bytes).await;
    while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, stream.read_buf(&mut answer)).await {}
    answer
}

/// Verdicts by category: how many of each.
pub fn count(cases: &[Case], verdicts: &[Verdict]) -> BTreeMap<&'static str, [usize; 4]> {
    let mut counts: BTreeMap<&'static str, [usize; 4]> = BTreeMap::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        counts.entry(case.category).or_default()[*verdict as usize] += 1;
    }
    counts
}
