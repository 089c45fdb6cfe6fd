//! See `trimtab_proxy::fuzzing::proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimtab_proxy::fuzzing::proxy_protocol(data));
