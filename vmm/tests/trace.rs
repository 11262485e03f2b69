//! From guest code to the trace: what a run leaves there, the policy `adaptive`, and what happens when
//! the trace cannot be written. Without a usable `/dev/kvm` the tests that need direct
//! execution say so and do nothing.

mod common;

use std::io::BufReader;
use std::time::Duration;

use common::traced::{Traced, config, path, run};
use common::{Program, SYSTEM_CALL, USER, op};
use decision::{Engine, EngineCosts, PolicySpec, Reasons};
use ringshift::direct;
use ringshift::exits::Ending;
use ringshift::helper::Watch;
use ringshift::machine::{Machine, MachineConfig, MachineError};
use ringshift::memory_size::MemorySize;
use ringshift::trace::TraceReader;

const VMWARE: &str = "vmware";

#[test]
fn a_plain_program_runs_directly_and_leaves_its_reasons() {
    let Some(traced) = run("plain", config(VMWARE), &Program::new(&SYSTEM_CALL)) else {
        return;
    };
    assert_eq!(traced.header.policy, "vmware");
    assert!(traced.header.direct && traced.header.support.compat32);
    assert_eq!(
        traced.reasons(),
        Reasons::REAL_MODE
            | Reasons::NOT_RING_3
            | Reasons::IOPL
            | Reasons::INTERRUPTS_OFF
            | Reasons::UNPAGED & traced.reasons()
            | Reasons::REPLAY
            | segments(&traced)
    );
    // In, out for the first system call, in, out for the second.
    assert_eq!(traced.switches.len(), 4);
    for (record, to) in traced
        .switches
        .iter()
        .zip([Engine::Direct, Engine::Translator].repeat(2))
    {
        assert_eq!((record.to, record.cpl), (to, 3));
        let expected = match to {
            Engine::Direct => Reasons::empty(),
            Engine::Translator => Reasons::REPLAY,
        };
        assert_eq!(record.reasons, expected);
    }
    assert!(traced.switches[1].exit == decision::ExitKind::SystemCall);
    assert_eq!(traced.switches[1].eip, USER);
    assert_eq!(traced.end.last[0].engine, Some(Engine::Translator));
}

/// Segment reasons of the kernel's start, where registers still hold what real mode left in them.
fn segments(traced: &Traced) -> Reasons {
    traced.reasons()
        & (Reasons::CS | Reasons::DS | Reasons::ES | Reasons::FS | Reasons::GS | Reasons::SS)
}

/// Rounds of `count` divisions and a system call. Divisions take their time in translated code too.
fn rounds(times: u32, count: u32) -> Vec<u8> {
    let inner = [
        &op(&[0xB9], count)[..],   // mov ecx, count
        &[0x31, 0xD2, 0xF7, 0xF6], // 1: xor edx, edx; div esi
        &[0x49, 0x75, 0xF9],       // dec ecx; jnz 1b
        &SYSTEM_CALL,
    ]
    .concat();
    let back = -(inner.len() as i32 + 3);
    [
        &op(&[0xBF], times)[..], // mov edi, times
        &op(&[0xBE], 3),         // mov esi, 3
        &inner,
        &[0x4F, 0x75, back as u8], // dec edi; jnz
    ]
    .concat()
}

#[test]
fn adaptive_changes_its_mind_when_the_program_does() {
    let measured = direct::host_report().costs;
    let (Some(direct_ps), Some(round_trip)) = (measured.direct_ps, measured.round_trip_ns) else {
        eprintln!("SKIPPED: no direct execution on this host");
        return;
    };
    // The times that the policy sees are those of this host, which may be several times slower in the run
    // than it was for the probe: what is beyond the round trip that the policy is told of looks like
    // computation. So it is told of one that takes far longer; and of translated code that takes five
    // times as long as direct execution.
    let round_trip = round_trip * 8;
    let fast = EngineCosts {
        translated_ps: Some(direct_ps * 5),
        round_trip_ns: Some(round_trip),
        ..measured
    };
    let slow = EngineCosts {
        translated_ps: Some((direct_ps / 2).max(1)),
        ..measured
    };
    // A stay that is worth many switches: in direct execution (four instructions a round), and as
    // fast as translated code really is (some nanoseconds a round).
    let direct_rounds = round_trip * 1_000 * 50 / (direct_ps * 4).max(1);
    let long = direct_rounds.max(round_trip);
    let compute = rounds(4, u32::try_from(long).unwrap_or(u32::MAX));
    let storm = rounds(400, 1);
    let program = Program::new(&[&compute[..], &storm, &compute].concat());
    let (first, second) = (compute.len() as u32, storm.len() as u32);

    // The guest has no timer, so that every arrival at ring 3 has to be looked at (`sample`).
    let with = |costs| MachineConfig {
        host_costs: Some(costs),
        // A KVM that interprets every instruction takes seconds for a computation.
        watch: Watch {
            timeout: Some(Duration::from_secs(300)),
            ..Watch::default()
        },
        ..config("adaptive:retry=1,window=2,sample=1000000")
    };
    // The policy goes by times, and a host that interrupts a system call for milliseconds makes it look
    // like a computation: that is measured again.
    const ATTEMPTS: usize = 3;
    let mut attempts = Vec::new();
    let traced = loop {
        let Some(traced) = run("adaptive-fast", with(fast), &program) else {
            return;
        };
        let parts = [
            traced.to_direct(USER, USER + first),
            traced.to_direct(USER + first, USER + first + second),
            traced.to_direct(USER + first + second, USER + 2 * first + second),
        ];
        attempts.push(parts);
        // Both computations run directly, the storm between them is translated.
        if parts[0] >= 3 && parts[1] <= 60 && parts[2] >= 1 {
            break traced;
        }
        assert!(attempts.len() < ATTEMPTS, "{attempts:?}");
    };
    assert!(traced.reasons().contains(Reasons::POLICY));

    let Some(traced) = run("adaptive-slow", with(slow), &program) else {
        return;
    };
    assert_eq!(traced.switches, [], "never pays");
    assert_eq!(traced.header.costs, slow);
}

#[test]
fn a_run_of_chance_ends_as_any_other() {
    let program = Program::new(&rounds(50, 7));
    let Some(traced) = run(
        "random",
        config("random:seed=3,direct=0.3,step=0.9"),
        &program,
    ) else {
        return;
    };
    let addresses: std::collections::HashSet<u32> =
        traced.switches.iter().map(|record| record.eip).collect();
    assert!(traced.switches.len() > 50, "{}", traced.switches.len());
    assert!(
        addresses.len() >= 5,
        "every instruction is a place to switch: {addresses:x?}"
    );
}

#[test]
fn rules_from_a_file_are_followed() {
    let text = format!("name here\ntranslate eip={USER:#x}\ndirect");
    let rules = decision::Rules::parse(&text).expect("rules");
    let config = MachineConfig {
        policy: Some(PolicySpec::Rules(rules)),
        ..config(VMWARE)
    };
    let Some(traced) = run("rules", config, &Program::new(&SYSTEM_CALL.repeat(3))) else {
        return;
    };
    assert_eq!(traced.to_direct(USER, USER + 1), 0);
    assert_eq!(traced.to_direct(USER + 1, USER + 16), 3);
    assert_eq!(traced.header.policy, "here");
}

#[test]
fn a_trace_that_cannot_be_created_is_an_error_before_the_run() {
    let config = MachineConfig {
        trace: Some("/nonexistent/trace".into()),
        ..MachineConfig::default()
    };
    let error = Machine::new(config, Program::new(&[]).guest()).expect_err("no such directory");
    assert!(matches!(error, MachineError::Trace { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/trace"), "{error}");
}

#[test]
fn a_machine_without_direct_execution_has_a_trace_without_switches() {
    let path = path("translated");
    let config = MachineConfig {
        memory: MemorySize::MIN,
        trace: Some(path.clone()),
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(config, Program::new(&SYSTEM_CALL).guest()).expect("a machine");
    assert_eq!(machine.run().expect("it ends"), Ending::PowerOff);
    let losses = machine.finish_trace("power off").expect("there is a trace");
    assert_eq!((losses.written, losses.lost), (0, 0));
    let mut reader: TraceReader<BufReader<_>> = TraceReader::open(&path).expect("a trace");
    assert_eq!((&mut reader).count(), 0);
    let end = reader.end().expect("an end");
    assert_eq!(end.last[0].engine, Some(Engine::Translator));
    assert!(end.refusals_by_reason["REAL_MODE"] > 0);
}
