//! Indirect jumps with many targets: switches and interpreters.
//!
//! The host predicts an indirect jump from the jumps before it, with a table that is soon too small for targets
//! that come in no order. Conditional jumps it predicts far better. So programs' jumps are counted; one
//! that is hot is watched for a while, and if its targets lie in its own page and come in no order,
//! the target is found by a search with conditional jumps. A target that was not seen goes through the
//! jump table like all others, so nothing has to be right that was learned.
//!
//! None of this touches flags: comparisons are differences, and the jump is on RCX.

use super::asm::{Mem, Reg, host};
use super::builder::{After, Builder};
use super::memory::Use;
use super::{CalloutKind, layout};
use iced_x86::{Instruction, OpKind};

/// How an indirect jump is emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JumpForm {
    /// Through the jump table, counted.
    Counted,
    /// Through Rust, which watches where it goes.
    Watched,
    /// Through the jump table.
    Plain,
    /// By a search among these targets, offsets in the page of the jump in ascending order.
    Cases(Box<[u16]>),
}

/// Sizes of the code of a target and of a comparison, at most; an 8-bit displacement reaches 127 bytes.
const LEAF_BYTES: usize = 30;
const NODE_BYTES: usize = 16;

impl Builder<'_> {
    /// How to emit the indirect jump `insn` with an operand of `size` bytes.
    fn jump_form(&self, insn: &Instruction, size: u32) -> JumpForm {
        let learns = self.t.loops
            && self.t.mode.is_flat()
            && self.t.mode.cpl() == 3
            && !self.after_sti
            && size == 4;
        if !learns {
            return JumpForm::Plain;
        }
        let page_start = self.t.eip.wrapping_sub(self.t.page_offset);
        self.source.jump_form(insn.ip32().wrapping_sub(page_start))
    }

    /// Emits the indirect jump `insn`, if it is one that is watched or whose targets are known; counts it
    /// if it may become one.
    pub(super) fn learned_jump(&mut self, insn: &Instruction, size: u32) -> Option<After> {
        match self.jump_form(insn, size) {
            JumpForm::Plain => None,
            JumpForm::Counted => {
                self.count_jump(insn.ip32());
                None
            }
            JumpForm::Watched => Some(self.callout_end(CalloutKind::IndirectJump)),
            JumpForm::Cases(targets) => Some(self.jump_by_cases(insn, &targets)),
        }
    }

    /// Counts down, and at 0 has Rust carry out the jump.
    fn count_jump(&mut self, eip: u32) {
        let counter = layout::jump_count(eip);
        self.asm.mov32(host::R10, host::RCX);
        self.asm.load32(host::RCX, counter);
        self.asm.lea32(host::RCX, Mem::base(host::RCX, -1));
        self.asm.store(4, counter, host::RCX);
        self.asm.bytes(&[0xE3, 2]); // jrcxz: over the jump
        self.asm.bytes(&[0xEB, 0]);
        let over = self.asm.offset();
        self.asm.mov32(host::RCX, host::R10);
        self.callout_end(CalloutKind::IndirectJump);
        let cold = self.asm.offset();
        self.asm.patch_rel8(&[(over, cold)]);
        self.asm.mov32(host::RCX, host::R10);
    }

    fn jump_by_cases(&mut self, insn: &Instruction, targets: &[u16]) -> After {
        let page_start = self.t.eip.wrapping_sub(self.t.page_offset);
        let first = targets.first().copied().unwrap_or_default();
        // No jump table is met on the way: a loop is left by its poll.
        self.poll_if_backward(page_start.wrapping_add(u32::from(first)));
        self.load_jump_target(insn, 4, host::R8);
        self.asm.mov32(host::R9, host::RCX);
        self.asm.lea32(
            host::R11,
            Mem::base(host::R8, page_start.wrapping_neg().cast_signed()),
        );
        let mut misses = Vec::with_capacity(targets.len());
        self.search(page_start, targets, &mut misses);
        let miss = self.asm.offset();
        let patches: Vec<_> = misses.into_iter().map(|from| (from, miss)).collect();
        self.asm.patch_rel32(&patches);
        self.asm.mov32(host::RCX, host::R9);
        self.jump_through_table();
        After::End
    }

    /// Jumps to the one of `targets` that R11 is the offset of; a rel32 at each of `misses` leads to where there
    /// is none. RCX is in R9.
    fn search(&mut self, page_start: u32, targets: &[u16], misses: &mut Vec<usize>) {
        let (low, high) = targets.split_at(targets.len() / 2);
        let Some(&pivot) = high.first() else {
            let here = self.asm.address() + 5;
            misses.push(self.asm.jmp(here));
            return;
        };
        let difference = Mem::base(host::R11, -i32::from(pivot));
        if low.is_empty() {
            self.asm.lea32(host::RCX, difference);
            self.asm.bytes(&[0xE3, 5]); // jrcxz: over the jump
            let here = self.asm.address() + 5;
            misses.push(self.asm.jmp(here));
            self.asm.mov32(host::RCX, host::R9);
            self.pass_to(page_start.wrapping_add(u32::from(pivot)));
            return;
        }
        // The upper half of the difference is 0, or below the pivot all ones; reversed it is ECX.
        self.asm.lea64(host::RCX, difference);
        self.asm.bswap(true, host::RCX);
        if low.len() * (LEAF_BYTES + NODE_BYTES) <= 127 {
            self.asm.bytes(&[0x67, 0xE3, 0]); // jecxz
            let branch = self.asm.offset();
            self.search(page_start, low, misses);
            let upper = self.asm.offset();
            self.asm.patch_rel8(&[(branch, upper)]);
            self.search(page_start, high, misses);
        } else {
            self.asm.bytes(&[0x67, 0xE3, 5]); // jecxz: over the jump
            let here = self.asm.address() + 5;
            let branch = self.asm.jmp(here);
            self.search(page_start, high, misses);
            let lower = self.asm.offset();
            self.asm.patch_rel32(&[(branch, lower)]);
            self.search(page_start, low, misses);
        }
    }

    /// Loads the target of an indirect jump or call of `size` bytes.
    pub(super) fn load_jump_target(&mut self, insn: &Instruction, size: u32, target: Reg) {
        if insn.op0_kind() == OpKind::Register {
            let register = Self::guest_of(insn.op0_register());
            if size == 2 {
                self.asm.zero_extend16(target, register);
            } else {
                self.asm.mov32(target, register);
            }
        } else {
            let address = Self::address_of(insn);
            let source = self.operand(&address, size, Use::Read);
            self.asm.load(size, target, source.mem);
        }
    }
}
