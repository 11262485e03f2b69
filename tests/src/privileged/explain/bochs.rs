//! Where Bochs differs from the manual, and why.

use super::super::Field;
use super::super::model::{flag, vector as v};
use super::Rule;

const fn rule(
    name: &'static str,
    reason: &'static str,
    explains: fn(&super::Subject<'_>) -> bool,
) -> Rule {
    Rule {
        name,
        reason,
        everywhere: false,
        explains,
    }
}

pub(super) const RULES: &[Rule] = &[
    rule(
        "general detect",
        "Bochs saves RF clear; SDM vol. 3B, table 17-2: #DB of general detect is a fault, whose image has RF set",
        |s| s.named("GD") && s.only_bits(Field::Eflags, flag::RF),
    ),
    rule(
        "VME",
        "the processor modelled there has VME and so CR4.VME and PVI; the one here has not",
        |s| s.ends(&["MOV to CR"], v::GP, v::UD) && s.named("CR4 = "),
    ),
    rule(
        "MONITOR",
        "0F 01 C8 is MONITOR on the processor modelled there; the one here has no MONITOR, and #UD is right",
        |s| s.ends(&["SIDT"], v::UD, v::GP),
    ),
    rule(
        "count of 0",
        "Bochs looks at the I/O permission bitmap for REP INS and OUTS even if the count is 0; SDM vol. 2B, REP: with a count of 0 the instruction is not carried out",
        |s| s.denied_nothing(),
    ),
    rule(
        "limit of FXSAVE",
        "Bochs checks the parts of the operand that it uses, not all 512 bytes; SDM vol. 2A, FXSAVE and FXRSTOR: #GP if the operand is beyond the limit",
        |s| s.ends(&["FXSAVE", "FXRSTOR"], v::GP, v::UD) && s.named("beyond the limit"),
    ),
    rule(
        "upper half of ESP",
        "Bochs loads SP alone on the way to an inner 16-bit stack; SDM vol. 2A, INT n and CALL: ESP is loaded",
        |s| s.upper_half_of_esp(),
    ),
    rule(
        "frame in parts",
        "Bochs checks each push of an exception's frame on its own, so that a part is written before #SS makes it a double fault; SDM vol. 2A, INT n: the room for the frame is checked first",
        |s| s.vectors() == (v::DF.into(), v::DF.into()) && s.in_memory(),
    ),
    rule(
        "CALL pushes first",
        "Bochs pushes the return address before it checks the target against the limit; SDM vol. 2A, CALL: the check comes first",
        |s| s.ends(&["far CALL"], v::GP, v::GP) && s.in_memory(),
    ),
    rule(
        "IRET in V86",
        "Bochs takes an EIP beyond 64 KiB from IRETD in virtual-8086 mode and to it; SDM vol. 2A, IRET: #GP at the instruction",
        |s| s.case.instruction == "IRET" && s.named("to 14230"),
    ),
    rule(
        "absent stack",
        "Bochs gives #NP for an outer stack segment that is not present; SDM vol. 2A, IRET, vol. 2B, RET, and vol. 3A, interrupt 11: #SS",
        |s| s.ends(&["IRET", "far RET"], v::SS, v::NP) && s.named("stack absent"),
    ),
    rule(
        "failed task",
        "Bochs delivers a fault of the new task's LDT or SS at level 3, and loads CS last, so that it finds a stack; SDM vol. 3A, 7.3 and interrupt 10: the fault is the new task's, at the level of its CS, and segment registers not yet checked may not be usable: a handler of the same level has no stack there, and a double fault follows",
        |s| {
            let tasks = ["task switch", "IRET"];
            let own = [v::TS, v::NP, v::SS]
                .iter()
                .any(|&found| s.ends(&tasks, v::DF, found));
            own && s.switches(&[": LDT ", ": CS ", ": SS "])
        },
    ),
];
