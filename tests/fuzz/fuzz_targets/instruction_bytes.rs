//! See `ringshift_tests::fuzz::instruction_bytes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringshift_tests::fuzz::instruction_bytes::run(input));
