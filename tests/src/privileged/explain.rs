//! Why QEMU and Bochs do not do what the manual says, where they do not. A rule explains a single
//! difference of a case; what no rule explains fails the test.

use super::Field;
use super::case::Case;
use super::machines::Machine;
use super::model::Expected;
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
        let found = self.outcome.field(&self.case.state, Field::Vector);
        (self.expected.state[Field::Vector], found)
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
    /// Whose rule it is.
    pub machine: Machine,
    /// A short name.
    pub name: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// It concerns nearly every case, which is counted as agreeing.
    pub everywhere: bool,
    /// Whether it explains a difference.
    pub explains: fn(&Subject<'_>) -> bool,
}

/// EFLAGS.RF.
const RF: u32 = 1 << 16;

/// All rules. Of those that explain a difference, the first counts.
pub const RULES: &[Rule] = &[Rule {
    machine: Machine::Qemu,
    name: "RF",
    reason: "TCG saves EFLAGS as they are when it delivers a fault; SDM vol. 3A, 17.3.1.1: the image of a fault has RF set",
    everywhere: true,
    explains: |subject| subject.only_bits(Field::Eflags, RF),
}];

/// The rule that explains a difference of `machine`.
#[must_use]
pub fn explanation(machine: Machine, subject: &Subject<'_>) -> Option<&'static Rule> {
    RULES
        .iter()
        .find(|rule| rule.machine == machine && (rule.explains)(subject))
}
