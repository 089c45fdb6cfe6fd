//! Simulated pods in a process of their own; orders come as JSON lines on standard input, see `compare::pods`.

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    trimtab_tests::compare::pods::serve().await
}
