//! Hostile ring-3 programs as a process of the host's processor runs them, and translated: the same
//! exceptions in the same order, with the same registers, flags and memory.
//!
//! What a process cannot do - ports, gates, descriptors that Linux does not make - is in `equivalence`.

use std::time::Duration;

use ringshift_tests::console;
use ringshift_tests::native::NativeError;
use ringshift_tests::ring3::{self, Character, Detail, Line, ProcessRunner};
use ringshift_tests::setting::setting;
use ringshift_tests::{paths, programs};

const LIMIT: Duration = Duration::from_secs(120);
const SEED: u64 = 0x5EED;
/// Programs for a run without variables.
const COUNT: u32 = 250;

/// What a guest prints that runs these programs translated.
fn translated(seed: u64, numbers: std::ops::Range<u32>, detail: Detail) -> String {
    let dir = paths::guests_dir().unwrap_or_else(|error| panic!("{error}"));
    let path = dir.join(format!("ring3-process-{}.bzimage", std::process::id()));
    let image = ring3::image(seed, numbers, Character::Process, detail);
    std::fs::write(&path, image).unwrap_or_else(|error| panic!("{error}"));
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.args([
        "run",
        "--memory",
        "64M",
        "--policy",
        "translate",
        "--kernel",
    ]);
    command.arg(&path);
    let end = console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let _ = std::fs::remove_file(&path);
    assert_eq!(end.code(), Some(0), "{}\n{}", end.stdout, end.stderr);
    end.stdout.replace('\r', "")
}

/// Both lists of events around the first that differs. CR2 is what the last page fault left.
fn first_difference(native: &[String], translated: &[&str]) -> String {
    const CR2: usize = " 00000000".len();
    const VECTOR: usize = 11;
    let same = |one: &str, other: &str| {
        let page_fault = one.split_whitespace().nth(VECTOR + 1) == Some("0000000e");
        let length = if page_fault { 0 } else { CR2 };
        one[..one.len() - length] == other[..other.len() - length]
    };
    let pairs = native.iter().zip(translated);
    let at = pairs.take_while(|(one, other)| same(one, other)).count();
    let start = at.saturating_sub(1);
    let part = |line: Option<&str>| line.unwrap_or("(none)").to_owned();
    (start..=at)
        .map(|index| {
            format!(
                "    processor  {}\n    translated {}\n",
                part(native.get(index).map(String::as_str)),
                part(translated.get(index).copied())
            )
        })
        .collect()
}

#[test]
fn hostile_programs_end_as_on_the_processor() {
    let mut processor = match ProcessRunner::new() {
        Ok(processor) => processor,
        Err(error @ NativeError::Host { .. }) => {
            eprintln!("SKIPPED: the host does not allow it: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    if processor.lowest() != 0 {
        eprintln!("SKIPPED: only root can map page 0 (vm.mmap_min_addr)");
        return;
    }
    let seed = setting("RINGSHIFT_SEED", SEED);
    let count = setting("RINGSHIFT_CASES", COUNT.into()) as u32;
    let data = ring3::data(seed);
    let mut compared = 0;
    let mut differences = Vec::new();
    let mut first = 0;
    while first < count {
        let numbers = first..count.min(first + ring3::MOST_PROGRAMS as u32);
        let console = translated(seed, numbers.clone(), Detail::Sums);
        let lines = ring3::parse(&console).unwrap_or_else(|error| panic!("{error}\n{console}"));
        assert_eq!(lines.len(), numbers.len());
        for (number, line) in numbers.clone().zip(lines) {
            let program = ring3::program(seed, number, Character::Process);
            let native = processor
                .run(line.number, &program, &data)
                .unwrap_or_else(|error| panic!("program {number}: {error}"));
            if native.hung || line.hung {
                continue;
            }
            compared += 1;
            if native != line {
                differences.push(describe(seed, number, &native, &line, processor.events()));
            }
        }
        first = numbers.end;
    }
    eprintln!(
        "{compared} programs agree with the processor but {}",
        differences.len()
    );
    assert!(
        compared * 50 > count * 49,
        "{compared} of {count} came to an end"
    );
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What differs, from another run of the program in the guest.
fn describe(seed: u64, number: u32, native: &Line, line: &Line, events: &[String]) -> String {
    let console = translated(seed, number..number + 1, Detail::Events);
    let translated: Vec<&str> = console
        .lines()
        .filter(|line| line.starts_with('!'))
        .collect();
    format!(
        "program {number} of seed {seed:#x}: {native}\n    against {line}\n{}",
        first_difference(events, &translated)
    )
}
