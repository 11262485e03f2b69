//! Which cases a machine runs: all but those that it would not come back from.

use super::case::{Case, Mode};
use super::machines::Machine;
use super::op::Op;

/// Cases that stop a machine, and why.
#[derive(Clone, Copy, Debug)]
pub struct LeftOut {
    /// The machine.
    pub machine: Machine,
    /// The reason.
    pub reason: &'static str,
    /// Whether it concerns a case.
    pub covers: fn(&Case) -> bool,
}

/// All of them.
pub const LEFT_OUT: &[LeftOut] = &[
    LeftOut {
        machine: Machine::Qemu,
        reason: "ICEBP: TCG has no such instruction and raises #UD (SDM vol. 2A, INT n, in editions from 2018 on: #DB)",
        covers: |case| case.op == Op::Icebp,
    },
    LeftOut {
        machine: Machine::Bochs,
        reason: "ICEBP in real mode: Bochs stops there (SDM vol. 2A, INT n: #DB)",
        covers: |case| case.op == Op::Icebp && case.mode == Mode::Real,
    },
    LeftOut {
        machine: Machine::Qemu,
        reason: "a far transfer to an EIP beyond 64 KiB in real and virtual-8086 mode, or a return to it: TCG runs on there, in memory that holds anything (SDM vol. 2A: #GP)",
        covers: |case| {
            let far = ["IRET", "far RET", "far JMP", "far CALL"];
            far.contains(&case.instruction)
                && case.name.contains("14230")
                && (!case.mode.is_protected() || case.name.contains("VM flags"))
        },
    },
    LeftOut {
        machine: Machine::Qemu,
        reason: "IRET outside level 0 with VM in the image: TCG enters virtual-8086 mode with what is on the stack (SDM vol. 2A, IRET: VM is taken at level 0 alone)",
        covers: |case| {
            let flags = ["flags 273ed7", "VM flags"];
            case.instruction == "IRET"
                && case.mode.is_protected()
                && case.mode.cpl() != 0
                && flags.iter().any(|text| case.name.contains(text))
        },
    },
];

/// The rule by which `machine` does not run `case`.
#[must_use]
pub fn reason(machine: Machine, case: &Case) -> Option<&'static str> {
    if machine == Machine::Qemu && case.fatal_to_qemu.is_some() {
        return case.fatal_to_qemu;
    }
    LEFT_OUT
        .iter()
        .find(|rule| rule.machine == machine && (rule.covers)(case))
        .map(|rule| rule.reason)
}

/// The cases that `machine` runs.
#[must_use]
pub fn cases(machine: Machine, all: &[Case]) -> Vec<Case> {
    let runs = |case: &&Case| reason(machine, case).is_none();
    all.iter().filter(runs).cloned().collect()
}
