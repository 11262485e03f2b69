//! This host's own KVM, whatever the probe thinks of it: `--direct kvm=force` runs the demo and a short
//! Linux program, slowly where the KVM interprets, and rightly. Without `/dev/kvm` it says SKIPPED.

use std::process::Command;
use std::time::Duration;

use ringshift_tests::console::{self, Finished};
use ringshift_tests::{guests, paths, programs, tiny_init};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(400);

fn ringshift(arguments: &[&str]) -> Command {
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.args(arguments);
    command
}

fn finish(command: Command) -> Finished {
    let end = console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(end.code(), Some(0), "{}\n{}", end.stdout, end.stderr);
    end
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// Whether there is a KVM to force. What it gets wrong is no reason to skip: that is left to the
/// translator.
fn kvm() -> bool {
    let host = json(&finish(ringshift(&["host", "--json"])).stdout);
    let ready = host["kvm"]["status"] == "ready";
    if !ready {
        eprintln!("SKIPPED: no KVM on this host: {}", host["kvm"]);
    }
    ready
}

/// The summary of a trace; ring 3 ran directly, and nothing was lost.
fn check_trace(path: &str) -> Value {
    let summary = json(&finish(ringshift(&["trace", "summary", path, "--json"])).stdout);
    assert_eq!(summary["header"]["policy"], "vmware", "forced means that");
    assert_eq!(summary["lost"], 0, "{summary:#}");
    summary
}

fn place(name: &str) -> String {
    let dir = paths::guests_dir().unwrap_or_else(|error| panic!("{error}"));
    dir.join(name).to_string_lossy().into_owned()
}

#[test]
fn the_demo_is_right_on_the_hosts_own_kvm() {
    if !kvm() {
        return;
    }
    let trace = place("forced-demo.trace");
    let arguments = [
        "demo",
        "--scale",
        "0.0001",
        "--direct",
        "kvm=force",
        "--trace",
        &trace,
    ];
    let end = finish(ringshift(&arguments));
    assert!(
        end.stdout.contains("agree with the host's own"),
        "{}",
        end.stdout
    );
    let summary = check_trace(&trace);
    assert!(
        summary["direct"]["stays"].as_u64() > Some(20),
        "{summary:#}"
    );
}

#[test]
fn a_short_linux_program_is_right_on_the_hosts_own_kvm() {
    if !kvm() {
        return;
    }
    let guest = guests::debian_tiny().unwrap_or_else(|error| panic!("{error}"));
    let trace = place("forced-linux.trace");
    let run = |more: &[&str]| {
        let mut command = programs::ringshift_run(&guest).unwrap_or_else(|error| panic!("{error}"));
        command.args(["--timeout", "300"]).args(more);
        let end = finish(command);
        let text = end.stdout.replace('\r', "");
        assert!(
            text.contains(&tiny_init::output()),
            "{text}\n{}",
            end.stderr
        );
    };
    run(&["--policy", "translate"]);
    run(&["--direct", "kvm=force", "--audit", "--trace", &trace]);
    let summary = check_trace(&trace);
    // Each page that is touched, each system call and each line ends a stay.
    assert!(
        summary["direct"]["stays"].as_u64() > Some(20),
        "{summary:#}"
    );
    assert!(
        summary["switches_by_exit"]["system_call"].as_u64() > Some(5),
        "{summary:#}"
    );
}
