//! Which cases a machine runs: Ringshift all of them, QEMU and Bochs an even part of each
//! instruction's, less those that they would not come back from.

use std::collections::BTreeMap;

use super::case::Case;
use super::machines::Machine;

/// Cases of one instruction that QEMU and Bochs run, at most about.
const PART: usize = 600;

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
pub fn left_out(machine: Machine, case: &Case) -> Option<&'static str> {
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
pub fn of(machine: Machine, all: &[Case]) -> Vec<Case> {
    if machine == Machine::Ringshift {
        return all.to_vec();
    }
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for case in all {
        *totals.entry(case.instruction).or_default() += 1;
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen = all.to_vec();
    chosen.retain(|case| {
        let number = seen.entry(case.instruction).or_default();
        *number += 1;
        let total = totals[case.instruction];
        is_chosen(*number, PART, total) && left_out(machine, case).is_none()
    });
    chosen
}

/// Chooses `part` of `total` numbers. The fractions of multiples of the golden ratio are spread evenly, and
/// out of step with the loops that cases are made by.
fn is_chosen(number: usize, part: usize, total: usize) -> bool {
    /// The fraction of the golden ratio, in units of 2^-32.
    const GOLDEN: u32 = 0x9E37_79B9;
    let place = (number as u32).wrapping_mul(GOLDEN);
    u64::from(place) * (total as u64) < (part as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::is_chosen;

    #[test]
    fn the_part_is_even() {
        let chosen = |total| (0..total).filter(|n| is_chosen(*n, 200, total)).count();
        assert_eq!(chosen(150), 150);
        assert!((195..=205).contains(&chosen(3000)), "{}", chosen(3000));
    }
}
