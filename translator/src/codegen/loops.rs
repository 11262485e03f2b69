//! Loops inside a unit.
//!
//! A backward jump to an instruction of its own unit goes straight there and not through a link: a loop
//! needs no unit of its own, and what the unit has made sure of - that FPU state is loaded - need not be
//! made sure of again in every iteration. That a unit has died is noticed all the same: it dies in Rust,
//! which then leaves it in front of its next instruction.

use super::asm::{Mem, host};
use super::builder::Builder;
use super::layout;
use iced_x86::{Instruction, Mnemonic};

/// An instruction of the unit, as the target of a jump.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    eip: u32,
    /// Offset in the unit of its first byte.
    host: usize,
    /// Offset behind the FPU check that it begins with, if it does.
    checked: Option<usize>,
}

/// What the builder knows of the instructions so far.
#[derive(Debug, Default)]
pub(super) struct Loops {
    heads: Vec<Head>,
    /// Instructions in front of this one are not jumped to: what comes in between may change what code
    /// depends on.
    barrier: usize,
    /// The poll of the jump at this EIP has been made already.
    polled: Option<u32>,
}

impl Builder<'_> {
    /// The instruction at hand begins here.
    pub(super) fn begin_instruction(&mut self, insn: &Instruction) {
        self.loops.heads.push(Head {
            eip: insn.ip32(),
            host: self.asm.offset(),
            checked: None,
        });
        // The processor makes one operation of a comparison and the jump behind it: the poll of the
        // jump comes in front of both.
        if !self.t.mode.is_single()
            && !self.after_sti
            && fuses(insn.mnemonic())
            && let Some(target) = self.backward_jump_behind(insn)
            && self.loop_target(target).is_some()
        {
            self.poll();
            self.loops.polled = Some(insn.next_ip32());
        }
    }

    /// The FPU check of the instruction at hand ends here.
    pub(super) fn note_fpu_check(&mut self) {
        let here = self.asm.offset();
        if let Some(head) = self.loops.heads.last_mut() {
            head.checked = Some(here);
        }
    }

    /// The instruction at hand is not an ordinary one: no jump leads back across it.
    pub(super) fn loop_barrier(&mut self) {
        self.loops.barrier = self.loops.heads.len();
    }

    /// Host address to jump to for `target`, if that is an instruction of the unit that can be jumped to.
    pub(super) fn loop_target(&self, target: u32) -> Option<u64> {
        if !self.t.loops || self.t.mode.is_single() || self.after_sti {
            return None;
        }
        let heads = self.loops.heads.get(self.loops.barrier..)?;
        let head = heads.iter().find(|head| head.eip == target)?;
        // A check that was made once holds until the unit is left.
        let offset = head.checked.unwrap_or(head.host);
        Some(self.t.origin + offset as u64)
    }

    /// A jump from the instruction at hand to `target` goes backwards.
    pub(super) fn is_backward(&self, target: u32) -> bool {
        let ip = self.loops.heads.last().map_or(self.t.eip, |head| head.eip);
        target <= ip
    }

    /// Looks for a kick in front of a jump backwards.
    pub(super) fn poll_if_backward(&mut self, target: u32) {
        if self.is_backward(target) && !self.t.mode.is_single() {
            self.poll();
        }
    }

    /// Looks for a kick in front of a conditional jump that stays in the unit, unless that has been done.
    /// One that leaves it looks on the way out: most such jumps end a loop or search, and are hardly ever taken.
    pub(super) fn poll_if_loop(&mut self, target: u32) {
        let ip = self.loops.heads.last().map(|head| head.eip);
        let polled = ip.is_some() && self.loops.polled == ip;
        if !polled && self.loop_target(target).is_some() {
            self.poll_if_backward(target);
        }
    }

    /// Faults when the vCPU is to leave. Uses R8.
    pub(super) fn poll(&mut self) {
        self.asm.load64(host::R8, layout::poll());
        self.asm.load32(host::R8, Mem::base(host::R8, 0));
    }

    /// Target of the conditional jump backwards that stands behind `insn`, by its first bytes.
    fn backward_jump_behind(&self, insn: &Instruction) -> Option<u32> {
        let page_start = self.t.eip.wrapping_sub(self.t.page_offset);
        let ip = insn.next_ip32();
        let (length, displacement) = match *self.code_at(ip.wrapping_sub(page_start)) {
            [0x70..=0x7F, near, ..] => (2, i32::from(near.cast_signed())),
            [0x0F, 0x80..=0x8F, a, b, c, d, ..] if self.t.mode.code32() => {
                (6, i32::from_le_bytes([a, b, c, d]))
            }
            _ => return None,
        };
        (displacement < 0).then(|| ip.wrapping_add(length).wrapping_add_signed(displacement))
    }
}

/// Instructions that processors fuse with a conditional jump.
fn fuses(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::And
            | Mnemonic::Inc
            | Mnemonic::Dec
    )
}
