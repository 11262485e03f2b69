//! Switches to tasks at other levels and in virtual-8086 mode, and to tasks whose state is bad.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Far, Op};
use super::super::world::{access, descriptor_address, flag, kind, tss32};
use super::tasks::far;
use super::{of, protected};

/// The vector of the task gate.
const VECTOR: u8 = 0x40;
/// EFLAGS.NT.
const NT: u32 = 1 << 14;
/// The task that cases switch to.
const TASK: u32 = at::TSS_OTHER;
const LDT: u32 = TASK + tss32::LDT;
const EIP: u32 = TASK + tss32::EIP;

/// The selector of a segment register in the task, in encoding order.
const fn segment(index: u32) -> u32 {
    TASK + tss32::ES + 4 * index
}

/// What switches to the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Jump,
    Call,
    /// INT n through a task gate.
    Gate,
    /// IRET with NT set.
    Return,
}

/// What the task is like where it is not bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum New {
    Level(u8),
    Virtual8086,
}

pub(super) fn add(cases: &mut Vec<Case>) {
    let ways = [Way::Jump, Way::Call, Way::Gate, Way::Return];
    for way in ways {
        for cpl in 0..4 {
            tasks(cases, protected(cpl, true), way);
        }
    }
    tasks(cases, Mode::Virtual8086 { iopl: 3 }, Way::Gate);
}

fn tasks(cases: &mut Vec<Case>, mode: Mode, way: Way) {
    for new in [
        New::Level(0),
        New::Level(1),
        New::Level(2),
        New::Level(3),
        New::Virtual8086,
    ] {
        cases.push(switch(mode, way, new, "good"));
    }
    for new in [New::Level(0), New::Level(3)] {
        for by_task in [false, true] {
            bad_tasks(cases, mode, way, new, by_task);
        }
    }
    // Of what virtual-8086 mode loads, the LDT alone can be bad.
    for by_task in [false, true] {
        let case = switch(mode, way, New::Virtual8086, "LDT beyond");
        let case = case.memory(LDT, 4, selector::BEYOND.into());
        cases.push(handled(case, by_task));
        let case = switch(mode, way, New::Virtual8086, "EIP beyond the limit");
        cases.push(handled(case.memory(EIP, 4, 0x1_0000), by_task));
    }
}

/// A switch to the task.
fn switch(mode: Mode, way: Way, new: New, name: &str) -> Case {
    let name = format!("{way:?} to {new:?}: {name}");
    let gate = Raw::gate(selector::TSS_OTHER, 0, access(3, kind::TASK), 0);
    let case = match way {
        Way::Jump => far(mode, Far::Jump, selector::TSS_OTHER, name),
        Way::Call => far(mode, Far::Call, selector::TSS_OTHER, name),
        Way::Gate => {
            let op = Op::Int(VECTOR);
            Case::new("task switch", name, mode, [0xCD, VECTOR], op).gate(VECTOR, gate)
        }
        Way::Return => Case::new("IRET", name, mode, [0xCF], Op::Iret { size: 4 })
            .memory(at::TSS + tss32::LINK, 2, selector::TSS_OTHER.into())
            .with_bits(Field::Eflags, NT),
    };
    let busy = if way == Way::Return {
        kind::TSS_32_BUSY
    } else {
        kind::TSS_32
    };
    let descriptor = descriptor_address(selector::TSS_OTHER) + 5;
    let case = case.memory(descriptor, 1, access(3, busy).into());
    match new {
        New::Level(level) => {
            let code = of(selector::CODE_32, level);
            let data = of(selector::DATA_32, level);
            [data, code, data, data]
                .into_iter()
                .zip(0..)
                .fold(case, |case, (value, n)| {
                    case.memory(segment(n), 4, value.into())
                })
        }
        New::Virtual8086 => {
            // Code and stack at base 0, data somewhere else.
            [0x10, 0, 0, 0x20, 0x30, 0x40]
                .into_iter()
                .zip(0..)
                .fold(case, |case, (value, n)| case.memory(segment(n), 4, value))
                .memory(TASK + tss32::EFLAGS, 4, 0x2_3002)
        }
    }
}

/// With `by_task` #TS, #NP, #SS and #GP are handled by a task, as the manual asks for #TS (Intel SDM
/// vol. 3A, interrupt 10): it leaves the state of the new task in its TSS.
fn handled(case: Case, by_task: bool) -> Case {
    if !by_task {
        return case;
    }
    let gate = Raw::gate(selector::TSS_16, 0, access(0, kind::TASK), 0);
    let mut case = (10..=13).fold(case, |case, vector| case.gate(vector, gate));
    case.name.push_str(", handled by a task");
    case
}

/// Tasks whose state is bad: the exception is the new task's.
fn bad_tasks(cases: &mut Vec<Case>, mode: Mode, way: Way, new: New, by_task: bool) {
    let New::Level(level) = new else { return };
    // Another level, for what must be the task's own.
    let other = 3 - level;
    let victim = selector::VICTIM;
    let beyond = u32::from(selector::BEYOND);
    let raw = |dpl: u8, kind: u8| Raw::segment(0, 0xFFFF, access(dpl, kind), flag::DB);
    let absent = |kind: u8| Raw::segment(0, 0xFFFF, access(level, kind) & 0x7F, flag::DB);
    let mut with = |name: &str, address: u32, value: u32, raw: Raw| {
        let case = switch(mode, way, new, name).memory(address, 4, value);
        cases.push(handled(case.descriptor(victim, raw), by_task));
    };
    let v = u32::from(victim);
    let own = v + u32::from(level);
    with("LDT beyond", LDT, beyond, Raw(0));
    with("LDT local", LDT, 0x0C, Raw(0));
    with("LDT null", LDT, 0, Raw(0));
    with("LDT absent", LDT, v, absent(kind::LDT));
    with("LDT of another type", LDT, v, raw(3, kind::DATA));
    with("CS null", segment(1), level.into(), Raw(0));
    with("CS beyond", segment(1), beyond + u32::from(level), Raw(0));
    with("CS data", segment(1), own, raw(level, kind::DATA));
    with(
        "CS of another level",
        segment(1),
        own,
        raw(other, kind::CODE),
    );
    with("CS conforming", segment(1), own, raw(0, kind::CONFORMING));
    with(
        "CS conforming, dpl 3",
        segment(1),
        own,
        raw(3, kind::CONFORMING),
    );
    with("CS absent", segment(1), own, absent(kind::CODE));
    with("SS null", segment(2), level.into(), Raw(0));
    with("SS beyond", segment(2), beyond + u32::from(level), Raw(0));
    with("SS read-only", segment(2), own, raw(level, kind::DATA_READ));
    with("SS code", segment(2), own, raw(level, kind::CODE));
    with(
        "SS of another level",
        segment(2),
        own,
        raw(other, kind::DATA),
    );
    let rpl = v + u32::from(other);
    with(
        "SS with another RPL",
        segment(2),
        rpl,
        raw(level, kind::DATA),
    );
    with("SS absent", segment(2), own, absent(kind::DATA));
    for (register, n) in [("ES", 0), ("DS", 3), ("FS", 4), ("GS", 5)] {
        let mut with = |name: &str, value: u32, raw: Raw| {
            with(&format!("{register} {name}"), segment(n), value, raw);
        };
        with("null", 3, Raw(0));
        with("beyond", beyond, Raw(0));
        with("system", v, raw(3, kind::LDT));
        with("execute-only", v, raw(3, kind::CODE_EXECUTE));
        with("conforming", v, raw(0, kind::CONFORMING));
        with("of another level", v, raw(other, kind::DATA));
        with("with RPL 3", v + 3, raw(level, kind::DATA));
        with("absent", v, absent(kind::DATA));
    }
    with("EIP beyond the limit", EIP, 0x1_0000, Raw(0));
}
