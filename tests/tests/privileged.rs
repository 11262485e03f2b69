//! Privileged and sensitive instructions in Ringshift, QEMU and Bochs, against the manual.
//!
//! `RINGSHIFT_CASES=LAR` runs only the cases whose description contains the text, and shows more of
//! the failures. `RINGSHIFT_BLESS=1` writes `docs/privileged.md` anew.

use std::collections::BTreeMap;
use std::{env, fs, thread};

use ringshift_tests::paths;
use ringshift_tests::privileged::case::Case;
use ringshift_tests::privileged::machines::Machine;
use ringshift_tests::privileged::model::Expected;
use ringshift_tests::privileged::outcome::{self, Outcome};
use ringshift_tests::privileged::report::{self, Column};
use ringshift_tests::privileged::{cases, explain, image, left_out, model};

/// Cases that may stop a machine before it is given up.
const STOPS: usize = 4;
/// Failures of each machine that are printed.
const SHOWN: usize = 20;

fn run(machine: Machine, all: &[Case]) -> (Vec<Case>, Column) {
    let cases = left_out::cases(machine, all);
    let expected: Vec<Expected> = cases
        .iter()
        .map(|case| model::expected(case).unwrap_or_else(|error| panic!("{case}: {error}")))
        .collect();
    let outcomes = outcomes(machine, &cases);
    let column = report::column(machine, &cases, &expected, &outcomes);
    (cases, column)
}

/// Runs the cases; behind one that stops the machine with a new start.
fn outcomes(machine: Machine, cases: &[Case]) -> Vec<Outcome> {
    let name = machine.name();
    let mut outcomes = Vec::new();
    let mut stops = 0;
    loop {
        let payload = image::payload(&cases[outcomes.len()..]).expect("the driver encodes");
        let report = machine
            .run(&payload)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let part = outcome::parse(&report.text).unwrap_or_else(|error| panic!("{name}: {error}"));
        outcomes.extend(part);
        if report.complete {
            assert_eq!(outcomes.len(), cases.len(), "{name}");
            return outcomes;
        }
        let case = &cases[outcomes.len()];
        println!("{name} stops in {case}");
        stops += 1;
        assert!(stops < STOPS, "{name} stops too often");
        outcomes.push(Outcome {
            stopped: true,
            ..Outcome::default()
        });
    }
}

#[test]
fn every_case_ends_as_the_manual_says() {
    let selection = env::var("RINGSHIFT_CASES").ok();
    let mut cases = cases::all();
    if let Some(text) = &selection {
        cases.retain(|case| case.to_string().contains(text));
    }
    let machines: Vec<Machine> = Machine::ALL.into_iter().filter(|m| m.installed()).collect();
    let results: Vec<(Machine, Vec<Case>, Column)> = thread::scope(|scope| {
        let cases = &cases;
        let runs: Vec<_> = machines
            .iter()
            .map(|&machine| (machine, scope.spawn(move || run(machine, cases))))
            .collect();
        runs.into_iter()
            .map(|(machine, run)| {
                let (cases, column) = run.join().unwrap_or_default();
                (machine, cases, column)
            })
            .collect()
    });

    let shown = if selection.is_some() {
        usize::MAX
    } else {
        SHOWN
    };
    let mut failed = false;
    for (machine, cases, column) in &results {
        failed |= !column.failures.is_empty() || cases.is_empty();
        let name = machine.name();
        println!(
            "{name}: {} cases differ without a reason",
            column.failures.len()
        );
        for failure in column.failures.iter().take(shown) {
            print!("  {}:", cases[failure.case]);
            for difference in &failure.differences {
                print!(" {difference};");
            }
            println!();
        }
    }
    if selection.is_none() && machines.len() == Machine::ALL.len() {
        let columns = results
            .into_iter()
            .map(|(machine, _, column)| (machine, column));
        let columns = columns.collect();
        failed |= unused_rules(&columns);
        check_page(&report::page(&cases, &columns));
    }
    assert!(!failed, "a case differs without a reason");
}

/// Whether a rule explains nothing; it would hide what it once explained.
fn unused_rules(columns: &BTreeMap<Machine, Column>) -> bool {
    let mut found = false;
    for (machine, column) in columns {
        for rule in explain::rules(*machine) {
            if !column.rules.contains_key(rule.name) {
                println!("{}: nothing differs by {}", machine.name(), rule.name);
                found = true;
            }
        }
    }
    found
}

/// The page in the documentation is what the machines say.
fn check_page(page: &str) {
    let path = paths::workspace().join("docs/privileged.md");
    if env::var_os("RINGSHIFT_BLESS").is_some() {
        fs::write(&path, page).expect("docs/privileged.md can be written");
        return;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/privileged.md is not up to date: RINGSHIFT_BLESS=1 writes it anew"
    );
}
