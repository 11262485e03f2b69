//! See `ringshift_tests::fuzz::ports`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringshift_tests::fuzz::ports::run(input));
