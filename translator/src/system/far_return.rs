//! Far RET and IRET (Intel SDM vol. 2A and 2B, "IRET" and "RET").

use super::descriptor::{Entry, is_local, is_null, rpl, system_type};
use super::event::{Exception, vector};
use super::task::Switch;
use super::{Flow, System};
use crate::state::{Segment, eflags, reg, seg};
use iced_x86::{Code, Instruction};

/// The end of a far return: what is read from the stack and where the stack pointer ends up.
struct Return {
    selector: u16,
    eip: u32,
    /// IRET: the flags to load.
    flags: Option<u32>,
    /// Bytes popped before SS:ESP, parameters included.
    popped: u32,
    /// Parameters to release on the outer stack as well.
    parameters: u32,
    width: usize,
}

impl System<'_> {
    /// Far RET, with or without parameters to release.
    pub(super) fn far_return(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (width, parameters) = match insn.code() {
            Code::Retfw => (2, 0),
            Code::Retfw_imm16 => (2, u32::from(insn.immediate16())),
            Code::Retfd_imm16 => (4, u32::from(insn.immediate16())),
            _ => (4, 0),
        };
        let [eip, selector] = self.peek(0, width)?;
        let selector = selector as u16;
        let popped = 2 * width as u32 + parameters;
        if self.cpu.real_or_v86() {
            self.check_paragraph_target(selector, eip)?;
            self.pop(popped);
            self.load_paragraph(seg::CS, selector);
            self.cpu.eip = eip;
            return Ok(Flow::Jumped);
        }
        self.return_to(&Return {
            selector,
            eip,
            flags: None,
            popped,
            parameters,
            width,
        })
    }

    /// IRET, IRETD.
    pub(super) fn interrupt_return(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let width = if insn.code() == Code::Iretw { 2 } else { 4 };
        if self.cpu.real_or_v86() {
            return self.interrupt_return_real(width);
        }
        if self.cpu.eflags & eflags::NT != 0 {
            return self.nested_task_return(insn);
        }
        let [eip, selector, flags] = self.peek(0, width)?;
        if width == 4 && flags & eflags::VM != 0 && self.cpu.cpl == 0 {
            return self.return_to_v86(eip, selector as u16, flags);
        }
        let flow = self.return_to(&Return {
            selector: selector as u16,
            eip,
            flags: Some(flags),
            popped: 3 * width as u32,
            parameters: 0,
            width,
        })?;
        self.cpu.nmi_blocked = false;
        Ok(flow)
    }

    fn interrupt_return_real(&mut self, width: usize) -> Result<Flow, Exception> {
        self.require_v86_iopl()?;
        let [eip, selector, flags] = self.peek(0, width)?;
        self.check_paragraph_target(selector as u16, eip)?;
        self.pop(3 * width as u32);
        self.load_paragraph(seg::CS, selector as u16);
        self.cpu.eip = eip;
        self.set_flags(flags, width, eflags::RF);
        self.cpu.nmi_blocked = false;
        Ok(Flow::Jumped)
    }

    fn return_to_v86(&mut self, eip: u32, selector: u16, flags: u32) -> Result<Flow, Exception> {
        let [_, _, _, esp, ss, es, ds, fs, gs] = self.peek(0, 4)?;
        let code = Segment::virtual_8086(selector);
        Self::check_eip(&code, eip)?;
        let mask = super::flags::ALWAYS
            | eflags::IF
            | eflags::IOPL
            | eflags::VM
            | eflags::RF
            | self.model.wide_flags();
        let cpu = &mut *self.cpu;
        cpu.eflags = (cpu.eflags & !mask) | (flags & mask);
        for (index, selector) in [
            (seg::ES, es),
            (seg::SS, ss),
            (seg::DS, ds),
            (seg::FS, fs),
            (seg::GS, gs),
        ] {
            cpu.seg[index] = Segment::virtual_8086(selector as u16);
        }
        cpu.seg[seg::CS] = code;
        cpu.gpr[reg::ESP] = esp;
        cpu.eip = eip;
        cpu.cpl = 3;
        cpu.nmi_blocked = false;
        Ok(Flow::Jumped)
    }

    /// IRET with NT set: back to the task in the link field of the TSS.
    fn nested_task_return(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let link = u16::from_le_bytes(self.read_system(self.cpu.tr.base)?);
        if is_local(link) || is_null(link) {
            return Err(Exception::selector(vector::TS, link));
        }
        let task = self.require_descriptor(link, vector::TS)?;
        if !matches!(
            task.descriptor.system_type(),
            Some(system_type::TSS16_BUSY | system_type::TSS32_BUSY)
        ) {
            return Err(task.fault(vector::TS));
        }
        task.require_present()?;
        let saved_flags = self.cpu.eflags & !eflags::NT;
        let trap = self.switch_task(&task, Switch::Return, self.next_eip(insn), saved_flags)?;
        self.cpu.nmi_blocked = false;
        Self::check_eip(&self.cpu.seg[seg::CS], self.cpu.eip)?;
        Ok(super::task::flow_after_switch(trap))
    }

    /// The code segment of a return in protected mode, checked.
    fn return_target(&mut self, selector: u16) -> Result<Entry, Exception> {
        if is_null(selector) {
            return Err(Exception::general_protection());
        }
        let entry = self.require_descriptor(selector, vector::GP)?;
        let (descriptor, rpl) = (entry.descriptor, rpl(selector));
        let privilege_fits = if descriptor.is_conforming() {
            descriptor.dpl() <= rpl
        } else {
            descriptor.dpl() == rpl
        };
        if !descriptor.is_code() || rpl < self.cpu.cpl || !privilege_fits {
            return Err(entry.fault(vector::GP));
        }
        entry.require_present()?;
        Ok(entry)
    }

    fn return_to(&mut self, to: &Return) -> Result<Flow, Exception> {
        let code = self.return_target(to.selector)?;
        let level = rpl(to.selector);
        let segment = code.code_segment(level);
        if level == self.cpu.cpl {
            Self::check_eip(&segment, to.eip)?;
            self.mark_accessed(&code)?;
            self.pop(to.popped);
        } else {
            let [esp, selector] = self.peek(to.popped, to.width)?;
            let stack = self.stack_segment(selector as u16, level, vector::GP)?;
            Self::check_eip(&segment, to.eip)?;
            self.mark_accessed(&code)?;
            self.mark_accessed(&stack)?;
            self.cpu.seg[seg::SS] = stack.segment();
            self.set_stack_pointer(esp.wrapping_add(to.parameters));
        }
        if let Some(flags) = to.flags {
            // Judged by the privilege of the IRET itself.
            self.set_flags(flags, to.width, eflags::RF);
        }
        self.cpu.seg[seg::CS] = segment;
        self.cpu.eip = to.eip;
        if level != self.cpu.cpl {
            self.cpu.cpl = level;
            self.drop_inner_segments();
        }
        Ok(Flow::Jumped)
    }
}
