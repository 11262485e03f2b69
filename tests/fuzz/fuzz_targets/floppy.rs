//! See `ringshift_tests::fuzz::floppy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringshift_tests::fuzz::floppy::run(input));
