//! Interrupts and exceptions: delivery through the interrupt vector table or the IDT (Intel SDM
//! vol. 3A, section 6.12, and vol. 2A, "INT n").

use super::debug::{dr6, dr7};
use super::descriptor::{Descriptor, Entry, is_null, system_type};
use super::event::{Combined, EventKind, Exception, Shutdown, code, vector};
use super::far::InnerStack;
use super::memory::privilege_of;
use super::stack::Frame;
use super::task::{Switch, Trap};
use super::{Flow, System};
use crate::state::{InterruptShadow, Rights, Segment, eflags, reg, seg};
use iced_x86::{Instruction, Mnemonic};

impl System<'_> {
    /// Delivers an exception or interrupt. `eip` is that of the instruction to go back to. Faults
    /// met on the way are delivered instead, or become a double fault.
    ///
    /// For an interrupt or a trap RF is pushed as it stands in EFLAGS: whoever runs instructions
    /// elsewhere clears it when one ends, and sets it between iterations of a repeated one. Sets CR2 and DR6; ends the interrupt shadow; an NMI blocks further ones.
    ///
    /// # Errors
    /// [`Shutdown`] when a double fault cannot be delivered.
    pub fn deliver(&mut self, event: Exception) -> Result<(), Shutdown> {
        let mut event = event;
        loop {
            if let Some(address) = event.cr2 {
                self.cpu.cr2 = address;
            }
            self.cpu.dr[6] |= event.dr6;
            match self.interrupt(&event) {
                Ok(None) => return Ok(()),
                Ok(Some(trap)) => event = trap.exception(),
                Err(second) => match event.combine(&second) {
                    Combined::Serial => event = second,
                    Combined::DoubleFault => {
                        if let Some(address) = second.cr2 {
                            self.cpu.cr2 = address;
                        }
                        event = Exception::fault_with_code(vector::DF, 0);
                    }
                    Combined::Shutdown => return Err(Shutdown),
                },
            }
        }
    }

    /// INT n, INT3, INTO, INT1.
    pub(super) fn software_interrupt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let next_eip = self.next_eip(insn);
        let event = match insn.mnemonic() {
            Mnemonic::Int3 => Exception::software(vector::BP, next_eip),
            Mnemonic::Into => {
                if self.cpu.eflags & eflags::OF == 0 {
                    return Ok(Flow::Next);
                }
                Exception::software(vector::OF, next_eip)
            }
            Mnemonic::Int1 => Exception {
                kind: EventKind::Icebp { next_eip },
                ..Exception::fault(vector::DB)
            },
            _ => {
                self.require_v86_iopl()?;
                Exception::software(insn.immediate8(), next_eip)
            }
        };
        Ok(match self.interrupt(&event)? {
            None => Flow::Interrupted,
            Some(trap) => Flow::Trap(trap.exception()),
        })
    }

    /// One attempt at delivery; the state is as before on an error, except after a task switch.
    fn interrupt(&mut self, event: &Exception) -> Result<Option<Trap>, Exception> {
        let result = if self.cpu.protected_mode() {
            self.interrupt_protected(event)
        } else {
            self.interrupt_real(event).map(|()| None)
        };
        match result {
            Ok(trap) => {
                self.cpu.interrupt_shadow = InterruptShadow::None;
                if event.kind == EventKind::Nmi {
                    self.cpu.nmi_blocked = true;
                }
                if event.vector == vector::DB && !matches!(event.kind, EventKind::Software { .. }) {
                    self.cpu.dr[7] &= !dr7::GD;
                }
                Ok(trap)
            }
            Err(mut fault) => {
                if event.is_external_to_program() && matches!(fault.vector, vector::TS..=vector::GP)
                {
                    fault.error_code = fault.error_code.map(|bits| bits | code::EXT);
                }
                Err(fault)
            }
        }
    }

    /// The offset to push.
    fn return_eip(&self, event: &Exception) -> u32 {
        match event.kind {
            EventKind::Software { next_eip } | EventKind::Icebp { next_eip } => next_eip,
            _ => self.cpu.eip,
        }
    }

    /// The flags to push: RF is set by every fault but that of an instruction breakpoint, so that
    /// the instruction can run when it comes back (Intel SDM vol. 3B, section 17.3.1.1).
    fn pushed_flags(&self, event: &Exception) -> u32 {
        const BREAKPOINTS: u32 = 0xF;
        let flags = self.cpu.eflags;
        match event.kind {
            EventKind::Fault if event.dr6 & BREAKPOINTS == 0 => flags | eflags::RF,
            EventKind::External | EventKind::Nmi | EventKind::Trap => flags,
            _ => flags & !eflags::RF,
        }
    }

    fn interrupt_real(&mut self, event: &Exception) -> Result<(), Exception> {
        let entry = u32::from(event.vector) * 4;
        if entry + 3 > u32::from(self.cpu.idtr.limit) {
            return Err(idt_fault(vector::GP, event.vector));
        }
        let [a, b, c, d] = self.read_system(self.cpu.idtr.base.wrapping_add(entry))?;
        let (eip, selector) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let frame = Frame::with(
            2,
            [
                self.cpu.eflags,
                u32::from(self.cpu.seg[seg::CS].selector),
                self.return_eip(event),
            ],
        );
        let stack = self.cpu.seg[seg::SS];
        let esp = self.cpu.gpr[reg::ESP];
        Self::check_frame(&stack, esp, &frame, Exception::stack_fault())?;
        self.check_paragraph_target(selector, u32::from(eip))?;
        self.push(&frame)?;
        self.load_paragraph(seg::CS, selector);
        self.cpu.eip = u32::from(eip);
        self.cpu.eflags &= !(eflags::IF | eflags::TF | eflags::AC | eflags::RF);
        Ok(())
    }

    /// The gate of a vector, checked.
    fn gate(&mut self, event: &Exception) -> Result<Descriptor, Exception> {
        let offset = u32::from(event.vector) * 8;
        if offset + 7 > u32::from(self.cpu.idtr.limit) {
            return Err(idt_fault(vector::GP, event.vector));
        }
        let bytes = self.read_system(self.cpu.idtr.base.wrapping_add(offset))?;
        let gate = Descriptor(u64::from_le_bytes(bytes));
        let is_gate = matches!(
            gate.system_type(),
            Some(
                system_type::TASK_GATE
                    | system_type::INTERRUPT_GATE16
                    | system_type::TRAP_GATE16
                    | system_type::INTERRUPT_GATE32
                    | system_type::TRAP_GATE32
            )
        );
        let checked = matches!(event.kind, EventKind::Software { .. });
        if !is_gate || (checked && gate.dpl() < self.cpu.cpl) {
            return Err(idt_fault(vector::GP, event.vector));
        }
        if !gate.is_present() {
            return Err(idt_fault(vector::NP, event.vector));
        }
        Ok(gate)
    }

    fn interrupt_protected(&mut self, event: &Exception) -> Result<Option<Trap>, Exception> {
        let gate = self.gate(event)?;
        if gate.system_type() == Some(system_type::TASK_GATE) {
            return self.interrupt_task(event, gate);
        }
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(Exception::general_protection());
        }
        let handler = self.require_descriptor(selector, vector::GP)?;
        let level = handler.descriptor.dpl();
        let cpl = self.cpu.cpl;
        if !handler.descriptor.is_code() || level > cpl {
            return Err(handler.fault(vector::GP));
        }
        handler.require_present()?;
        let conforming = handler.descriptor.is_conforming();
        let v86 = self.cpu.virtual_8086();
        if v86 && (conforming || level != 0) {
            return Err(handler.fault(vector::GP));
        }
        if conforming || level == cpl {
            self.enter_same_level(event, gate, &handler)?;
        } else {
            self.enter_inner_level(event, gate, &handler, level)?;
        }
        self.cpu.eip = gate.gate_offset();
        let mut cleared = eflags::TF | eflags::NT | eflags::VM | eflags::RF;
        if matches!(
            gate.system_type(),
            Some(system_type::INTERRUPT_GATE16 | system_type::INTERRUPT_GATE32)
        ) {
            cleared |= eflags::IF;
        }
        self.cpu.eflags &= !cleared;
        Ok(None)
    }

    fn enter_same_level(
        &mut self,
        event: &Exception,
        gate: Descriptor,
        handler: &Entry,
    ) -> Result<(), Exception> {
        let mut frame = Frame::with(
            gate.gate_width(),
            [
                self.pushed_flags(event),
                u32::from(self.cpu.seg[seg::CS].selector),
                self.return_eip(event),
            ],
        );
        if let Some(error_code) = event.error_code {
            frame.push(error_code);
        }
        let stack = self.cpu.seg[seg::SS];
        let esp = self.cpu.gpr[reg::ESP];
        Self::check_frame(&stack, esp, &frame, Exception::stack_fault())?;
        let segment = handler.code_segment(self.cpu.cpl);
        Self::check_eip(&segment, gate.gate_offset())?;
        self.mark_accessed(handler)?;
        self.push(&frame)?;
        self.cpu.seg[seg::CS] = segment;
        Ok(())
    }

    fn enter_inner_level(
        &mut self,
        event: &Exception,
        gate: Descriptor,
        handler: &Entry,
        level: u8,
    ) -> Result<(), Exception> {
        let InnerStack {
            entry: inner,
            esp: inner_esp,
        } = self.inner_stack(level)?;
        let stack = inner.segment();
        let v86 = self.cpu.virtual_8086();
        let mut frame = Frame::new(gate.gate_width());
        let selector = |index: usize| u32::from(self.cpu.seg[index].selector);
        if v86 {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                frame.push(selector(index));
            }
        }
        frame.push(selector(seg::SS));
        frame.push(self.cpu.gpr[reg::ESP]);
        frame.push(self.pushed_flags(event));
        frame.push(selector(seg::CS));
        frame.push(self.return_eip(event));
        if let Some(error_code) = event.error_code {
            frame.push(error_code);
        }
        let full = inner.fault(vector::SS);
        Self::check_frame(&stack, inner_esp, &frame, full)?;
        let segment = handler.code_segment(level);
        Self::check_eip(&segment, gate.gate_offset())?;
        self.mark_accessed(&inner)?;
        self.mark_accessed(handler)?;
        let esp = self.push_frame(&stack, inner_esp, &frame, privilege_of(level), full)?;
        if v86 {
            for index in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.cpu.seg[index] = Segment::null(0);
            }
        }
        self.cpu.cpl = level;
        self.cpu.seg[seg::CS] = segment;
        self.cpu.seg[seg::SS] = stack;
        // All of it, even where the stack is a 16-bit one (Intel SDM vol. 2A, "INT n").
        self.cpu.gpr[reg::ESP] = esp;
        Ok(())
    }

    fn interrupt_task(
        &mut self,
        event: &Exception,
        gate: Descriptor,
    ) -> Result<Option<Trap>, Exception> {
        let task = self.task_gate_target(gate)?;
        let (return_eip, flags) = (self.return_eip(event), self.pushed_flags(event));
        let trap = self.switch_task(&task, Switch::Interrupt, return_eip, flags)?;
        if let Some(error_code) = event.error_code {
            // The type bit of TR that tells a 32-bit TSS.
            let width = if self.cpu.tr.rights.contains(Rights::CODE) {
                4
            } else {
                2
            };
            self.push(&Frame::with(width, [error_code]))?;
        }
        Self::check_eip(&self.cpu.seg[seg::CS], self.cpu.eip)?;
        Ok(trap)
    }
}

impl Trap {
    /// The #DB that it is.
    pub(super) fn exception(self) -> Exception {
        Exception::debug_trap(dr6::BT)
    }
}

/// A fault whose error code names a gate of the IDT.
fn idt_fault(fault: u8, vector: u8) -> Exception {
    Exception::fault_with_code(fault, u32::from(vector) << 3 | code::IDT)
}
