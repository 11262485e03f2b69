//! Real mode as a recorded 80286 has it: each instruction of the recording through the translator.
//!
//! `RINGSHIFT_FORM=F7.4` runs only the cases of one opcode form and shows every failure with the
//! emitted code. `RINGSHIFT_BLESS=1` writes `docs/conformance.md` anew.

use ringshift_tests::moo::flags::compared_flags;
use ringshift_tests::moo::machine::{Machine, Manner};
use ringshift_tests::moo::metadata::Metadata;
use ringshift_tests::moo::report::{Failure, Report, Tally};
use ringshift_tests::moo::rules::{Subject, adapted, exclusion};
use ringshift_tests::moo::{Case, read_gz};
use ringshift_tests::paths;
use std::path::PathBuf;
use std::sync::Mutex;
use std::{env, fs, thread};

/// Failures of each form that are printed.
const SHOWN: usize = 2;
/// Most cases in a thousand that rules may exclude.
const EXCLUDED_PER_MILLE: usize = 50;

fn run_form(machine: &mut Machine, cases: &[Case], defined: u16, everywhere: bool) -> Tally {
    let mut tally = Tally::default();
    for case in cases {
        let subject = Subject::new(case);
        if let Some(rule) = exclusion(&subject) {
            *tally.excluded.entry(rule.name).or_default() += 1;
            continue;
        }
        let flags = compared_flags(&subject, defined);
        tally.fewer_flags += usize::from(flags != defined);
        let (adaptations, case) = adapted(&subject);
        for name in adaptations {
            *tally.adapted.entry(name).or_default() += 1;
        }
        let fits = |manner: &Manner| *manner != Manner::Virtual8086 || subject.fits_virtual_8086();
        let failure = Manner::ALL.into_iter().filter(fits).find_map(|manner| {
            let differences = machine.run(&case, manner, flags, everywhere);
            (!differences.is_empty()).then(|| Failure {
                case: case.clone(),
                manner,
                differences,
                listing: machine.listing(&case),
            })
        });
        match failure {
            None => tally.passed += 1,
            Some(failure) => tally.failures.push(failure),
        }
    }
    tally
}

/// Runs the forms whose files are left in `files`.
fn work(files: &Mutex<Vec<(String, PathBuf)>>, metadata: &Metadata) -> Report {
    let mut machine = Machine::new().expect("a machine");
    let mut report = Report::default();
    loop {
        let Some((form, path)) = files.lock().expect("no thread has failed").pop() else {
            return report;
        };
        let cases = read_gz(&path).expect("a recording");
        let defined = metadata.defined_flags(&form);
        let mut tally = run_form(&mut machine, &cases, defined, false);
        if !machine.stray().is_empty() {
            // Something was written where it should not be: once more, looking everywhere.
            tally = run_form(&mut machine, &cases, defined, true);
        }
        report.forms.insert(form, tally);
    }
}

#[test]
fn real_mode_agrees_with_a_recorded_80286() {
    let Some(directory) = paths::shared("cpu-tests/80286-real") else {
        return;
    };
    let only = env::var("RINGSHIFT_FORM").ok();
    let metadata = Metadata::read(&directory.join("metadata.json")).expect("metadata");
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).expect("the recordings") {
        let path = entry.expect("the recordings").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(form) = name.strip_suffix(".MOO.gz")
            && only.as_ref().is_none_or(|wanted| wanted == form)
        {
            files.push((form.to_string(), path.clone()));
        }
    }
    assert!(
        !files.is_empty(),
        "no recordings in {}",
        directory.display()
    );
    let files = Mutex::new(files);
    let mut report = Report::default();
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let work = || scope.spawn(|| work(&files, &metadata));
        let threads: Vec<_> = (0..threads).map(|_| work()).collect();
        for thread in threads {
            report.merge(thread.join().expect("no thread has failed"));
        }
    });
    println!("{}\n{}", report.table(), report.rules());
    let shown = if only.is_some() { usize::MAX } else { SHOWN };
    println!("{}", report.failures(shown));
    assert_eq!(report.failed(), 0, "cases differ: see the output");
    if only.is_some() {
        return;
    }
    let all = report.passed() + report.excluded();
    assert!(
        report.excluded() * 1000 < all * EXCLUDED_PER_MILLE,
        "{} of {all} cases are excluded",
        report.excluded()
    );
    let path = paths::workspace().join("docs/conformance.md");
    let document = report.document();
    if env::var_os("RINGSHIFT_BLESS").is_some() {
        fs::write(&path, &document).expect("the document can be written");
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|committed| committed == document),
        "docs/conformance.md is out of date: run with RINGSHIFT_BLESS=1"
    );
}
