//! See `trimtab_proxy::fuzzing::route`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trimtab_proxy::fuzzing::route(data));
