//! The demo on a real KVM: ring 3 runs directly, and nothing else differs from running translated. And
//! the tests that direct execution has on this host, once more there.
//!
//! The machine is QEMU's emulation of a processor with SVM under Debian's stock kernel, once with
//! nested paging and once with KVM shadowing our tables.

use std::path::Path;
use std::time::Duration;

use ringshift_tests::console;
use ringshift_tests::hwvirt::{self, Payload, Step, StepResult};
use ringshift_tests::programs;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(600);

/// Tests of the package `ringshift` that need a KVM.
const TESTS: [&str; 4] = ["direct", "events", "reasons", "trace"];

/// What the demo computes; less than usual, as three emulators are stacked here.
const DEMO: &[&str] = &["demo", "--seed", "20260417", "--scale", "0.1"];

/// Costs of a host on which direct execution pays.
const FAST: &str = r#"{"round_trip_ns": 90000, "direct_ps": 1000, "translated_ps": 4000}"#;

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
    let tests = programs::test_programs(&TESTS).unwrap_or_else(|error| panic!("{error}"));
    let payloads: Vec<Payload> = [program.to_path_buf()]
        .into_iter()
        .chain(tests.iter().cloned())
        .map(Payload::Program)
        .collect();
    let demo = format!(
        "/payload/ringshift {} --policy vmware --direct kvm=force --stats stats.json \
         --trace demo.trace",
        DEMO.join(" ")
    );
    // Under three emulators nothing measured says much: the costs are given.
    let adaptive = format!(
        "echo '{FAST}' >fast.json; \
         /payload/ringshift {} --policy adaptive --direct kvm=force --host-costs fast.json \
         --trace adaptive.trace",
        DEMO.join(" ")
    );
    let mut steps = [
        ("host", "/payload/ringshift host --json"),
        ("demo", &demo),
        ("stats", "cat stats.json"),
        (
            "trace",
            "/payload/ringshift trace summary demo.trace --json",
        ),
        ("adaptive", &adaptive),
        (
            "adaptive-trace",
            "/payload/ringshift trace summary adaptive.trace --json",
        ),
    ]
    .map(|(name, command)| Step {
        name: name.to_owned(),
        command: command.to_owned(),
    })
    .to_vec();
    let steps_of_demo = steps.len();
    steps.extend(
        TESTS
            .iter()
            .zip(&tests)
            .map(|(name, path)| test_step(name, path)),
    );
    let results = hwvirt::run(nested_paging, &payloads, &steps, LIMIT)
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
    let (of_demo, of_tests) = results.split_at(steps_of_demo);
    for test in of_tests {
        assert!(test.stdout.contains("test result: ok."), "{test:?}");
        let output = format!("{}{}", test.stdout, test.stderr);
        assert!(!output.contains("no direct execution"), "{output}");
    }
    let [host, demo, stats, trace, adaptive, adaptive_trace] = of_demo else {
        panic!("{results:?}");
    };
    check_host(&json(&host.stdout));
    assert_eq!(guest_report(&demo.stdout), translated_report());
    check_statistics(&json(&stats.stdout), &demo.stdout);
    check_trace(&json(&trace.stdout), &json(&stats.stdout));
    assert_eq!(guest_report(&adaptive.stdout), translated_report());
    check_adaptive(&json(&adaptive_trace.stdout));
}

/// A test's executable, with the directory that it writes to.
fn test_step(name: &str, path: &Path) -> Step {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    Step {
        name: format!("test-{name}"),
        command: format!(
            "mkdir -p {} && /payload/{file} --test-threads 1 --nocapture",
            env!("CARGO_TARGET_TMPDIR")
        ),
    }
}

/// What the processor that QEMU emulates gets wrong at ring 3. So nothing runs directly there that is
/// not forced to.
const WRONG: [&str; 3] = [
    "segment limits",
    "segments that are null or read-only",
    "iret with VM in the image",
];

/// KVM itself does everything right, in both modes that direct execution uses.
fn check_host(host: &Value) {
    // A 16-bit stack leaks the monitor's ESP on real processors as well.
    let of_16_bits = ["16-bit stack pointers"];
    for (mode, wrong) in [("compat32", &WRONG[..]), ("compat16", &of_16_bits[..])] {
        let checks = host[mode]["checks"].as_array();
        let checks = checks.unwrap_or_else(|| panic!("{mode} was not probed: {host:#}"));
        let found: Vec<&Value> = checks
            .iter()
            .filter(|check| check["result"] != "right")
            .map(|check| &check["name"])
            .collect();
        assert_eq!(found, wrong, "{mode}: {host:#}");
    }
    assert_eq!(host["modes"][0]["verdict"]["result"], "fails", "{host:#}");
    assert_eq!(host["modes"][1]["verdict"]["result"], "works", "{host:#}");
    assert_eq!(host["support"]["compat32"], false, "{host:#}");
    assert_eq!(host["support"]["compat16"], true, "{host:#}");
}

/// The trace agrees with the counters that were kept apart from it.
fn check_trace(trace: &Value, stats: &Value) {
    let decisions = &stats["decisions"];
    let switches = ["switches_to_direct", "switches_to_translator"]
        .map(|name| decisions[name].as_u64().unwrap_or(0));
    assert_eq!(trace["complete"], true, "{trace:#}");
    assert_eq!(trace["lost"], 0, "{trace:#}");
    assert_eq!(trace["switches"], switches[0] + switches[1], "{trace:#}");
    for (name, time) in [("translator", "translator_ns"), ("direct", "direct_ns")] {
        assert_eq!(trace[name]["run_ns"], stats["time"][time], "{trace:#}");
    }
    assert_eq!(
        trace["switches_by_reason"], decisions["switches_by_reason"],
        "{trace:#}"
    );
    assert_eq!(
        trace["refusals_by_reason"], decisions["refusals_by_reason"],
        "{trace:#}"
    );
}

/// The default policy went direct, and its verdicts are in the trace.
fn check_adaptive(trace: &Value) {
    let header = &trace["header"];
    assert!(
        header["policy"]
            .as_str()
            .is_some_and(|name| name.starts_with("adaptive:")),
        "{trace:#}"
    );
    assert_eq!(header["costs"], json(FAST));
    assert!(trace["direct"]["stays"].as_u64() > Some(0), "{trace:#}");
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
