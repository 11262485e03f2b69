//! See `ringshift_tests::fuzz::page_tables`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringshift_tests::fuzz::page_tables::run(input));
