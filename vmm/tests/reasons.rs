//! Each reason of the decision, from the guest code that causes it to the record in the trace. Without
//! a usable `/dev/kvm` the tests say so and do nothing.

mod common;

use common::traced::{config, run};
use common::{AGAIN, CS16, GDT, LIMITED, Program, SECOND, SS16, SYSTEM_CALL, USER, op};
use decision::{Engine, HostSupport, PolicySpec, Reasons, Rules};
use ringshift::direct;
use ringshift::machine::MachineConfig;

const VMWARE: &str = "vmware";

/// A guest program and what keeps its first part from direct execution. The second part, behind
/// [`AGAIN`], is in a plain state: its first switch ends the stay that the reason is met in.
struct Case {
    reason: Reasons,
    program: Program,
    config: MachineConfig,
}

/// A program of no effect, changed.
fn case(reason: Reasons, change: impl FnOnce(&mut Program)) -> Case {
    let mut program = Program::new(&[&[0x90][..], &AGAIN].concat());
    change(&mut program);
    Case {
        reason,
        program,
        config: config(VMWARE),
    }
}

/// The same on a host without a mode.
fn without(reason: Reasons, modes: HostSupport, change: impl FnOnce(&mut Program)) -> Case {
    let plain = case(reason, change);
    Case {
        config: MachineConfig {
            without: modes,
            ..plain.config
        },
        ..plain
    }
}

/// One instruction at a time in the first part, direct execution in the second.
fn step_by_step() -> PolicySpec {
    let text = format!("name step\nstep eip={USER:#x}..{:#x}\ndirect", SECOND - 1);
    PolicySpec::Rules(Rules::parse(&text).expect("rules"))
}

fn cases() -> Vec<Case> {
    let none = HostSupport::NONE;
    let flags = |set: u32| move |program: &mut Program| program.eflags |= set;
    let mut shadow = case(Reasons::INTERRUPT_SHADOW, |p| {
        // mov eax, ss; mov ss, eax; nop
        p.code = [&[0x8C, 0xD0, 0x8E, 0xD0, 0x90][..], &AGAIN].concat();
    });
    shadow.config.policy = Some(step_by_step());
    let mut policy = case(Reasons::POLICY, |_| {});
    policy.config.policy = Some(step_by_step());
    vec![
        // These are met on the way to ring 3 as well, but there it is they that keep ring 3 translated.
        case(Reasons::IOPL, flags(3 << 12)),
        case(Reasons::INTERRUPTS_OFF, |p| p.eflags &= !(1 << 9)),
        case(Reasons::V86_UNSUPPORTED, flags(1 << 17 | 3 << 12)),
        case(Reasons::UNPAGED, |p| p.paging = false),
        case(Reasons::DEBUG_REGISTERS, |p| {
            // mov eax, 401h; mov dr7, eax: breakpoint 0, at address 0
            p.kernel = [&op(&[0xB8], 0x401)[..], &[0x0F, 0x23, 0xF8]].concat();
        }),
        case(Reasons::LONG_MODE_VISIBLE, |p| {
            // an available 16-bit TSS with DPL 3
            p.extra_descriptor = 0x0000_E100_0000_002B;
        }),
        shadow,
        policy,
        without(
            Reasons::CODE_16_UNSUPPORTED,
            HostSupport {
                compat16: true,
                ..none
            },
            |p| p.entry = (CS16, 0),
        ),
        without(
            Reasons::STACK_16_UNSUPPORTED,
            HostSupport {
                stack16: true,
                ..none
            },
            |p| p.ss = SS16,
        ),
        without(
            Reasons::LIMITS_UNCHECKED,
            HostSupport {
                limits: true,
                ..none
            },
            |p| p.fs = LIMITED,
        ),
        without(
            Reasons::IOPL_UNSUPPORTED,
            HostSupport { iopl: true, ..none },
            flags(1 << 12),
        ),
        // 16-bit code is what runs directly there.
        without(
            Reasons::CODE_32_UNSUPPORTED,
            HostSupport {
                compat32: true,
                ..none
            },
            |p| p.second = (CS16, SECOND - USER),
        ),
    ]
}

#[test]
fn what_is_not_legal_stays_translated_until_it_is() {
    let host = direct::host_report().support;
    for case in cases() {
        let name = case.reason.to_string();
        let second = case.program.second;
        if second.0 == CS16 && !host.compat16 {
            eprintln!("SKIPPED: {name}: this host runs no 16-bit code");
            continue;
        }
        let Some(traced) = run(&name, case.config, &case.program) else {
            return;
        };
        let first = traced
            .switches
            .first()
            .expect("the second part runs directly");
        assert_eq!(
            (first.to, first.cs, first.eip, first.reasons),
            (Engine::Direct, second.0, second.1, Reasons::empty()),
            "{name}"
        );
        assert!(
            first.stay.reasons.contains(case.reason),
            "{name}: {}",
            first.stay.reasons
        );
        assert!(
            traced.end.refusals_by_reason[&name] > 0,
            "{name}: {:?}",
            traced.end.refusals_by_reason
        );
    }
}

#[test]
fn what_the_host_runs_is_run_directly() {
    let host = direct::host_report().support;
    let mut limited = Program::new(&[0x90]);
    limited.fs = LIMITED;
    let mut iopl = Program::new(&[0x90]);
    iopl.eflags |= 1 << 12;
    let mut small = Program::new(&[0x90]);
    small.entry = (CS16, 0);
    let mut stack = Program::new(&[0x90]);
    stack.ss = SS16;
    for (name, supported, program) in [
        ("limited-direct", host.limits, limited),
        ("iopl-direct", host.iopl, iopl),
        ("code16-direct", host.compat16, small),
        ("stack16-direct", host.stack16, stack),
    ] {
        if !supported {
            eprintln!("SKIPPED: {name}: not on this host");
            continue;
        }
        let Some(traced) = run(name, config(VMWARE), &program) else {
            return;
        };
        assert_eq!(traced.switches[0].to, Engine::Direct, "{name}");
        assert_eq!(traced.switches[0].eip & 0xFFFF, program.entry.1 & 0xFFFF);
    }
}

/// `or byte [GDT + selector + 6], 10h`: the descriptor's AVL bit, which means nothing to the
/// processor, differs from what the register holds. And a system call, at which direct execution
/// leaves.
fn change_descriptor(selector: u16) -> Vec<u8> {
    let at = GDT + u32::from(selector & !7) + 6;
    [&op(&[0x80, 0x0D], at)[..], &[0x10], &SYSTEM_CALL].concat()
}

/// The registers and their reasons.
const SEGMENTS: [(u16, Reasons); 6] = [
    (common::CS, Reasons::CS),
    (common::DS, Reasons::DS),
    (common::ES, Reasons::ES),
    (common::FS, Reasons::FS),
    (common::GS, Reasons::GS),
    (common::SS, Reasons::SS),
];

#[test]
fn a_descriptor_that_has_changed_since_keeps_the_vcpu_translated() {
    for (selector, reason) in SEGMENTS {
        let name = format!("changed {reason}");
        let program = Program::new(&change_descriptor(selector));
        let Some(traced) = run(&name, config(VMWARE), &program) else {
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
        let back = matches!(reason, Reasons::CS | Reasons::SS);
        assert_eq!(left.len() > 1, back, "{name}: {left:?}");
    }
}

#[test]
fn a_single_step_has_its_reason() {
    // pushf; or dword [esp], 100h; popf; nop
    let step = [0x9C, 0x81, 0x0C, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9D, 0x90];
    let Some(traced) = run("tf", config(VMWARE), &Program::new(&step)) else {
        return;
    };
    let mut records = traced.switches.iter();
    assert!(records.any(|record| record.reasons.contains(Reasons::TRAP_FLAG)));
}

/// What a kernel meets that masks interrupts.
const KERNEL: Reasons = Reasons::NOT_RING_3
    .union(Reasons::IOPL)
    .union(Reasons::INTERRUPTS_OFF);

#[test]
fn the_way_to_ring_3_and_a_system_call_have_their_reasons() {
    let Some(traced) = run("boot", config(VMWARE), &Program::new(&SYSTEM_CALL)) else {
        return;
    };
    let [there, left, back, ..] = traced.switches.as_slice() else {
        panic!("{:?}", traced.switches);
    };
    assert!(there.stay.reasons.contains(Reasons::REAL_MODE), "{there:?}");
    assert_eq!(left.reasons, Reasons::REPLAY);
    assert_eq!(left.stay.reasons, Reasons::empty());
    assert!(
        back.stay.reasons.contains(KERNEL | Reasons::REPLAY),
        "{back:?}"
    );
}

#[test]
fn no_reason_is_without_a_test() {
    let mut tested = KERNEL | Reasons::REAL_MODE | Reasons::REPLAY | Reasons::TRAP_FLAG;
    for (_, reason) in SEGMENTS {
        tested |= reason;
    }
    for case in cases() {
        tested |= case.reason;
    }
    assert_eq!(
        tested,
        Reasons::all(),
        "missing: {}",
        Reasons::all() - tested
    );
}
