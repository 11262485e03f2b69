//! SYSENTER and SYSEXIT (Intel SDM vol. 3A, section 5.8.7).

use super::cpuid::feature;
use super::event::Exception;
use super::{Flow, System};
use crate::state::{Segment, eflags, reg, seg};
use iced_x86::Instruction;

impl System<'_> {
    /// The selector in IA32_SYSENTER_CS, if the instructions exist and may be used.
    fn fast_call_selector(&self) -> Result<u16, Exception> {
        if !self.model.has(feature::SEP) {
            return Err(Exception::invalid_opcode());
        }
        let selector = self.cpu.msrs.sysenter_cs as u16 & !3;
        if !self.cpu.protected_mode() || selector == 0 {
            return Err(Exception::general_protection());
        }
        Ok(selector)
    }

    /// SYSENTER.
    pub(super) fn sysenter(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        let selector = self.fast_call_selector()?;
        let cpu = &mut *self.cpu;
        cpu.eflags &= !(eflags::VM | eflags::IF | eflags::RF);
        cpu.seg[seg::CS] = Segment::flat(selector, true, 0);
        cpu.seg[seg::SS] = Segment::flat(selector.wrapping_add(8), false, 0);
        cpu.cpl = 0;
        cpu.gpr[reg::ESP] = cpu.msrs.sysenter_esp;
        cpu.eip = cpu.msrs.sysenter_eip;
        Ok(Flow::Jumped)
    }

    /// SYSEXIT.
    pub(super) fn sysexit(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        let selector = self.fast_call_selector()?;
        self.require_cpl0()?;
        let cpu = &mut *self.cpu;
        cpu.seg[seg::CS] = Segment::flat(selector.wrapping_add(16) | 3, true, 3);
        cpu.seg[seg::SS] = Segment::flat(selector.wrapping_add(24) | 3, false, 3);
        cpu.cpl = 3;
        cpu.gpr[reg::ESP] = cpu.gpr[reg::ECX];
        cpu.eip = cpu.gpr[reg::EDX];
        Ok(Flow::Jumped)
    }
}
