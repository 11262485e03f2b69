//! The trace and the options of the decision on the command line: what a run leaves, what `trace`
//! makes of it, and files that are no traces, no policies, no costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringshift_tests::console::{self, Finished};
use ringshift_tests::trace_event::{self, Timeline};
use ringshift_tests::{paths, programs};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// The demo with so little work that a KVM that interprets gets through it in seconds.
const DEMO: [&str; 5] = ["demo", "--scale", "0.0001", "--policy", "vmware"];

fn place(name: &str) -> PathBuf {
    let dir = paths::guests_dir().unwrap().join("trace");
    fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn ringshift(arguments: &[&str]) -> Finished {
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.args(arguments);
    finish(command)
}

fn finish(command: Command) -> Finished {
    let end = console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    end
}

#[track_caller]
fn succeed(arguments: &[&str]) -> Finished {
    let end = ringshift(arguments);
    assert_eq!(end.code(), Some(0), "{arguments:?}\n{}", end.stderr);
    end
}

#[track_caller]
fn fail(arguments: &[&str], code: i32, words: &[&str]) {
    let end = ringshift(arguments);
    assert_eq!(end.code(), Some(code), "{arguments:?}\n{}", end.stderr);
    for word in words {
        assert!(end.stderr.contains(word), "{word:?}: {}", end.stderr);
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// The demo, directly where that is possible at all, whatever the probe thinks of this host's KVM.
fn demo(options: &[&str]) -> Finished {
    let kvm = ringshift(&["host", "--json"]);
    let direct: &[&str] = if json(&kvm.stdout)["kvm"]["status"] == "ready" {
        &["--direct", "kvm=force"]
    } else {
        &[]
    };
    succeed(&[&DEMO[..], direct, options].concat())
}

/// A trace of the demo.
fn traced(name: &str) -> PathBuf {
    let path = place(name);
    demo(&["--trace", text(&path)]);
    path
}

#[test]
fn a_run_leaves_a_trace_that_can_be_summed_up_and_exported() {
    let path = place("demo.trace");
    let stats = place("demo.json");
    demo(&["--trace", text(&path), "--stats", text(&stats)]);
    let stats = json(&fs::read_to_string(stats).unwrap());
    let summary = json(&succeed(&["trace", "summary", text(&path), "--json"]).stdout);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{summary:#}"));
    let switches = number(&stats["decisions"]["switches_to_direct"])
        + number(&stats["decisions"]["switches_to_translator"]);
    assert_eq!(number(&summary["switches"]), switches);
    assert_eq!(
        (&summary["complete"], number(&summary["lost"])),
        (&true.into(), 0)
    );
    assert_eq!(
        summary["translator"]["run_ns"],
        stats["time"]["translator_ns"]
    );
    assert_eq!(summary["direct"]["run_ns"], stats["time"]["direct_ns"]);
    assert_eq!(summary["header"]["policy"], "vmware");

    let people = succeed(&["trace", "summary", text(&path), "--top", "3"]).stdout;
    assert!(people.contains("policy         vmware"), "{people}");

    let csv = succeed(&["trace", "export", text(&path), "--format", "csv"]).stdout;
    assert_eq!(
        csv.lines().count() as u64,
        switches + 1,
        "a heading and a line for each"
    );

    let timeline = place("demo-timeline.json");
    let output = ["--format", "perfetto", "-o", text(&timeline)];
    let said = succeed(&[&["trace", "export", text(&path)], &output[..]].concat());
    assert_eq!(said.stdout, "");
    let timeline = trace_event::read(&fs::read_to_string(timeline).unwrap());
    let timeline = timeline.unwrap_or_else(|error| panic!("{error}"));
    check_timeline(&timeline, &summary);
}

/// A track for the vCPU, on which the engines take turns without a gap, each slice with its reasons; all
/// times add up to those of the summary.
fn check_timeline(timeline: &Timeline, summary: &Value) {
    let processes: Vec<_> = timeline.processes.values().collect();
    assert_eq!(processes, ["ringshift (vmware)"]);
    assert_eq!(timeline.instants, []);
    let tracks: Vec<_> = timeline.tracks.values().collect();
    let [track] = tracks.as_slice() else {
        panic!("{} tracks", tracks.len());
    };
    assert_eq!(track.name.as_deref(), Some("vCPU 0"));
    let slices = &track.slices;
    let switches = summary["switches"].as_u64().expect("a number");
    assert_eq!(slices.len() as u64, switches + 1, "a slice for each stay");
    assert_eq!(slices[0].start, 0);
    for pair in slices.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "{pair:?}");
        assert_ne!(pair[0].name, pair[1].name, "{pair:?}");
    }
    for engine in ["translator", "direct"] {
        let of_engine = slices.iter().filter(|slice| slice.name == engine);
        let stays = &summary[engine]["stays"];
        assert_eq!(of_engine.count() as u64, stays.as_u64().expect("a number"));
    }
    for slice in slices {
        for said in ["began because of", "reasons met", "ended by"] {
            assert!(slice.args[said].is_string(), "{slice:?}");
        }
    }
}

#[test]
fn a_trace_that_is_cut_off_gives_what_is_there_with_a_warning() {
    let whole = fs::read(traced("to-cut.trace")).unwrap();
    let path = place("cut.trace");
    fs::write(&path, &whole[..whole.len() * 3 / 4]).unwrap();
    for arguments in [
        &["trace", "summary", text(&path)][..],
        &["trace", "export", text(&path), "--format", "csv"],
        &["trace", "export", text(&path), "--format", "perfetto"],
    ] {
        let end = succeed(arguments);
        assert!(end.stderr.contains("warning"), "{}", end.stderr);
        assert!(!end.stdout.is_empty());
    }
}

#[test]
fn what_is_no_trace_is_told_so() {
    let whole = fs::read(traced("to-spoil.trace")).unwrap();
    let mut newer = whole.clone();
    newer[8] = 99;
    let mut damaged = whole.clone();
    damaged[16] = b'?';
    for (name, bytes, word) in [
        ("foreign", &b"\x7FELF is something else"[..], "no trace"),
        ("nothing", b"", "no trace"),
        ("newer", &newer, "version 99"),
        ("short", &whole[..40], "ends within its header"),
        ("damaged", &damaged, "header is damaged"),
    ] {
        let path = place(name);
        fs::write(&path, bytes).unwrap();
        fail(&["trace", "summary", text(&path)], 1, &[name, word]);
        let arguments = ["trace", "export", text(&path), "--format", "csv"];
        fail(&arguments, 1, &[name, word]);
    }
    fail(&["trace", "summary", "/nonexistent"], 1, &["/nonexistent"]);
    let symbols = place("symbols");
    fs::write(&symbols, "no symbol\n").unwrap();
    let trace = place("to-spoil.trace");
    let arguments = [
        "trace",
        "summary",
        text(&trace),
        "--symbols",
        text(&symbols),
    ];
    fail(&arguments, 1, &["line 1"]);
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error_before_the_run() {
    for path in ["/nonexistent/trace", "/dev/full"] {
        let end = ringshift(&[&DEMO[..], &["--trace", path]].concat());
        assert_eq!(end.code(), Some(1), "{}", end.stderr);
        assert!(end.stderr.contains(path), "{}", end.stderr);
        assert_eq!(end.stdout, "", "no run");
    }
}

/// The shell makes a file system of 64 KiB for the trace; the run does not end with it, what is
/// missing is counted, and what is there can be read.
#[test]
fn a_disk_that_fills_up_ends_the_trace_and_not_the_run() {
    let disk = place("disk");
    fs::create_dir_all(&disk).unwrap();
    let script = "disk=$1; program=$2; shift 2; \
                  mount -t tmpfs -o size=64k tmpfs \"$disk\" || { echo '@@ no mount'; exit 0; }; \
                  \"$program\" \"$@\" --trace \"$disk/trace\" || exit; \
                  echo '@@ summary'; \"$program\" trace summary \"$disk/trace\" --json";
    let mut command = Command::new("unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(&disk)
        .arg(programs::ringshift_path().unwrap_or_else(|error| panic!("{error}")))
        .args(DEMO);
    let end = finish(command);
    if end.stdout.contains("@@ no mount") || end.stderr.contains("unshare") {
        eprintln!("SKIPPED: no mount namespace here: {}", end.stderr);
        return;
    }
    assert_eq!(end.code(), Some(0), "{}", end.stderr);
    let (demo, summary) = end.stdout.split_once("@@ summary\n").expect("both ran");
    assert!(demo.contains("agree with the host's own"), "{demo}");
    if end.stderr.contains("everything runs translated") {
        eprintln!("SKIPPED: no direct execution, so no switches");
        return;
    }
    let told = end
        .stderr
        .lines()
        .find(|line| line.contains("the trace is not whole"))
        .unwrap_or_else(|| panic!("{}", end.stderr));
    // "...; N switches are in it, M are not"
    let counts: Vec<u64> = told
        .rsplit_once(';')
        .map_or("", |(_, counts)| counts)
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    let &[there, lost] = counts.as_slice() else {
        panic!("{told}");
    };
    assert!(there > 0 && lost > 0, "{told}");
    let summary = json(summary);
    assert_eq!(summary["switches"], there, "{summary:#}");
    // There may be room for the end, where the loss is told, behind what was cut.
    if summary["complete"] == true {
        assert_eq!(summary["lost"], lost, "{summary:#}");
    } else {
        assert!(end.stderr.contains("warning"), "{}", end.stderr);
    }
}

#[test]
fn policies_and_costs_in_files() {
    let rules = place("rules");
    fs::write(&rules, "name mine\ntranslate\n").unwrap();
    let policy = format!("file:{}", text(&rules));
    let stats = place("rules.json");
    let demo = ["demo", "--scale", "0.0001", "--policy", &policy];
    succeed(&[&demo[..], &["--stats", text(&stats)]].concat());
    let stats = json(&fs::read_to_string(stats).unwrap());
    assert_eq!(stats["policy"], "mine");
    assert_eq!(stats["decisions"]["switches_to_direct"], 0);

    fs::write(&rules, "direct\nperhaps\n").unwrap();
    fail(&demo, 2, &[text(&rules), "line 2", "'perhaps'"]);
    let missing = ["demo", "--policy", "file:/nonexistent/rules"];
    fail(&missing, 1, &["/nonexistent/rules"]);

    let costs = place("costs");
    for (contents, word) in [
        ("{\"round_trip\": 3}", "round_trip"),
        ("fast", "line 1"),
        ("{\"costs\": {\"direct_ps\": -1}}", "-1"),
    ] {
        fs::write(&costs, contents).unwrap();
        fail(
            &["demo", "--host-costs", text(&costs)],
            2,
            &[text(&costs), word],
        );
    }
    // What `host` prints is taken as it is.
    fs::write(&costs, succeed(&["host", "--json"]).stdout).unwrap();
    succeed(&["demo", "--scale", "0.0001", "--host-costs", text(&costs)]);
}

#[test]
fn without_direct_execution_everything_is_translated() {
    let path = place("none.trace");
    let options = ["--direct", "none", "--trace", text(&path)];
    let end = succeed(&[&DEMO[..], &options].concat());
    assert_eq!(end.stderr, "", "it was asked for");
    let summary = json(&succeed(&["trace", "summary", text(&path), "--json"]).stdout);
    assert_eq!(summary["switches"], 0);
    assert_eq!(summary["header"]["direct"], false);
    assert!(summary["refusals_by_reason"]["REAL_MODE"].as_u64() > Some(0));
}
