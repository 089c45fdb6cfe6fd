//! Compiles the `.proto` files of the data-plane API, with a compiler that is itself a crate: building needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 2] = ["trimtab/dataplane/v1/resources.proto", "trimtab/dataplane/v1/telemetry.proto"];
    for file in FILES {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    // Keys must not end up in logs.
    let with_keys = ["trimtab.dataplane.v1.Certificate", "trimtab.dataplane.v1.SessionPersistence"];
    tonic_prost_build::configure().skip_debug(with_keys).compile_fds(descriptors)?;
    Ok(())
}
