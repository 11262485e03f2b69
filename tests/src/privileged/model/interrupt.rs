//! Exceptions and software interrupts: from the vector through the gate to the handler.

use super::super::Field;
use super::super::op::{Far, Seg};
use super::super::world::{kind, tss16, tss32};
use super::segment::{Descriptor, Hidden, is_null};
use super::task::Cause;
use super::{Cpu, Fault, Step, flag, mask, vector};

impl Cpu {
    /// Delivers an exception. The size of the handler's stack frame, if it is one of the driver's.
    pub(super) fn exception(&mut self, fault: Fault) -> Step<u32> {
        if self.real() {
            return self.real_interrupt(fault.vector);
        }
        let flags = self.state[Field::Eflags];
        if !fault.trap {
            self.state[Field::Eflags] |= flag::RF;
        }
        if let Some(address) = fault.address {
            self.state[Field::Cr2] = address;
        }
        let result = self.interrupt(fault.vector, fault.code, false);
        if result.is_err() {
            self.state[Field::Eflags] = flags;
        }
        result
    }

    /// INT n, INT3 and INTO.
    pub(super) fn software_interrupt(&mut self, vector: u8) -> Step {
        if self.real() {
            return self.real_interrupt(vector).map(drop);
        }
        self.interrupt(vector, None, true).map(drop)
    }

    fn real_interrupt(&mut self, vector: u8) -> Step<u32> {
        let entry = u32::from(vector) * 4;
        let table = self.state[Field::IdtBase];
        if entry + 3 > self.state[Field::IdtLimit] {
            return Err(Fault::new(vector::GP));
        }
        let [flags, cs, eip] = [Field::Eflags, Field::Cs, Field::Eip].map(|f| self.state[f]);
        for value in [flags, cs, eip] {
            self.push(2, value)?;
        }
        self.set_flag(flag::IF | flag::TF | flag::AC | flag::RF, false);
        let target = self.memory.read(table + entry, 4);
        let cs = (target >> 16) as u16;
        self.set(Seg::Cs, cs, Hidden::paragraph(cs));
        self.state[Field::Eip] = target & 0xFFFF;
        Ok(6)
    }

    fn interrupt(&mut self, vector: u8, code: Option<u32>, software: bool) -> Step<u32> {
        let external = !software;
        let own = Fault {
            code: Some(u32::from(vector) * 8 + 2),
            ..Fault::new(vector::GP)
        }
        .external(external);
        let entry = u32::from(vector) * 8;
        if entry + 7 > self.state[Field::IdtLimit] {
            return Err(own);
        }
        let gate = Descriptor(self.memory.descriptor(self.state[Field::IdtBase] + entry).0);
        let known = matches!(
            gate.kind(),
            kind::TASK | kind::INTERRUPT_16 | kind::TRAP_16 | kind::INTERRUPT_32 | kind::TRAP_32
        );
        if !known || software && gate.dpl() < self.cpl {
            return Err(own);
        }
        if !gate.present() {
            return Err(Fault {
                vector: vector::NP,
                ..own
            });
        }
        if gate.kind() == kind::TASK {
            let (task, _) = gate.gate_target();
            let tss = self
                .available_task(task)
                .map_err(|fault| fault.external(external))?;
            self.switch_task(task, tss, Cause::Interrupt { external }, code)?;
            return Ok(0);
        }
        self.through_gate(gate, code, external)
    }

    fn through_gate(&mut self, gate: Descriptor, code: Option<u32>, external: bool) -> Step<u32> {
        let (selector, offset) = gate.gate_target();
        let size = if gate.kind() & 8 != 0 { 4 } else { 2 };
        let ext = |fault: Fault| fault.external(external);
        if is_null(selector) {
            return Err(ext(Fault::new(vector::GP)));
        }
        let target = self.require(selector, vector::GP).map_err(ext)?;
        let dpl = target.dpl();
        let bad = ext(Fault::of(vector::GP, selector));
        if !target.is_code() || dpl > self.cpl {
            return Err(bad);
        }
        if !target.present() {
            return Err(ext(Fault::of(vector::NP, selector)));
        }
        let hidden = target.hidden();
        let inner = !target.is_conforming() && dpl < self.cpl;
        let v86 = self.v86();
        if v86 && (!inner || dpl != 0) {
            return Err(bad);
        }
        let [flags, cs, eip, ss, esp] =
            [Field::Eflags, Field::Cs, Field::Eip, Field::Ss, Field::Esp]
                .map(|field| self.state[field]);
        let mut frame = Vec::new();
        if v86 {
            for field in [Field::Gs, Field::Fs, Field::Ds, Field::Es] {
                frame.push(self.state[field]);
            }
        }
        if inner {
            frame.extend([ss, esp]);
        }
        frame.extend([flags, cs, eip]);
        frame.extend(code);
        let bytes = frame.len() as u32 * size;
        if inner {
            let (stack_selector, stack, esp) = self.inner_stack(dpl, external)?;
            Self::room(stack, esp, bytes)
                .map_err(|()| ext(Fault::of(vector::SS, stack_selector)))?;
            if offset > hidden.limit {
                return Err(ext(Fault::new(vector::GP)));
            }
            self.cpl = dpl;
            if v86 {
                for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                    self.set(seg, 0, Hidden::default());
                }
                self.set_flag(flag::VM, false);
            }
            self.mark_accessed(stack_selector);
            self.set(Seg::Ss, stack_selector, stack);
            self.state[Field::Esp] = esp;
        } else {
            let stack = self.seg[Seg::Ss as usize];
            Self::room(stack, self.state[Field::Esp], bytes)
                .map_err(|()| ext(Fault::new(vector::SS)))?;
            if offset > hidden.limit {
                return Err(ext(Fault::new(vector::GP)));
            }
        }
        for value in frame {
            self.push(size, value & mask(size))?;
        }
        self.set_code(selector, hidden, offset);
        if gate.kind() & 1 == 0 {
            self.set_flag(flag::IF, false);
        }
        self.set_flag(flag::TF | flag::NT | flag::RF | flag::VM, false);
        Ok(bytes)
    }

    /// The stack of level `dpl` in the current TSS (vol. 3A, section 7.2.1).
    pub(super) fn inner_stack(&self, dpl: u8, external: bool) -> Step<(u16, Hidden, u32)> {
        let level = u32::from(dpl);
        let ext = |fault: Fault| fault.external(external);
        let wide = self.tr.kind & 8 != 0;
        let (offset, size) = if wide {
            (tss32::ESP0 + 8 * level, 4)
        } else {
            (tss16::SP0 + 4 * level, 2)
        };
        if offset + size + 1 > self.tr.limit {
            return Err(ext(Fault::of(vector::TS, self.state[Field::Tr] as u16)));
        }
        let esp = self.memory.read(self.tr.base + offset, size);
        let selector = self.memory.read(self.tr.base + offset + size, 2) as u16;
        let stack = self
            .check_stack(selector, dpl, vector::TS)
            .map_err(ext)?
            .hidden();
        Ok((selector, stack, esp))
    }

    /// A task gate that a JMP or CALL names.
    pub(super) fn task_gate(&mut self, gate: Descriptor, how: Far) -> Step {
        let (task, _) = gate.gate_target();
        let tss = self.available_task(task)?;
        self.switch_task(task, tss, how.into(), None)
    }

    /// An available TSS in the GDT.
    fn available_task(&self, task: u16) -> Step<Descriptor> {
        let bad = Fault::of(vector::GP, task);
        if task & 4 != 0 || is_null(task) {
            return Err(bad);
        }
        let tss = self.require(task, vector::GP)?;
        if !matches!(tss.kind(), kind::TSS_16 | kind::TSS_32) {
            return Err(bad);
        }
        if !tss.present() {
            return Err(Fault::of(vector::NP, task));
        }
        Ok(tss)
    }
}
