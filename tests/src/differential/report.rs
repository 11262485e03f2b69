//! The text of a failure: everything that is needed to find the bug.

use super::compare::Difference;
use crate::generate::Case;
use crate::native::{MachineState, Outcome};
use iced_x86::{Formatter, IntelFormatter};
use std::fmt;

/// A case whose outcomes differ.
#[derive(Debug)]
pub struct Failure {
    /// The case.
    pub case: Box<Case>,
    /// The seed of the run.
    pub seed: u64,
    /// What the processor did.
    pub native: Outcome,
    /// What the guest did, or why it did nothing.
    pub translated: Result<Outcome, String>,
    /// What differs.
    pub differences: Vec<Difference>,
    /// The emitted host code.
    pub listing: String,
}

impl Failure {
    /// The kinds of what differs: a name for its likely cause.
    pub fn signature(&self) -> String {
        let mut kinds: Vec<String> = self.differences.iter().map(Difference::kind).collect();
        kinds.dedup();
        if let Err(reason) = &self.translated {
            kinds.push(reason.chars().take(40).collect());
        }
        kinds.join(", ")
    }
}

/// Differences that are printed before the rest is only counted.
const SHOWN: usize = 12;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = &self.case;
        let mut text = String::new();
        IntelFormatter::new().format(&case.instruction, &mut text);
        writeln!(f, "{}  case {}", case.form, case.number)?;
        writeln!(f, "  reproduce: {}", case.reproduce(self.seed))?;
        write!(f, "  guest:    ")?;
        case.bytes
            .iter()
            .try_for_each(|byte| write!(f, " {byte:02x}"))?;
        writeln!(f, "  {text}")?;
        for operand in &case.operands {
            let (segment, offset) = (operand.segment, operand.offset);
            let linear = operand.linear;
            writeln!(f, "  operand:   {segment:?}:{offset:08x} = {linear:08x}")?;
        }
        for patch in &case.patches {
            writeln!(f, "  memory:    {:08x} {:02x?}", patch.linear, patch.data)?;
        }
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(f, "  differs:   {difference}")?;
        }
        if self.differences.len() > SHOWN {
            writeln!(f, "  and {} more", self.differences.len() - SHOWN)?;
        }
        show(f, "start", &case.start)?;
        show(f, "native", &self.native.state)?;
        match &self.translated {
            Ok(outcome) => show(f, "translated", &outcome.state)?,
            Err(reason) => writeln!(f, "  translated: {reason}")?,
        }
        if !self.listing.is_empty() {
            writeln!(f, "  host code:")?;
            self.listing
                .lines()
                .try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, name: &str, state: &MachineState) -> fmt::Result {
    writeln!(
        f,
        "  {name:<10} eip {:08x} eflags {:08x} gpr {:08x?} seg {:04x?}",
        state.eip, state.eflags, state.gpr, state.selectors
    )?;
    writeln!(
        f,
        "  {:<10} fcw {:02x}{:02x} fsw {:02x}{:02x} ftw {:02x} mxcsr {:02x}{:02x}{:02x}{:02x}",
        "",
        state.fx[1],
        state.fx[0],
        state.fx[3],
        state.fx[2],
        state.fx[4],
        state.fx[27],
        state.fx[26],
        state.fx[25],
        state.fx[24]
    )
}
