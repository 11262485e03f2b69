//! The demo on a real KVM: ring 3 runs directly, and nothing else differs from running translated.
//!
//! The machine is QEMU's emulation of a processor with SVM under Debian's stock kernel, once with
//! nested paging and once with KVM shadowing our tables.

use std::time::Duration;

use ringshift_tests::console;
use ringshift_tests::hwvirt::{self, Payload, Step, StepResult};
use ringshift_tests::programs;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(400);

/// What the demo computes; less than usual, as three emulators are stacked here.
const DEMO: &[&str] = &["demo", "--seed", "20260417", "--scale", "0.1"];

#[test]
fn the_demo_runs_ring_3_directly_with_nested_paging() {
    the_demo_runs_ring_3_directly(true);
}

#[test]
fn the_demo_runs_ring_3_directly_on_a_kvm_that_shadows() {
    the_demo_runs_ring_3_directly(false);
}

fn the_demo_runs_ring_3_directly(nested_paging: bool) {
    if !programs::installed("qemu-system-x86_64") {
        return;
    }
    let program = programs::ringshift_path().unwrap_or_else(|error| panic!("{error}"));
    let payload = Payload {
        program: program.to_path_buf(),
    };
    let demo = format!(
        "/payload/ringshift {} --policy vmware --stats stats.json",
        DEMO.join(" ")
    );
    let steps = [
        ("host", "/payload/ringshift host --json"),
        ("demo", &demo),
        ("stats", "cat stats.json"),
    ]
    .map(|(name, command)| Step {
        name: name.to_owned(),
        command: command.to_owned(),
    });
    let results = hwvirt::run(nested_paging, &[payload], &steps, LIMIT)
        .unwrap_or_else(|error| panic!("{error}"));
    for result in &results {
        let StepResult {
            name,
            status,
            stdout,
            stderr,
        } = result;
        assert_eq!(*status, 0, "{name}:\n{stdout}\n{stderr}");
    }
    let [host, demo, stats] = results.as_slice() else {
        panic!("{results:?}");
    };
    json(&host.stdout);
    assert_eq!(guest_report(&demo.stdout), translated_report());
    check_statistics(&json(&stats.stdout), &demo.stdout);
}

/// What the guest reports when everything is translated, on this host.
fn translated_report() -> Vec<String> {
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.args(DEMO).args(["--policy", "translate"]);
    let end = console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(end.code(), Some(0), "{}\n{}", end.stdout, end.stderr);
    guest_report(&end.stdout)
}

/// What the guest computed, from the report that it writes: without its counts of what depends on
/// time, and without the table of statistics that follows.
fn guest_report(stdout: &str) -> Vec<String> {
    const BY_TIME: [&str; 6] = [
        "ticks ",
        "context switches ",
        "preemptions ",
        "halts ",
        "x87 traps ",
        "state moves ",
    ];
    let stdout = stdout.replace('\r', "");
    let report: Vec<String> = stdout
        .lines()
        .skip_while(|line| *line != "ringshift demo: real mode again")
        .take_while(|line| *line != "ringshift demo: power off")
        .flat_map(|line| line.trim().split(", "))
        .filter(|part| !BY_TIME.iter().any(|name| part.starts_with(name)))
        .map(str::to_owned)
        .collect();
    assert!(report.len() > 20, "the guest says little:\n{stdout}");
    report
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn check_statistics(stats: &Value, table: &str) {
    let number = |path: &str| {
        stats
            .pointer(path)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no {path} in\n{stats:#}"))
    };
    assert_eq!(number("/schema"), 1);
    assert_eq!(stats["policy"], "vmware");
    assert_eq!(stats["direct_available"], true, "{stats:#}");

    let ring3 = |who: &str, what: &str| number(&format!("/decisions/ring3/{who}/{what}"));
    assert!(ring3("direct", "runs") > 100, "{table}\n{stats:#}");
    for what in ["runs", "ns"] {
        let translated = ring3("translated", what);
        let all = translated + ring3("direct", what) + ring3("replayed", what);
        assert!(
            translated * 20 < all,
            "{translated} of {all} {what} at ring 3 were translated\n{stats:#}"
        );
    }

    // The translator's own count of units agrees.
    let entered = number("/translator/entries_user");
    let replays = number("/translator/replays_user");
    let others = entered.saturating_sub(replays);
    assert!(replays > 0 && replays <= entered, "{stats:#}");
    assert!(
        others * 20 < entered + ring3("direct", "runs"),
        "{others} units at ring 3 are neither direct nor replayed\n{stats:#}"
    );

    // Real mode, the kernel, and the kernel with interrupts off are what must not run directly, and
    // every decision has its reasons counted.
    for reason in ["REAL_MODE", "NOT_RING_3", "IOPL", "INTERRUPTS_OFF"] {
        number(&format!("/decisions/legality_by_reason/{reason}"));
    }
    assert!(number("/decisions/evaluations") > number("/decisions/legal"));
    let (there, back) = (
        number("/decisions/switches_to_direct"),
        number("/decisions/switches_to_translator"),
    );
    assert!(there > 0 && there.abs_diff(back) <= 1, "{there} and {back}");
}
