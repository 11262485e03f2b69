//! Why QEMU and Bochs do not do what the manual says, where they do not. A rule explains a single
//! difference of a case; what no rule explains fails the test.

mod bochs;
mod qemu;

use super::Field;
use super::case::Case;
use super::machines::Machine;
use super::model::{Expected, vector};
use super::outcome::{Difference, Outcome};

/// A difference in its context.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The case.
    pub case: &'a Case,
    /// By the manual.
    pub expected: &'a Expected,
    /// By the machine.
    pub outcome: &'a Outcome,
    /// One value that differs.
    pub difference: Difference,
}

impl Subject<'_> {
    /// Vectors by the manual and by the machine.
    #[must_use]
    pub fn vectors(&self) -> (u32, u32) {
        (
            self.expected.state[Field::Vector],
            self.found(Field::Vector),
        )
    }

    /// A field by the machine.
    fn found(&self, field: Field) -> u32 {
        self.outcome.field(&self.case.state, field)
    }

    /// The machine carried the instruction out and went on behind it, to UD2.
    fn ran(&self) -> bool {
        let end = self.case.state[Field::Eip] + self.case.code.len() as u32;
        self.found(Field::Vector) == u32::from(vector::UD) && self.found(Field::Eip) == end
    }

    /// The machine ended at the instruction itself with `vector`.
    fn refused(&self, vector: u8) -> bool {
        self.found(Field::Vector) == u32::from(vector)
            && self.found(Field::Eip) == self.case.state[Field::Eip]
    }

    /// A task switch, to tasks whose name has one of `texts` in it.
    fn switches(&self, texts: &[&str]) -> bool {
        ["task switch", "IRET"].contains(&self.case.instruction)
            && texts.iter().any(|text| self.named(text))
    }

    /// REP INS or REP OUTS of nothing, where the bitmap denies the port.
    fn denied_nothing(&self) -> bool {
        let nothing = self.named("count 0, denied") || self.named("count 10000, denied");
        nothing && self.ends(&["REP INS", "REP OUTS"], vector::UD, vector::GP)
    }

    /// The upper half of ESP on an inner 16-bit stack, which is the TSS's by the manual.
    fn upper_half_of_esp(&self) -> bool {
        matches!(self.difference, Difference::Field { field: Field::Esp, expected, found }
            if (expected ^ found) & 0xFFFF == 0)
            && self.named("16-bit stack")
    }

    /// The case is one of an instruction, and these are its vectors by the manual and by the machine.
    fn ends(&self, instructions: &[&str], expected: u8, found: u8) -> bool {
        instructions.contains(&self.case.instruction)
            && self.vectors() == (expected.into(), found.into())
    }

    /// The description of the case has `text` in it.
    fn named(&self, text: &str) -> bool {
        self.case.name.contains(text)
    }

    /// A word of memory differs.
    fn in_memory(&self) -> bool {
        matches!(self.difference, Difference::Word { .. })
    }

    /// The difference is in these bits of a field, and in no others.
    fn only_bits(&self, wanted: Field, bits: u32) -> bool {
        matches!(self.difference, Difference::Field { field, expected, found }
            if field == wanted && (expected ^ found) & !bits == 0)
    }
}

/// Why a machine differs.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// A short name.
    pub name: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// It concerns nearly every case, which is counted as agreeing.
    pub everywhere: bool,
    /// Whether it explains a difference.
    pub explains: fn(&Subject<'_>) -> bool,
}

/// All rules of a machine. Of those that explain a difference, the first counts.
#[must_use]
pub fn rules(machine: Machine) -> &'static [Rule] {
    match machine {
        Machine::Ringshift => &[],
        Machine::Qemu => qemu::RULES,
        Machine::Bochs => bochs::RULES,
    }
}

/// The rule that explains a difference of `machine`.
#[must_use]
pub fn explanation(machine: Machine, subject: &Subject<'_>) -> Option<&'static Rule> {
    rules(machine).iter().find(|rule| (rule.explains)(subject))
}
