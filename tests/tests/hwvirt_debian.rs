//! Debian's unmodified 32-bit kernels on a real KVM, ring 3 in direct execution: their programs print
//! what they print translated, and next to nothing of ring 3 is translated; and wherever chance puts
//! the switches, they boot and pass their checks.
//!
//! With nested paging and without it: then KVM shadows the page tables that it is given. The machine's processor has no
//! CMPXCHG16B, and translated code goes round what QEMU before 8.0 makes of CMPXCHG8B: flags computed from a stale state. With a poll
//! right behind it, which faulted, TF, IOPL or AC could come to the process that way, and then it did nothing but trap.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use decision::Reasons;
use ringshift_tests::guest_programs::{self, BuildError, Output};
use ringshift_tests::guests::{self, Guest, Session};
use ringshift_tests::hwvirt::{self, Payload, Step, StepResult};
use ringshift_tests::programs;
use serde_json::Value;

/// Of a machine with all its steps. Three processors are emulated on top of each other here.
const LIMIT: Duration = Duration::from_secs(2700);

/// Not through `eprintln`, whose output is lost when the test passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn debian_686_prints_the_same() {
    same_programs(false);
}

#[test]
fn debian_686_pae_prints_the_same() {
    same_programs(true);
}

#[test]
fn debian_686_switches_wherever_chance_wants_it() {
    switches_at_random(true);
}

fn step(name: &str, command: String) -> Step {
    Step {
        name: name.to_owned(),
        command,
    }
}

/// Runs a Debian guest inside: `options` are those of the run, `append` more of the kernel's command line.
fn debian(name: &str, guest: &Guest, append: &str, options: &str) -> Step {
    let command = format!(
        "/payload/ringshift run --kernel /payload/vmlinuz --initrd /payload/initrd \
         --append '{} {append}' --memory {} --cpu coreduo --timeout 1200 {options}",
        guest.append, guest.memory
    );
    step(name, command)
}

fn run(nested_paging: bool, guest: &Guest, steps: &[Step]) -> Vec<StepResult> {
    let program = programs::ringshift_path().unwrap_or_else(|error| panic!("{error}"));
    let payloads = [
        Payload::Program(program.to_path_buf()),
        Payload::File("vmlinuz".to_owned(), guest.kernel.clone()),
        Payload::File("initrd".to_owned(), guest.initrd.clone()),
    ];
    let results = hwvirt::run(nested_paging, &payloads, steps, LIMIT)
        .unwrap_or_else(|error| panic!("{error}"));
    for StepResult {
        name,
        status,
        stdout,
        stderr,
    } in &results
    {
        // The end first: a report may be cut.
        let last: Vec<&str> = stdout.lines().rev().take(30).collect();
        assert_eq!(
            *status, 0,
            "{name}; the last lines, backwards: {last:#?}\n{stderr}\n{stdout}"
        );
    }
    results
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn number(value: &Value, path: &str) -> u64 {
    value
        .pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {path} in\n{value:#}"))
}

fn compile() -> Option<PathBuf> {
    match guest_programs::build() {
        Ok(program) => Some(program),
        Err(error @ BuildError::NoCompiler) => {
            say(&format!("SKIPPED: the guest programs: {error}"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn same_programs(pae: bool) {
    if !programs::installed("qemu-system-x86_64") {
        return;
    }
    let Some(program) = compile() else { return };
    let guest = guests::debian_programs(pae, &program).unwrap_or_else(|error| panic!("{error}"));
    let mut steps = vec![
        debian(
            "vmware",
            &guest,
            guests::ALSO_CHECKS,
            "--policy vmware --direct kvm=force --audit --stats stats.json --trace boot.trace",
        ),
        step("stats", "cat stats.json".to_owned()),
        step(
            "trace",
            "/payload/ringshift trace summary boot.trace --json".to_owned(),
        ),
        // The translated run is made inside as well: what it is compared with is the processor that
        // QEMU emulates.
        debian("translate", &guest, "", "--policy translate --direct none"),
    ];
    let nested = run(true, &guest, &steps);
    // Where nothing runs directly, KVM has no part in it: once is enough.
    steps.pop();
    let shadowed = run(false, &guest, &steps);
    let translate = nested.last().unwrap_or_else(|| panic!("no results"));
    assert!(
        translate.stdout.contains(guests::PASSED),
        "{}",
        translate.stdout
    );
    let translated = Output::parse(&translate.stdout);
    for (npt, results) in [(1, &nested), (0, &shadowed)] {
        let name = format!("{}, npt={npt}", if pae { "686-pae" } else { "686" });
        check_direct(&name, results, &translated);
    }
}

/// The steps of a run in direct execution: it printed what `translated` has, with the tables right,
/// and hardly anything of ring 3 translated.
fn check_direct(name: &str, results: &[StepResult], translated: &Output) {
    let [vmware, stats, trace, ..] = results else {
        panic!("{results:?}");
    };
    assert!(vmware.stdout.contains(guests::PASSED), "{}", vmware.stdout);
    assert!(
        vmware.stderr.contains("the shadow tables agree"),
        "{}",
        vmware.stderr
    );
    let (lines, explained) = compare(&Output::parse(&vmware.stdout), translated);
    say(&format!(
        "{name}: of {lines} lines all but {explained} are the same in direct execution; \
         these show that the processor is emulated"
    ));
    let stats = json(&stats.stdout);
    check_ring_3(name, &stats);
    check_trace(&json(&trace.stdout), &stats);
}

/// Compares all lines of the programs, and says how many there are and how many of them differ
/// because the processor that direct execution uses is an emulation.
fn compare(direct: &Output, translated: &Output) -> (usize, usize) {
    let (mut lines, mut explained, mut differences) = (0, 0, Vec::new());
    for (name, text) in translated.lines() {
        lines += 1;
        match direct.get(name) {
            Some(other) if other == text => {}
            Some(_) if guest_programs::of_an_emulated_host(name, text).is_some() => explained += 1,
            other => differences.push(format!(
                "{name}: {} direct, {text} translated",
                other.unwrap_or("(nothing)")
            )),
        }
    }
    let only_direct = direct
        .lines()
        .filter(|(name, _)| translated.get(name).is_none());
    differences.extend(only_direct.map(|(name, text)| format!("{name}: {text}, only direct")));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(lines > 1000, "{lines} lines");
    (lines, explained)
}

/// What may keep a state of CPL 3, IF = 1 and IOPL < 3 out of direct execution: a replay, what
/// debuggers do, virtual-8086 mode, and the state of the segments.
const ALLOWED: Reasons = Reasons::REPLAY
    .union(Reasons::TRAP_FLAG)
    .union(Reasons::DEBUG_REGISTERS)
    .union(Reasons::INTERRUPT_SHADOW)
    .union(Reasons::V86_UNSUPPORTED)
    .union(SEGMENTS);

/// The state of the segments: not reversible, 16-bit stacks, limits that this processor does not
/// check, descriptors that long mode would show differently.
const SEGMENTS: Reasons = Reasons::CS
    .union(Reasons::DS)
    .union(Reasons::ES)
    .union(Reasons::FS)
    .union(Reasons::GS)
    .union(Reasons::SS)
    .union(Reasons::CODE_16_UNSUPPORTED)
    .union(Reasons::STACK_16_UNSUPPORTED)
    .union(Reasons::LIMITS_UNCHECKED)
    .union(Reasons::LONG_MODE_VISIBLE);

/// Less than 5 % of ring 3 was translated, and for no other reasons than [`ALLOWED`].
fn check_ring_3(name: &str, stats: &Value) {
    let ring3 = |who: &str, what: &str| number(stats, &format!("/decisions/ring3/{who}/{what}"));
    for what in ["runs", "ns"] {
        let [direct, replayed, translated] =
            ["direct", "replayed", "translated"].map(|who| ring3(who, what));
        say(&format!(
            "{name}: {what} at ring 3: {direct} direct, {replayed} replayed, {translated} translated"
        ));
        assert!(
            translated * 20 < direct + replayed + translated,
            "{what}: {stats:#}"
        );
    }
    assert!(ring3("direct", "runs") > 1000, "{stats:#}");
    // The translator's own count of the units that it entered there agrees.
    let others = number(stats, "/translator/entries_user")
        .saturating_sub(number(stats, "/translator/replays_user"));
    assert!(
        others * 20 < number(stats, "/translator/entries_user") + ring3("direct", "runs"),
        "{others} units at ring 3 are neither direct nor replayed\n{stats:#}"
    );
    let against = stats["decisions"]["ring3"]["against"]
        .as_object()
        .unwrap_or_else(|| panic!("{stats:#}"));
    say(&format!("{name}: against direct execution: {against:?}"));
    for reason in against.keys() {
        let reason = Reasons::from_name(reason).unwrap_or_else(|| panic!("no reason {reason}"));
        assert!(ALLOWED.contains(reason), "{reason}\n{stats:#}");
    }
    // The programs set TF and breakpoints, load SS, and change descriptors under loaded selectors.
    for reason in ["REPLAY", "TRAP_FLAG", "DEBUG_REGISTERS"] {
        assert!(against.contains_key(reason), "{reason}: {against:?}");
    }
}

/// The trace is whole and agrees with what was counted apart from it.
fn check_trace(trace: &Value, stats: &Value) {
    let switches = ["switches_to_direct", "switches_to_translator"]
        .map(|name| number(stats, &format!("/decisions/{name}")));
    assert_eq!(trace["complete"], true, "{trace:#}");
    assert_eq!(trace["lost"], 0, "{trace:#}");
    assert_eq!(trace["switches"], switches[0] + switches[1], "{trace:#}");
    assert_eq!(
        trace["switches_by_reason"], stats["decisions"]["switches_by_reason"],
        "{trace:#}"
    );
}

fn switches_at_random(nested_paging: bool) {
    if !programs::installed("qemu-system-x86_64") {
        return;
    }
    let guest = guests::debian_686(Session::Scripted).unwrap_or_else(|error| panic!("{error}"));
    let steps = [
        debian(
            "random",
            &guest,
            "",
            "--policy random --direct kvm=force --audit --stats stats.json --trace boot.trace",
        ),
        step("stats", "cat stats.json".to_owned()),
        step(
            "trace",
            "/payload/ringshift trace summary boot.trace --json".to_owned(),
        ),
    ];
    let results = run(nested_paging, &guest, &steps);
    let [random, stats, trace] = results.as_slice() else {
        panic!("{results:?}");
    };
    assert!(random.stdout.contains(guests::PASSED), "{}", random.stdout);
    let (stats, trace) = (json(&stats.stdout), json(&trace.stdout));
    check_trace(&trace, &stats);
    let (switches, addresses) = (number(&trace, "/switches"), number(&trace, "/addresses"));
    say(&format!(
        "policy random, npt={}: {switches} switches at {addresses} addresses",
        u8::from(nested_paging)
    ));
    assert!(switches >= 10_000, "{trace:#}");
    assert!(addresses >= 1_000, "{trace:#}");
}
