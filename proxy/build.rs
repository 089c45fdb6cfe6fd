//! Compiles the `.proto` files of the data-plane API, with a compiler that is itself a crate: building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 2] = ["trimtab/dataplane/v1/resources.proto", "trimtab/dataplane/v1/telemetry.proto"];
    for file in FILES {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    // Keys must not end up in logs.
    tonic_prost_build::configure().skip_debug(["trimtab.dataplane.v1.Certificate"]).compile_fds(descriptors)?;
    Ok(())
}
