//! From guest code to the trace: each reason of the decision, the policy `adaptive`, and what
//! happens when the trace cannot be written. Without a usable `/dev/kvm` the tests that need direct
//! execution say so and do nothing.

mod common;

use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use common::{CS16, GDT, LIMITED, Program, SS16, SYSTEM_CALL, USER, op};
use decision::{Engine, EngineCosts, PolicySpec, Reasons, SwitchRecord};
use ringshift::direct;
use ringshift::exits::Ending;
use ringshift::helper::Watch;
use ringshift::machine::{DirectMode, Machine, MachineConfig, MachineError};
use ringshift::memory_size::MemorySize;
use ringshift::trace::{End, Header, Item, TraceReader};

/// What a run left in its trace.
struct Traced {
    header: Header,
    switches: Vec<SwitchRecord>,
    end: End,
}

impl Traced {
    /// Every reason that is in the trace, wherever.
    fn reasons(&self) -> Reasons {
        let mut all = Reasons::empty();
        for record in &self.switches {
            all |= record.reasons | record.stay.reasons;
        }
        for name in self.end.refusals_by_reason.keys() {
            all |= Reasons::from_name(name).unwrap_or_else(|| panic!("no reason {name}"));
        }
        all
    }

    /// Switches to direct execution at these addresses.
    fn to_direct(&self, from: u32, to: u32) -> usize {
        let there = |record: &&SwitchRecord| {
            record.to == Engine::Direct && (from..to).contains(&record.eip)
        };
        self.switches.iter().filter(there).count()
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.trace"))
}

fn config(policy: &str) -> MachineConfig {
    MachineConfig {
        memory: MemorySize::MIN,
        policy: Some(policy.parse().expect("a policy")),
        direct: DirectMode::Kvm,
        watch: Watch {
            timeout: Some(Duration::from_secs(60)),
            ..Watch::default()
        },
        ..MachineConfig::default()
    }
}

/// Runs a program to its end; `None` without direct execution, with a word about it.
fn run(name: &str, config: MachineConfig, program: &Program) -> Option<Traced> {
    let path = path(name);
    let config = MachineConfig {
        trace: Some(path.clone()),
        ..config
    };
    let mut machine = match Machine::new(config, program.guest()) {
        Ok(machine) => machine,
        Err(MachineError::Direct(error)) => {
            eprintln!("SKIPPED: no direct execution on this host: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let ending = machine
        .run()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(ending, Ending::PowerOff, "{name}");
    let losses = machine.finish_trace("power off").expect("there is a trace");
    assert_eq!(losses.lost, 0, "{name}: {losses:?}");
    let mut reader = TraceReader::open(&path).expect("a trace");
    let switches = (&mut reader)
        .map(|item| match item {
            Item::Switch(record) => record,
            Item::Loss { .. } => panic!("{name}: a loss"),
        })
        .collect::<Vec<_>>();
    assert_eq!(reader.warning(), None, "{name}");
    assert_eq!(switches.len() as u64, losses.written, "{name}");
    Some(Traced {
        header: reader.header().clone(),
        switches,
        end: reader.end().expect("an end").clone(),
    })
}

/// `or byte [GDT + selector + 6], 10h`: the descriptor's AVL bit, which means nothing to the
/// processor, differs from what the register holds. And a system call, at which direct execution
/// leaves.
fn change_descriptor(selector: u16) -> Vec<u8> {
    let at = GDT + u32::from(selector & !7) + 6;
    [&op(&[0x80, 0x0D], at)[..], &[0x10], &SYSTEM_CALL].concat()
}

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

#[test]
fn a_state_that_is_not_legal_stays_translated_with_its_reason() {
    let host = direct::host_report().support;
    let with = |change: &dyn Fn(&mut Program)| {
        let mut program = Program::new(&[0x90]);
        change(&mut program);
        program
    };
    let mut cases = vec![
        ("iopl", Reasons::IOPL, with(&|p| p.eflags |= 3 << 12)),
        (
            "if",
            Reasons::INTERRUPTS_OFF,
            with(&|p| p.eflags &= !(1 << 9)),
        ),
        (
            "v86",
            Reasons::V86_UNSUPPORTED,
            with(&|p| p.eflags |= 1 << 17 | 3 << 12),
        ),
        ("unpaged", Reasons::UNPAGED, with(&|p| p.paging = false)),
        (
            "debug-registers",
            Reasons::DEBUG_REGISTERS,
            // mov eax, 401h; mov dr7, eax: breakpoint 0, at address 0
            with(&|p| p.kernel = [&op(&[0xB8], 0x401)[..], &[0x0F, 0x23, 0xF8]].concat()),
        ),
        (
            "lar",
            Reasons::LONG_MODE_VISIBLE,
            // an available 16-bit TSS with DPL 3
            with(&|p| p.extra_descriptor = 0x0000_E100_0000_002B),
        ),
    ];
    if !host.compat16 {
        let program = with(&|p| p.entry = (CS16, 0));
        cases.push(("code16", Reasons::CODE_16_UNSUPPORTED, program));
    }
    if !host.stack16 {
        let program = with(&|p| p.ss = SS16);
        cases.push(("stack16", Reasons::STACK_16_UNSUPPORTED, program));
    }
    if !host.limits {
        let program = with(&|p| p.fs = LIMITED);
        cases.push(("limits", Reasons::LIMITS_UNCHECKED, program));
    }
    if !host.iopl {
        let program = with(&|p| p.eflags |= 1 << 12);
        cases.push(("iopl1", Reasons::IOPL_UNSUPPORTED, program));
    }
    for (name, reason, program) in cases {
        let Some(traced) = run(name, config(VMWARE), &program) else {
            return;
        };
        assert!(
            traced.reasons().contains(reason),
            "{name}: {}",
            traced.reasons()
        );
        assert_eq!(traced.switches, [], "{name} must not run directly");
    }
}

#[test]
fn what_the_host_keeps_runs_directly() {
    let host = direct::host_report().support;
    let mut limited = Program::new(&[0x90]);
    limited.fs = LIMITED;
    let mut iopl = Program::new(&[0x90]);
    iopl.eflags |= 1 << 12;
    let mut small = Program::new(&[0x90]);
    small.entry = (CS16, 0);
    for (name, supported, program) in [
        ("limited-direct", host.limits, limited),
        ("iopl-direct", host.iopl, iopl),
        ("code16-direct", host.compat16, small),
    ] {
        if !supported {
            eprintln!("SKIPPED: {name}: not on this host");
            continue;
        }
        let Some(traced) = run(name, config(VMWARE), &program) else {
            return;
        };
        assert!(!traced.switches.is_empty(), "{name}");
    }
}

#[test]
fn a_descriptor_that_has_changed_since_keeps_the_vcpu_translated() {
    for (name, selector, reason) in [
        ("cs", common::CS, Reasons::CS),
        ("ds", common::DS, Reasons::DS),
        ("es", common::ES, Reasons::ES),
        ("fs", common::FS, Reasons::FS),
        ("gs", common::GS, Reasons::GS),
        ("ss", common::SS, Reasons::SS),
    ] {
        let program = Program::new(&change_descriptor(selector));
        let Some(traced) = run(name, config(VMWARE), &program) else {
            return;
        };
        // The record of the exit after the change has the reason; no earlier one has it.
        let left: Vec<Reasons> = traced
            .switches
            .iter()
            .filter(|record| record.to == Engine::Translator)
            .map(|record| record.reasons)
            .collect();
        assert!(
            left[0].contains(reason | Reasons::REPLAY),
            "{name}: {left:?}"
        );
        // The return from the system call loads CS and SS anew; the others stay as they are.
        let back = matches!(name, "cs" | "ss");
        assert_eq!(left.len() > 1, back, "{name}: {left:?}");
    }
}

#[test]
fn single_step_and_interrupt_shadows_have_their_reasons() {
    // pushf; or dword [esp], 100h; popf; nop
    let step = [0x9C, 0x81, 0x0C, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9D, 0x90];
    let Some(traced) = run("tf", config(VMWARE), &Program::new(&step)) else {
        return;
    };
    assert!(
        traced.reasons().contains(Reasons::TRAP_FLAG),
        "{}",
        traced.reasons()
    );

    // mov eax, ss; mov ss, eax; nop; one instruction at a time
    let shadow = Program::new(&[0x8C, 0xD0, 0x8E, 0xD0, 0x90]);
    let config = config("random:direct=0,step=1");
    let Some(traced) = run("shadow", config, &shadow) else {
        return;
    };
    let reasons = traced.reasons();
    assert!(reasons.contains(Reasons::INTERRUPT_SHADOW), "{reasons}");
    assert!(reasons.contains(Reasons::POLICY), "{reasons}");
    assert_eq!(traced.switches, []);
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
    // As if translated code took five times as long as direct execution on this very host, so that the
    // times that the policy sees go with the costs that it is told.
    let fast = EngineCosts {
        translated_ps: Some(direct_ps * 5),
        ..measured
    };
    let slow = EngineCosts {
        translated_ps: Some((direct_ps / 2).max(1)),
        ..measured
    };
    // A stay that is worth many switches: in direct execution (four instructions a round), and as
    // fast as translated code really is (some nanoseconds a round).
    let direct_rounds = round_trip * 1_000 * 50 / (direct_ps * 4).max(1);
    let long = direct_rounds.max(round_trip * 2);
    let compute = rounds(4, u32::try_from(long).unwrap_or(u32::MAX));
    let storm = rounds(400, 1);
    let program = Program::new(&[&compute[..], &storm, &compute].concat());
    let (first, second) = (compute.len() as u32, storm.len() as u32);

    // The guest has no timer, so that every arrival at ring 3 has to be looked at (`sample`).
    let with = |costs| MachineConfig {
        host_costs: Some(costs),
        ..config("adaptive:retry=1,window=2,sample=1000000")
    };
    let Some(traced) = run("adaptive-fast", with(fast), &program) else {
        return;
    };
    let parts = [
        traced.to_direct(USER, USER + first),
        traced.to_direct(USER + first, USER + first + second),
        traced.to_direct(USER + first + second, USER + 2 * first + second),
    ];
    assert!(
        parts[0] >= 3,
        "the first computation runs directly: {parts:?}"
    );
    assert!(parts[1] <= 60, "the storm is translated: {parts:?}");
    assert!(
        parts[2] >= 1,
        "the second computation runs directly again: {parts:?}"
    );
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
