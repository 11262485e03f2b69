//! CLI, STI, PUSHF, POPF, HLT: what depends on IOPL and CPL.

use super::event::Exception;
use super::stack::Frame;
use super::{Flow, System};
use crate::state::{InterruptShadow, eflags};
use iced_x86::{Code, Instruction};

/// What PUSHF never shows.
const NOT_PUSHED: u32 = eflags::VM | eflags::RF;

/// Flags that POPF and IRET may change at any privilege level.
pub(super) const ALWAYS: u32 = eflags::STATUS | eflags::DF | eflags::TF | eflags::NT;

impl System<'_> {
    /// #GP(0) unless CPL is 0.
    pub(super) fn require_cpl0(&self) -> Result<(), Exception> {
        if self.cpu.cpl == 0 {
            Ok(())
        } else {
            Err(Exception::general_protection())
        }
    }

    /// #UD in real mode and virtual-8086 mode.
    pub(super) fn require_protected(&self) -> Result<(), Exception> {
        if self.cpu.real_or_v86() {
            Err(Exception::invalid_opcode())
        } else {
            Ok(())
        }
    }

    /// #GP(0) where CPL > IOPL; in real mode CPL is 0, in virtual-8086 mode 3.
    fn require_iopl(&self) -> Result<(), Exception> {
        if self.cpu.cpl <= self.cpu.iopl() {
            Ok(())
        } else {
            Err(Exception::general_protection())
        }
    }

    /// #GP(0) in virtual-8086 mode with IOPL < 3.
    pub(super) fn require_v86_iopl(&self) -> Result<(), Exception> {
        if self.cpu.virtual_8086() {
            self.require_iopl()
        } else {
            Ok(())
        }
    }

    /// CLI.
    pub(super) fn cli(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_iopl()?;
        self.cpu.eflags &= !eflags::IF;
        Ok(Flow::Next)
    }

    /// STI.
    pub(super) fn sti(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_iopl()?;
        if !self.cpu.interrupt_flag() {
            self.cpu.interrupt_shadow = InterruptShadow::Sti;
        }
        self.cpu.eflags |= eflags::IF;
        Ok(Flow::Next)
    }

    /// PUSHF, PUSHFD.
    pub(super) fn pushf(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_v86_iopl()?;
        let width = if insn.code() == Code::Pushfw { 2 } else { 4 };
        self.push(&Frame::with(width, [self.cpu.eflags & !NOT_PUSHED]))?;
        Ok(Flow::Next)
    }

    /// POPF, POPFD.
    pub(super) fn popf(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_v86_iopl()?;
        let width = if insn.code() == Code::Popfw { 2 } else { 4 };
        let [value] = self.peek(0, width)?;
        self.pop(width as u32);
        self.set_flags(value, width, 0);
        Ok(Flow::Next)
    }

    /// Puts `value` into EFLAGS as POPF and IRET do: IOPL only at CPL 0, IF only where CPL <= IOPL,
    /// the upper half only with 4-byte operands, where also the flags in `wide` may change.
    pub(super) fn set_flags(&mut self, value: u32, width: usize, wide: u32) {
        let mut mask = ALWAYS;
        if self.cpu.cpl <= self.cpu.iopl() {
            mask |= eflags::IF;
        }
        if self.cpu.cpl == 0 {
            mask |= eflags::IOPL;
        }
        if width == 4 {
            mask |= self.model.wide_flags() | wide;
        }
        self.cpu.eflags = (self.cpu.eflags & !mask) | (value & mask);
    }

    /// HLT.
    pub(super) fn hlt(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_cpl0()?;
        Ok(Flow::Halt)
    }
}
