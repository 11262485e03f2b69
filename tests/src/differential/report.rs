//! The text of a failure: everything that is needed to find the bug.

use super::compare::Difference;
use super::guest::World;
use crate::generate::{Case, Sequence};
use crate::native::{MachineState, Outcome};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use std::fmt::{self, Write as _};

/// A case, or a sequence, whose outcomes differ.
#[derive(Debug)]
pub struct Failure {
    /// Its instructions, by which failures are counted.
    pub name: String,
    /// What was run, as text.
    pub description: String,
    /// Where it was run.
    pub world: World,
    /// Registers before.
    pub start: MachineState,
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
        let mut kinds = vec![format!("{:?}", self.world)];
        kinds.extend(self.differences.iter().map(Difference::kind));
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
        f.write_str(&self.description)?;
        writeln!(f, "  world:     {:?}", self.world)?;
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(f, "  differs:   {difference}")?;
        }
        if self.differences.len() > SHOWN {
            writeln!(f, "  and {} more", self.differences.len() - SHOWN)?;
        }
        show(f, "start", &self.start)?;
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

/// A case as text: what it is, how to reproduce it, its bytes and operands.
pub fn describe(case: &Case, seed: u64) -> String {
    let mut text = format!("{}  case {}\n", case.form, case.number);
    let _ = writeln!(text, "  reproduce: {}", case.reproduce(seed));
    describe_code(&mut text, case);
    for patch in &case.patches {
        let (linear, data) = (patch.linear, &patch.data);
        let _ = writeln!(text, "  memory:    {linear:08x} {data:02x?}");
    }
    text
}

/// The same of a sequence.
pub fn describe_sequence(sequence: &Sequence, seed: u64) -> String {
    let mut text = format!("sequence {}\n", sequence.number);
    let _ = writeln!(text, "  reproduce: {}", sequence.reproduce(seed));
    // The whole, with the branches between the parts.
    let bits = sequence
        .parts
        .first()
        .map_or(32, |part| part.form.environment.bitness());
    let start = u64::from(sequence.start.eip);
    let decoder = Decoder::with_ip(bits, &sequence.bytes, start, DecoderOptions::NONE);
    for instruction in decoder {
        let mut disassembly = String::new();
        IntelFormatter::new().format(&instruction, &mut disassembly);
        let offset = (instruction.ip() - start) as usize;
        let bytes = &sequence.bytes[offset..offset + instruction.len()];
        let _ = writeln!(
            text,
            "  {:08x}   {bytes:02x?}  {disassembly}",
            instruction.ip()
        );
    }
    for operand in sequence.parts.iter().flat_map(|part| &part.operands) {
        let (segment, offset) = (operand.segment, operand.offset);
        let linear = operand.linear;
        let _ = writeln!(text, "  operand:   {segment:?}:{offset:08x} = {linear:08x}");
    }
    text
}

fn describe_code(text: &mut String, case: &Case) {
    let mut disassembly = String::new();
    IntelFormatter::new().format(&case.instruction, &mut disassembly);
    let _ = writeln!(text, "  guest:     {:02x?}  {disassembly}", case.bytes);
    for operand in &case.operands {
        let (segment, offset) = (operand.segment, operand.offset);
        let linear = operand.linear;
        let _ = writeln!(text, "  operand:   {segment:?}:{offset:08x} = {linear:08x}");
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
