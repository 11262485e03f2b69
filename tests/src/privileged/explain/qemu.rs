//! Where QEMU's TCG differs from the manual, and why.

use super::super::Field;
use super::super::layout as at;
use super::super::model::{flag, vector as v};
use super::super::op::Op;
use super::super::world::tss32;
use super::{Difference, Rule, Subject};

const fn rule(
    name: &'static str,
    reason: &'static str,
    explains: fn(&Subject<'_>) -> bool,
) -> Rule {
    Rule {
        name,
        reason,
        everywhere: false,
        explains,
    }
}

/// Bits of CR0 that mean nothing.
const CR0_RESERVED: u32 = !0xE005_003F;
/// The accessed bit in the upper word of a descriptor.
const ACCESSED: u32 = 1 << 8;

/// The upper half of a register.
fn upper_half(s: &Subject<'_>) -> bool {
    matches!(s.difference, Difference::Field { expected, found, .. }
        if (expected ^ found) & 0xFFFF == 0)
}

/// Flags that a task switch has saved in a 32-bit TSS differ in these bits, and in no others.
fn saved_flags(s: &Subject<'_>, bits: u32) -> bool {
    let tasks = [at::TSS, at::TSS_OTHER].map(|task| task + tss32::EFLAGS);
    matches!(s.difference, Difference::Word { address, expected, found }
        if tasks.contains(&address) && (expected ^ found) & !bits == 0)
}

/// The machine has zeros where ones are expected, and nothing else differs.
fn zeros_for_ones(s: &Subject<'_>) -> bool {
    match s.difference {
        Difference::Field {
            expected, found, ..
        }
        | Difference::Word {
            expected, found, ..
        } => (expected ^ found) & found == 0,
        Difference::Stopped => false,
    }
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "RF",
        reason: "TCG saves EFLAGS as they are when it delivers a fault; SDM vol. 3B, 17.3.1.1: the image of a fault has RF set, on the stack or in the TSS",
        everywhere: true,
        explains: |s| s.only_bits(Field::Eflags, flag::RF) || saved_flags(s, flag::RF),
    },
    rule(
        "LOCK",
        "TCG ignores LOCK on most instructions that cannot be locked, or checks the privilege level first; SDM vol. 2A, LOCK: #UD, which comes with decoding",
        |s| {
            // MOV DS loads a selector that is none.
            let faults = s.case.mode.cpl() != 0 || s.case.code.get(1) == Some(&0x8E);
            let unlocked = s.ran() || faults && s.refused(v::GP);
            s.case.instruction == "LOCK" && unlocked
        },
    ),
    rule(
        "reserved bits of CR0",
        "TCG keeps the reserved bits of CR0; SDM vol. 2B, MOV to CR: they remain clear",
        |s| s.case.instruction == "MOV to CR" && s.only_bits(Field::Cr0, CR0_RESERVED),
    ),
    rule(
        "NW without CD",
        "TCG takes CR0.NW without CD; SDM vol. 2B, MOV to CR: #GP",
        |s| s.ends(&["MOV to CR"], v::GP, v::UD) && s.named("CR0 = "),
    ),
    rule(
        "VME",
        "TCG has CR4.VME and PVI; the processor here has no VME",
        |s| s.ends(&["MOV to CR"], v::GP, v::UD) && s.named("CR4 = "),
    ),
    rule(
        "missing registers",
        "TCG checks the level before it finds that there is no such register; SDM vol. 3A, table 6-2: #UD comes with decoding, before #GP",
        |s| {
            let moves = ["MOV from CR", "MOV to CR", "MOV from DR", "MOV to DR"];
            s.ends(&moves, v::UD, v::GP)
        },
    ),
    rule(
        "unaligned ports",
        "an unaligned access to ports that no device has reads 0 in QEMU, whose I/O space takes aligned ones alone there; on a PC the bus floats and gives ones, and the SDM says nothing",
        |s| {
            let value = s.in_memory()
                || matches!(
                    s.difference,
                    Difference::Field {
                        field: Field::Eax,
                        ..
                    }
                );
            let wide = matches!(
                s.case.op,
                Op::In { size: 2 | 4, .. } | Op::Ins { size: 2 | 4 } | Op::RepIns { size: 2 | 4 }
            );
            wide && value && zeros_for_ones(s)
        },
    ),
    rule(
        "reserved bits of EFER",
        "TCG drops the bits of EFER that the processor has not; SDM vol. 2C, WRMSR: #GP",
        |s| s.ends(&["WRMSR"], v::GP, v::UD) && s.named("EFER"),
    ),
    rule(
        "missing MSRs",
        "TCG reads an MSR that does not exist as 0 and drops writes; SDM vol. 2B, RDMSR, and 2C, WRMSR: #GP",
        |s| s.ends(&["RDMSR", "WRMSR"], v::GP, v::UD) && !s.named("EFER"),
    ),
    rule(
        "RDPMC",
        "TCG has no performance counters: where RDPMC is allowed, #UD whatever ECX is",
        |s| {
            let allowed = s.case.mode.cpl() == 0 || s.case.state[Field::Cr4] & 0x100 != 0;
            s.case.instruction == "RDPMC" && allowed && s.refused(v::UD)
        },
    ),
    rule(
        "SYSENTER",
        "TCG takes IA32_SYSENTER_CS = 3; SDM vol. 2B, SYSENTER and SYSEXIT: #GP as all but bits 1 and 0 are 0",
        |s| s.ends(&["SYSENTER", "SYSEXIT"], v::GP, v::UD),
    ),
    rule(
        "general detect",
        "TCG has no DR7.GD; SDM vol. 3B, 17.2.4: #DB",
        |s| s.ends(&["MOV from DR", "MOV to DR"], v::DB, v::UD),
    ),
    rule(
        "MONITOR",
        "0F 01 C8 is MONITOR on the processor modelled there; the one here has no MONITOR, and #UD is right",
        |s| s.ends(&["SIDT"], v::UD, v::GP),
    ),
    rule(
        "null LTR",
        "TCG loads a null selector into TR; SDM vol. 2A, LTR: #GP",
        |s| s.ends(&["LTR"], v::GP, v::UD),
    ),
    rule(
        "pending x87 exception",
        "TCG reports a pending x87 exception at WAIT and few others; SDM vol. 1, 8.3.12: x87 instructions that wait, and MMX ones, report it",
        |s| s.ends(&["FLD1", "EMMS", "PXOR MMX"], v::MF, v::UD),
    ),
    rule(
        "EMMS",
        "TCG runs EMMS whatever CR0.EM and TS are; SDM vol. 2A, EMMS: #UD and #NM",
        |s| {
            let expected = [v::UD, v::NM].map(u32::from).contains(&s.vectors().0);
            s.case.instruction == "EMMS" && expected && s.ran()
        },
    ),
    rule(
        "EM and TS",
        "TCG looks at CR0.TS before EM; SDM vol. 3A, tables 12-1 and 13-1: #UD with EM, whatever TS is",
        |s| s.ends(&["PXOR MMX", "XORPS"], v::UD, v::NM),
    ),
    rule(
        "segment limits",
        "TCG does not check segment limits on accesses; SDM vol. 3A, 5.3: #GP, or #SS for SS",
        |s| {
            let expected = s.vectors().0;
            let faults = [v::GP, v::SS].map(u32::from).contains(&expected);
            s.case.instruction == "segment limit" && faults
                || s.named("memory beyond the limit")
                    && s.ends(&["SLDT", "STR", "SMSW"], v::GP, v::UD)
                || s.named("beyond the limit") && s.ends(&["FXSAVE", "FXRSTOR"], v::GP, v::UD)
                || s.named("a limit") && s.ends(&["REP INS", "REP OUTS"], v::GP, v::UD)
        },
    ),
    rule(
        "segment types",
        "TCG does not look at type and presence of a segment on accesses; SDM vol. 3A, 5.4: #GP",
        |s| s.ends(&["segment rights"], v::GP, v::UD),
    ),
    rule(
        "stack limits",
        "TCG does not check the limit of SS when it pushes and pops, nor for an exception's frame; SDM vol. 3A, 5.3: #SS, and a double fault if the frame does not fit either",
        |s| {
            let expected = s.vectors().0;
            let stack = ["PUSH", "POP"].contains(&s.case.instruction);
            stack && [v::SS, v::DF].map(u32::from).contains(&expected)
                || s.ends(&["INT n"], v::SS, v::UD) && s.named("stack")
        },
    ),
    rule(
        "count of 0",
        "TCG looks at the I/O permission bitmap for REP INS and OUTS even if the count is 0; SDM vol. 2B, REP: with a count of 0 the instruction is not carried out",
        |s| s.denied_nothing(),
    ),
    rule(
        "reserved bits of MXCSR",
        "TCG loads any MXCSR; SDM vol. 2A, FXRSTOR: #GP",
        |s| s.ends(&["FXRSTOR"], v::GP, v::UD) && s.named("MXCSR "),
    ),
    rule(
        "upper half of ESP",
        "TCG loads SP alone on the way to an inner 16-bit stack; SDM vol. 2A, INT n and CALL: ESP is loaded",
        |s| s.upper_half_of_esp(),
    ),
    rule(
        "EXT",
        "TCG has no EXT bit in error codes; SDM vol. 3A, 6.13: it is set for what happens while an exception is delivered",
        |s| s.only_bits(Field::Error, 1),
    ),
    rule(
        "virtual-8086 mode and a 16-bit task",
        "TCG keeps VM in a switch to a 16-bit TSS; SDM vol. 3A, 7.6: the new task is not in virtual-8086 mode, as its EFLAGS have no such bit",
        |s| {
            let from = s.named("16-bit") && !s.case.mode.is_protected();
            from && s.switches(&[""])
                || s.switches(&["to Virtual8086"]) && s.named("handled by a task")
        },
    ),
    rule(
        "conforming code of a task",
        "TCG wants DPL = RPL of any code segment of a new task; SDM vol. 3A, table 6-6: DPL <= CPL if it is conforming",
        |s| s.switches(&["to Level(3): CS conforming"]),
    ),
    rule(
        "limit of the target",
        "TCG does not check the target of a gate or a return against the limit of its code segment; SDM vol. 2A, CALL, INT n, IRET, and 2B, RET: #GP",
        |s| {
            let instructions = ["INT n", "far CALL", "far RET", "IRET"];
            s.ends(&instructions, v::GP, v::UD) && (s.named("limit") || s.named("beyond"))
        },
    ),
    rule(
        "error code of a limit",
        "TCG gives the selector as the error code, after the push, when the target of a far CALL is beyond the limit; SDM vol. 2A, CALL: #GP(0), before",
        |s| s.ends(&["far CALL"], v::GP, v::GP) && s.named("limit 1ff"),
    ),
    rule(
        "conforming code behind a gate",
        "TCG enters conforming code behind a call gate at the segment's level; SDM vol. 3A, 5.8.4: the level stays, and so does the stack",
        |s| {
            let gate = s.case.instruction == "far CALL" && s.named("gate");
            let level = |cs: u32| cs & 3;
            gate && s.named("to type 1f")
                && level(s.found(Field::Cs)) < level(s.expected.state[Field::Cs])
        },
    ),
    rule(
        "accessed bit of code",
        "TCG does not set the accessed bit of a code segment that a jump or call enters; SDM vol. 3A, 3.4.5.1",
        |s| {
            matches!(s.difference, Difference::Word { expected, found, .. }
                if expected ^ found == ACCESSED)
        },
    ),
    rule(
        "absent stack",
        "TCG gives #NP for an outer stack segment that is not present; SDM vol. 2A, IRET, vol. 2B, RET, and vol. 3A, interrupt 11: #SS",
        |s| s.ends(&["IRET", "far RET"], v::SS, v::NP) && s.named("stack absent"),
    ),
    rule(
        "from V86 to level 1",
        "TCG takes an interrupt from virtual-8086 mode through a gate to level 1; SDM vol. 2A, INT n: #GP unless the level is 0",
        |s| s.ends(&["INT n"], v::GP, v::UD) && s.named("to level 1"),
    ),
    rule(
        "absent inner stack",
        "TCG gives #TS for an inner stack segment that is not present; SDM vol. 2A, INT n: #SS",
        |s| s.ends(&["INT n", "far CALL"], v::SS, v::TS),
    ),
    rule(
        "absent code behind a gate",
        "TCG gives #GP for a JMP through a call gate to code that is not present; SDM vol. 2A, JMP: #NP",
        |s| s.ends(&["far JMP"], v::NP, v::GP) && s.named("to absent"),
    ),
    rule(
        "16-bit task",
        "TCG keeps the upper halves of the registers in a switch to a 16-bit TSS, Bochs fills them with ones; the SDM says nothing, and the model is with Bochs",
        |s| s.switches(&["16-bit", "handled by a task"]) && upper_half(s),
    ),
    rule(
        "task gate to no task",
        "TCG gives #TS for a task gate that leads to something else than a TSS; SDM vol. 2A, CALL, INT n, JMP: #GP",
        |s| s.ends(&["task switch"], v::GP, v::TS),
    ),
    rule(
        "failed task",
        "TCG delivers a fault of the new task's LDT, CS or SS at the old task's level, and on a stack at base 0 if that is the handler's; SDM vol. 3A, 7.3 and interrupt 10: the fault is the new task's, at the level of its CS, and segment registers not yet checked may not be usable: a handler of the same level has no stack there, and a double fault follows",
        |s| s.switches(&[": LDT ", ": CS ", ": SS "]) && !s.named("handled by a task"),
    ),
    rule(
        "EIP of a failed task",
        "TCG saves the old task's EIP, or the offset in its page, with a fault that the new task's segments or EIP cause; SDM vol. 3A, interrupt 10: the fault is the new task's",
        |s| {
            // Of EIP, the offset in its page.
            let old = |eip: u32| (eip ^ s.case.state[Field::Eip]) & 0xFFF == 0;
            let saved = match s.difference {
                Difference::Field { field, found, .. } => field == Field::Eip && old(found),
                Difference::Word { address, found, .. } => {
                    address == at::TSS_OTHER + tss32::EIP && old(found)
                }
                Difference::Stopped => false,
            };
            saved && s.switches(&[""])
        },
    ),
];
