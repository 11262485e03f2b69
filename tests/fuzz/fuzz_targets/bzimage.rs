//! See `ringshift_tests::fuzz::bzimage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringshift_tests::fuzz::bzimage::run(input));
