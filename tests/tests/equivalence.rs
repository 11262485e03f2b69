//! Both engines on the same generated ring-3 programs: the same exceptions in the same order, with
//! the same registers, flags and memory.
//!
//! The programs run on QEMU's emulation of a processor with SVM, as this needs a KVM that is right in
//! every detail, once with nested paging and once with KVM shadowing our tables.
//! `RINGSHIFT_SEED` and `RINGSHIFT_CASES` choose other hostile programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ringshift_tests::hwvirt::{self, Payload, Step};
use ringshift_tests::ring3::{self, Character, Detail, Line};
use ringshift_tests::setting::setting;
use ringshift_tests::{paths, programs};

// Minutes on an idle machine of two cores; not what is tested.
const LIMIT: Duration = Duration::from_secs(1800);
const SEED: u64 = 0x5EED;

/// The sets of programs: name, how many, character. Every vector, port and selector is in the last.
const SETS: [(&str, u32, Character); 3] = [
    ("ordinary", 120, Character::Ordinary),
    ("hostile", 250, Character::Hostile),
    ("sweep", ring3::SWEEPS, Character::Sweep),
];

/// The first is the reference.
const POLICIES: [&str; 3] = ["translate", "vmware", "random:seed=3"];

fn image(name: &str, count: u32, character: Character) -> PathBuf {
    let dir = paths::guests_dir().unwrap_or_else(|error| panic!("{error}"));
    // Tests run at once: each writes its own file.
    let thread = std::thread::current();
    let path = dir.join(format!("ring3-{name}-{:?}.bzimage", thread.id()));
    let count = match character {
        Character::Hostile => setting("RINGSHIFT_CASES", count.into()) as u32,
        _ => count,
    };
    let seed = setting("RINGSHIFT_SEED", SEED);
    let image = ring3::image(seed, 0..count, character, Detail::Sums);
    std::fs::write(&path, image).unwrap_or_else(|error| panic!("{error}"));
    path
}

fn command(program: &str, image: &Path, policy: &str) -> String {
    format!(
        "{program} run --kernel {} --memory 64M --policy {policy} --direct kvm=force --timeout 1200 \
         --stats stats.json; \
         status=$?; cat stats.json >&2; exit $status",
        image.display()
    )
}

/// Compares the lines of two runs; `Err` names the programs that differ.
fn compare(set: &str, one: &str, other: &str) -> Result<usize, String> {
    let parse =
        |console: &str| ring3::parse(console).map_err(|error| format!("{set}: {error}\n{console}"));
    let (one, other) = (parse(one)?, parse(other)?);
    let count = |lines: &[Line]| lines.iter().filter(|line| !line.hung).count();
    let mut compared = 0;
    let mut differences = Vec::new();
    for (line, line_of_other) in one.iter().zip(&other) {
        if line.hung || line_of_other.hung {
            continue;
        }
        compared += 1;
        if line != line_of_other {
            differences.push(format!("{line}\n    against {line_of_other}"));
        }
    }
    let given_up = one.len() - count(&one);
    if one.len() != other.len() || given_up * 50 > one.len() {
        differences.push(format!(
            "{} and {} programs, {given_up} given up",
            one.len(),
            other.len()
        ));
    }
    if differences.is_empty() {
        Ok(compared)
    } else {
        Err(format!("{set}:\n{}", differences.join("\n")))
    }
}

/// How often ring 3 ran directly: comparing the translator with itself would prove nothing.
fn direct_runs(stderr: &str) -> Option<u64> {
    let (_, json) = stderr.split_once("\n{")?;
    let stats: serde_json::Value = serde_json::from_str(&format!("{{{json}")).ok()?;
    stats.pointer("/decisions/ring3/direct/runs")?.as_u64()
}

fn engines_agree(nested_paging: bool) {
    if !programs::installed("qemu-system-x86_64") {
        return;
    }
    let program = programs::ringshift_path().unwrap_or_else(|error| panic!("{error}"));
    let images = SETS.map(|(name, count, character)| (name, image(name, count, character)));
    let mut payloads = vec![Payload::Program(program.to_path_buf())];
    let mut steps = Vec::new();
    for (name, path) in &images {
        payloads.push(Payload::File((*name).to_owned(), path.clone()));
        for policy in POLICIES {
            let inside = Path::new("/payload").join(name);
            steps.push(Step {
                name: format!("{name}-{}", policy.replace([':', '='], "-")),
                command: command("/payload/ringshift", &inside, policy),
            });
        }
    }
    let results = hwvirt::run(nested_paging, &payloads, &steps, LIMIT)
        .unwrap_or_else(|error| panic!("{error}"));
    let mut failures = Vec::new();
    for ((name, ..), results) in images.iter().zip(results.chunks(POLICIES.len())) {
        let [reference, others @ ..] = results else {
            panic!("no results of {name}");
        };
        for other in others {
            if (reference.status, other.status) != (0, 0) {
                failures.push(format!("{reference:?}\n{other:?}"));
                continue;
            }
            let runs = direct_runs(&other.stderr).unwrap_or(0);
            let programs = ring3::parse(&reference.stdout).map_or(0, |lines| lines.len() as u64);
            if runs < programs * 20 {
                failures.push(format!(
                    "{}: only {runs} runs in direct execution",
                    other.name
                ));
            }
            match compare(&other.name, &reference.stdout, &other.stdout) {
                Ok(compared) => eprintln!("{}: {compared} programs agree", other.name),
                Err(error) => failures.push(error),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn engines_agree_with_nested_paging() {
    engines_agree(true);
}

#[test]
fn engines_agree_on_a_kvm_that_shadows() {
    engines_agree(false);
}
