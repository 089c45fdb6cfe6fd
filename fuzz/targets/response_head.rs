//! See `trimtab_proxy::fuzzing::response_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimtab_proxy::fuzzing::response_head(data));
