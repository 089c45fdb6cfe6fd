//! Writes the checkpoint that is built in: the zero residual. Run it after features or sizes have changed, from the
//! repository's root: `cargo run -p trimtab-model --example make_zero_checkpoint`.

use trimtab_model::checkpoint::Checkpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/shipped.safetensors");
    std::fs::write(path, Checkpoint::zero(0).to_bytes()?)?;
    Ok(())
}
