//! The fuzz targets without a fuzzer: over the inputs that once made them fail, and over random ones.
//!
//! `RINGSHIFT_SEED` and `RINGSHIFT_CASES` choose the random inputs, `RINGSHIFT_INPUT` names a file to run in
//! their place, for example one that libFuzzer left.

use ringshift_tests::fuzz::{Target, corpus, target};
use ringshift_tests::generate::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

const SEED: u64 = 0x5249_4E47;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a decimal number"))
}

/// Runs one input; one that fails is written down first.
fn run(target: &Target, name: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-failed", target.name));
        let written = std::fs::write(&path, input).map(|()| path);
        eprintln!(
            "{}: {name} failed; the input is in {written:?}",
            target.name
        );
        resume_unwind(panic);
    }
}

fn inputs(name: &str) {
    let target = target(name).expect("a target of this name");
    if let Ok(path) = std::env::var("RINGSHIFT_INPUT") {
        let input = std::fs::read(&path).expect("the input can be read");
        return run(&target, &path, &input);
    }
    for (path, input) in corpus::kept(name).expect("the kept inputs can be read") {
        run(&target, &path.display().to_string(), &input);
    }
    run(&target, "nothing", &[]);
    let seed = number("RINGSHIFT_SEED", SEED);
    for index in 0..number("RINGSHIFT_CASES", target.inputs.into()) {
        let mut random = Rng::new(seed ^ index << 32);
        let input = (target.make)(&mut random);
        run(&target, &format!("seed {seed}, input {index}"), &input);
    }
}

#[test]
fn instruction_bytes() {
    inputs("instruction_bytes");
}

#[test]
fn page_tables() {
    inputs("page_tables");
}

#[test]
fn bzimage() {
    inputs("bzimage");
}

#[test]
fn ports() {
    inputs("ports");
}

#[test]
fn floppy() {
    inputs("floppy");
}
