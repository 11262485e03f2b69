//! Far JMP and CALL, directly and through call gates (Intel SDM vol. 2A, "CALL" and "JMP").

use super::descriptor::{Descriptor, Entry, is_null, rpl, system_type};
use super::event::{Exception, vector};
use super::memory::privilege_of;
use super::stack::Frame;
use super::task::Switch;
use super::{Flow, System};
use crate::state::{Rights, Segment, reg, seg};
use iced_x86::{Code, Instruction, OpKind};

/// An inner stack as the TSS names it.
pub(super) struct InnerStack {
    /// Descriptor of SS.
    pub(super) entry: Entry,
    /// Initial ESP.
    pub(super) esp: u32,
}

impl System<'_> {
    /// Selector, offset and operand size in bytes of a far JMP or CALL.
    fn far_target(&mut self, insn: &Instruction) -> Result<(u16, u32, usize), Exception> {
        let width = match insn.code() {
            Code::Jmp_ptr1616 | Code::Jmp_m1616 | Code::Call_ptr1616 | Code::Call_m1616 => 2,
            _ => 4,
        };
        let (offset, selector) = match insn.op_kind(0) {
            OpKind::FarBranch16 => (u32::from(insn.far_branch16()), insn.far_branch_selector()),
            OpKind::FarBranch32 => (insn.far_branch32(), insn.far_branch_selector()),
            _ => self.read_far_pointer(insn, 0, width == 4)?,
        };
        Ok((selector, offset, width))
    }

    /// The CS that a far transfer leaves behind in real mode or virtual-8086 mode, limit-checked.
    pub(super) fn check_paragraph_target(
        &self,
        selector: u16,
        eip: u32,
    ) -> Result<Segment, Exception> {
        let segment = if self.cpu.virtual_8086() {
            Segment::virtual_8086(selector)
        } else {
            Segment {
                limit: self.cpu.seg[seg::CS].limit,
                ..Segment::real(selector)
            }
        };
        Self::check_eip(&segment, eip)?;
        Ok(segment)
    }

    /// Far JMP.
    pub(super) fn far_jump(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (selector, offset, _) = self.far_target(insn)?;
        if self.cpu.real_or_v86() {
            self.check_paragraph_target(selector, offset)?;
            self.load_paragraph(seg::CS, selector);
            self.cpu.eip = offset;
            return Ok(Flow::Jumped);
        }
        let target = self.transfer_target(selector)?;
        let Some(kind) = target.descriptor.system_type() else {
            self.check_direct_target(&target)?;
            return self.jump_to(&target, offset);
        };
        match kind {
            system_type::CALL_GATE16 | system_type::CALL_GATE32 => {
                let code = self.call_gate_target(&target)?;
                let cpl = self.cpu.cpl;
                if !code.descriptor.is_conforming() && code.descriptor.dpl() != cpl {
                    return Err(code.fault(vector::GP));
                }
                code.require_present()?;
                self.jump_to(&code, target.descriptor.gate_offset())
            }
            _ => {
                let task = self.task_target(&target)?;
                let return_eip = self.next_eip(insn);
                self.switch_and_go_on(&task, Switch::Jump, return_eip)
            }
        }
    }

    /// Far CALL.
    pub(super) fn far_call(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (selector, offset, width) = self.far_target(insn)?;
        let return_eip = self.next_eip(insn);
        let frame = Frame::with(
            width,
            [u32::from(self.cpu.seg[seg::CS].selector), return_eip],
        );
        if self.cpu.real_or_v86() {
            let stack = self.cpu.seg[seg::SS];
            let esp = self.cpu.gpr[reg::ESP];
            Self::check_frame(&stack, esp, &frame, Exception::stack_fault())?;
            self.check_paragraph_target(selector, offset)?;
            self.push(&frame)?;
            self.load_paragraph(seg::CS, selector);
            self.cpu.eip = offset;
            return Ok(Flow::Jumped);
        }
        let target = self.transfer_target(selector)?;
        let Some(kind) = target.descriptor.system_type() else {
            self.check_direct_target(&target)?;
            return self.call_same_level(&target, offset, &frame);
        };
        match kind {
            system_type::CALL_GATE16 | system_type::CALL_GATE32 => {
                self.call_through_gate(target.descriptor, &target, return_eip)
            }
            _ => {
                let task = self.task_target(&target)?;
                self.switch_and_go_on(&task, Switch::Call, return_eip)
            }
        }
    }

    /// The descriptor that a far transfer names.
    fn transfer_target(&mut self, selector: u16) -> Result<Entry, Exception> {
        if is_null(selector) {
            return Err(Exception::general_protection());
        }
        let entry = self.require_descriptor(selector, vector::GP)?;
        let descriptor = entry.descriptor;
        let usable = match descriptor.system_type() {
            None => descriptor.is_code(),
            Some(
                system_type::CALL_GATE16
                | system_type::CALL_GATE32
                | system_type::TASK_GATE
                | system_type::TSS16
                | system_type::TSS32,
            ) => self.cpu.cpl <= descriptor.dpl() && rpl(selector) <= descriptor.dpl(),
            Some(_) => false,
        };
        if usable {
            Ok(entry)
        } else {
            Err(entry.fault(vector::GP))
        }
    }

    /// Privilege checks of a transfer to a code segment without a gate.
    fn check_direct_target(&self, entry: &Entry) -> Result<(), Exception> {
        let (descriptor, cpl) = (entry.descriptor, self.cpu.cpl);
        let allowed = if descriptor.is_conforming() {
            descriptor.dpl() <= cpl
        } else {
            rpl(entry.selector) <= cpl && descriptor.dpl() == cpl
        };
        if !allowed {
            return Err(entry.fault(vector::GP));
        }
        entry.require_present()
    }

    /// The code segment that a call gate leads to; who may go there depends on the instruction.
    fn call_gate_target(&mut self, gate: &Entry) -> Result<Entry, Exception> {
        gate.require_present()?;
        let selector = gate.descriptor.gate_selector();
        if is_null(selector) {
            return Err(Exception::general_protection());
        }
        let entry = self.require_descriptor(selector, vector::GP)?;
        if !entry.descriptor.is_code() || entry.descriptor.dpl() > self.cpu.cpl {
            return Err(entry.fault(vector::GP));
        }
        Ok(entry)
    }

    /// The TSS that a transfer to a TSS or a task gate leads to.
    fn task_target(&mut self, target: &Entry) -> Result<Entry, Exception> {
        target.require_present()?;
        if target.descriptor.system_type() != Some(system_type::TASK_GATE) {
            return Ok(*target);
        }
        self.task_gate_target(target.descriptor)
    }

    /// The TSS that a task gate leads to: in the GDT, not busy, present.
    pub(super) fn task_gate_target(&mut self, gate: Descriptor) -> Result<Entry, Exception> {
        let selector = gate.gate_selector();
        if super::descriptor::is_local(selector) || is_null(selector) {
            return Err(Exception::selector(vector::GP, selector));
        }
        let task = self.require_descriptor(selector, vector::GP)?;
        if !matches!(
            task.descriptor.system_type(),
            Some(system_type::TSS16 | system_type::TSS32)
        ) {
            return Err(task.fault(vector::GP));
        }
        task.require_present()?;
        Ok(task)
    }

    fn switch_and_go_on(
        &mut self,
        task: &Entry,
        how: Switch,
        return_eip: u32,
    ) -> Result<Flow, Exception> {
        let trap = self.switch_task(task, how, return_eip, self.cpu.eflags)?;
        Self::check_eip(&self.cpu.seg[seg::CS], self.cpu.eip)?;
        Ok(super::task::flow_after_switch(trap))
    }

    fn jump_to(&mut self, code: &Entry, eip: u32) -> Result<Flow, Exception> {
        let segment = code.code_segment(self.cpu.cpl);
        Self::check_eip(&segment, eip)?;
        self.mark_accessed(code)?;
        self.cpu.seg[seg::CS] = segment;
        self.cpu.eip = eip;
        Ok(Flow::Jumped)
    }

    fn call_same_level(
        &mut self,
        code: &Entry,
        eip: u32,
        frame: &Frame,
    ) -> Result<Flow, Exception> {
        let stack = self.cpu.seg[seg::SS];
        let esp = self.cpu.gpr[reg::ESP];
        Self::check_frame(&stack, esp, frame, Exception::stack_fault())?;
        let segment = code.code_segment(self.cpu.cpl);
        Self::check_eip(&segment, eip)?;
        self.mark_accessed(code)?;
        self.push(frame)?;
        self.cpu.seg[seg::CS] = segment;
        self.cpu.eip = eip;
        Ok(Flow::Jumped)
    }

    fn call_through_gate(
        &mut self,
        gate: Descriptor,
        gate_entry: &Entry,
        return_eip: u32,
    ) -> Result<Flow, Exception> {
        let code = self.call_gate_target(gate_entry)?;
        code.require_present()?;
        let width = gate.gate_width();
        let old_cs = u32::from(self.cpu.seg[seg::CS].selector);
        let eip = gate.gate_offset();
        let level = code.descriptor.dpl();
        if code.descriptor.is_conforming() || level == self.cpu.cpl {
            let frame = Frame::with(width, [old_cs, return_eip]);
            return self.call_same_level(&code, eip, &frame);
        }
        let inner = self.inner_stack(level)?;
        let stack = inner.entry.segment();
        let old_esp = self.cpu.gpr[reg::ESP];
        let mut frame = Frame::with(width, [u32::from(self.cpu.seg[seg::SS].selector), old_esp]);
        for n in (0..gate.gate_parameters()).rev() {
            let [parameter] = self.peek(n * width as u32, width)?;
            frame.push(parameter);
        }
        frame.push(old_cs);
        frame.push(return_eip);
        let full = inner.entry.fault(vector::SS);
        Self::check_frame(&stack, inner.esp, &frame, full)?;
        let segment = code.code_segment(level);
        Self::check_eip(&segment, eip)?;
        self.mark_accessed(&inner.entry)?;
        self.mark_accessed(&code)?;
        let esp = self.push_frame(&stack, inner.esp, &frame, privilege_of(level), full)?;
        self.cpu.cpl = level;
        self.cpu.seg[seg::CS] = segment;
        self.cpu.seg[seg::SS] = stack;
        // All of it, even where the stack is a 16-bit one (Intel SDM vol. 2A, "CALL").
        self.cpu.gpr[reg::ESP] = esp;
        self.cpu.eip = eip;
        Ok(Flow::Jumped)
    }

    /// Reads SS:ESP for privilege `level` from the TSS and checks SS (Intel SDM vol. 3A, section
    /// 5.8.5).
    ///
    /// # Errors
    /// #TS(TR) when the TSS is too short, #TS(SS), #SS(SS), #PF.
    pub(super) fn inner_stack(&mut self, level: u8) -> Result<InnerStack, Exception> {
        let task = self.cpu.tr;
        let level32 = u32::from(level);
        // Type bit 3 tells a 32-bit TSS from a 16-bit one.
        let (esp, selector) = if task.rights.contains(Rights::CODE) {
            let offset = level32 * 8 + 4;
            if offset + 5 > task.limit {
                return Err(Exception::selector(vector::TS, task.selector));
            }
            let [a, b, c, d, e, f] = self.read_system(task.base.wrapping_add(offset))?;
            (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]))
        } else {
            let offset = level32 * 4 + 2;
            if offset + 3 > task.limit {
                return Err(Exception::selector(vector::TS, task.selector));
            }
            let [a, b, c, d] = self.read_system(task.base.wrapping_add(offset))?;
            (
                u32::from(u16::from_le_bytes([a, b])),
                u16::from_le_bytes([c, d]),
            )
        };
        let entry = self.stack_segment(selector, level, vector::TS)?;
        Ok(InnerStack { entry, esp })
    }
}
