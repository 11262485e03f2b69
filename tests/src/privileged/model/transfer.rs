//! Far JMP, CALL, RET and IRET.

use super::super::Field;
use super::super::op::{Far, Seg};
use super::super::world::kind;
use super::segment::{Descriptor, Hidden, is_null, rpl};
use super::{Cpu, Fault, Step, flag, mask, vector};

/// Where a far transfer within a level goes.
struct Target {
    selector: u16,
    hidden: Hidden,
}

impl Cpu {
    fn within_code(hidden: Hidden, offset: u32) -> Step {
        if offset > hidden.limit {
            Err(Fault::new(vector::GP))
        } else {
            Ok(())
        }
    }

    /// Loads CS with RPL = CPL.
    pub(super) fn set_code(&mut self, selector: u16, hidden: Hidden, offset: u32) {
        let selector = selector & 0xFFFC | u16::from(self.cpl);
        self.mark_accessed(selector);
        self.set(Seg::Cs, selector, hidden);
        self.state[Field::Eip] = offset;
    }

    /// A code segment that a JMP or CALL names itself.
    fn direct_target(&self, selector: u16, descriptor: Descriptor) -> Step<Target> {
        let fault = Fault::of(vector::GP, selector);
        let (dpl, cpl) = (descriptor.dpl(), self.cpl);
        let allowed = if descriptor.is_conforming() {
            dpl <= cpl
        } else {
            rpl(selector) <= cpl && dpl == cpl
        };
        if !allowed {
            return Err(fault);
        }
        if !descriptor.present() {
            return Err(Fault::of(vector::NP, selector));
        }
        Ok(Target {
            selector,
            hidden: descriptor.hidden(),
        })
    }

    /// Room for `size` bytes on the stack, or #SS(0).
    fn require_room(&self, size: u32) -> Step {
        let offset = self.stack_offset(size.wrapping_neg());
        self.check_access(Seg::Ss, offset, size, true).map(drop)
    }

    pub(super) fn far(&mut self, how: Far, selector: u16, offset: u32, size: u32) -> Step {
        let return_to = (self.state[Field::Cs], self.state[Field::Eip]);
        if self.real() || self.v86() {
            if how == Far::Call {
                self.require_room(2 * size)?;
            }
            if offset > 0xFFFF {
                return Err(Fault::new(vector::GP));
            }
            if how == Far::Call {
                self.push(size, return_to.0)?;
                self.push(size, return_to.1)?;
            }
            self.set(Seg::Cs, selector, Hidden::paragraph(selector));
            self.state[Field::Eip] = offset;
            return Ok(());
        }
        if is_null(selector) {
            return Err(Fault::new(vector::GP));
        }
        let descriptor = self.require(selector, vector::GP)?;
        if descriptor.is_code() {
            let target = self.direct_target(selector, descriptor)?;
            if how == Far::Call {
                self.require_room(2 * size)?;
            }
            Self::within_code(target.hidden, offset)?;
            if how == Far::Call {
                self.push(size, return_to.0)?;
                self.push(size, return_to.1)?;
            }
            self.set_code(target.selector, target.hidden, offset);
            return Ok(());
        }
        let privileged = descriptor.dpl() < self.cpl || descriptor.dpl() < rpl(selector);
        let fault = Fault::of(vector::GP, selector);
        match descriptor.kind() {
            kind::CALL_16 | kind::CALL_32 => {
                if privileged {
                    return Err(fault);
                }
                if !descriptor.present() {
                    return Err(Fault::of(vector::NP, selector));
                }
                self.call_gate(how, descriptor)
            }
            kind::TASK => {
                if privileged {
                    return Err(fault);
                }
                if !descriptor.present() {
                    return Err(Fault::of(vector::NP, selector));
                }
                self.task_gate(descriptor, how)
            }
            kind::TSS_16 | kind::TSS_32 => {
                if privileged || selector & 4 != 0 {
                    return Err(fault);
                }
                if !descriptor.present() {
                    return Err(Fault::of(vector::NP, selector));
                }
                self.switch_task(selector, descriptor, how.into(), None)
            }
            _ => Err(fault),
        }
    }

    fn call_gate(&mut self, how: Far, gate: Descriptor) -> Step {
        let (selector, offset) = gate.gate_target();
        let size = if gate.kind() == kind::CALL_32 { 4 } else { 2 };
        if is_null(selector) {
            return Err(Fault::new(vector::GP));
        }
        let code = self.require(selector, vector::GP)?;
        let dpl = code.dpl();
        let fault = Fault::of(vector::GP, selector);
        if !code.is_code() || dpl > self.cpl {
            return Err(fault);
        }
        let inner = !code.is_conforming() && dpl < self.cpl;
        if how == Far::Jump && inner {
            return Err(fault);
        }
        if !code.present() {
            return Err(Fault::of(vector::NP, selector));
        }
        let hidden = code.hidden();
        let (cs, eip) = (self.state[Field::Cs], self.state[Field::Eip]);
        if how == Far::Call && inner {
            let count = (gate.0 >> 32) as u32 & 0x1F;
            let (old_ss, old_esp) = (self.state[Field::Ss], self.state[Field::Esp]);
            let parameters: Vec<u32> = (0..count)
                .map(|n| self.read_segment(Seg::Ss, self.stack_offset(n * size), size))
                .collect::<Step<_>>()?;
            let (stack_selector, stack, esp) = self.inner_stack(dpl, false)?;
            Self::room(stack, esp, (4 + count) * size)
                .map_err(|()| Fault::of(vector::SS, stack_selector))?;
            Self::within_code(hidden, offset)?;
            self.cpl = dpl;
            self.mark_accessed(stack_selector);
            self.set(Seg::Ss, stack_selector, stack);
            self.state[Field::Esp] = esp;
            self.push(size, old_ss)?;
            self.push(size, old_esp)?;
            for value in parameters.into_iter().rev() {
                self.push(size, value)?;
            }
            self.push(size, cs)?;
            self.push(size, eip)?;
            self.set_code(selector, hidden, offset);
            return Ok(());
        }
        if how == Far::Call {
            self.require_room(2 * size)?;
        }
        Self::within_code(hidden, offset)?;
        if how == Far::Call {
            self.push(size, cs)?;
            self.push(size, eip)?;
        }
        self.set_code(selector, hidden, offset);
        Ok(())
    }

    /// Whether `size` bytes can be pushed on a stack.
    pub(super) fn room(stack: Hidden, esp: u32, size: u32) -> Result<(), ()> {
        let mask = if stack.big { u32::MAX } else { 0xFFFF };
        let offset = esp.wrapping_sub(size) & mask;
        if Cpu::inside(stack, offset, size) {
            Ok(())
        } else {
            Err(())
        }
    }

    /// The code segment of a far return, checked; the privilege level that it returns to.
    fn return_target(&self, selector: u16) -> Step<Hidden> {
        if is_null(selector) {
            return Err(Fault::new(vector::GP));
        }
        let code = self.require(selector, vector::GP)?;
        let level = rpl(selector);
        let allowed = code.is_code()
            && level >= self.cpl
            && if code.is_conforming() {
                code.dpl() <= level
            } else {
                code.dpl() == level
            };
        if !allowed {
            return Err(Fault::of(vector::GP, selector));
        }
        if !code.present() {
            return Err(Fault::of(vector::NP, selector));
        }
        Ok(code.hidden())
    }

    /// Reads the `n`-th stack element from the top.
    fn stack_element(&self, n: u32, size: u32, release: u32) -> Step<u32> {
        self.read_segment(Seg::Ss, self.stack_offset(n * size + release), size)
    }

    pub(super) fn return_far(&mut self, size: u32, release: u32) -> Step {
        let eip = self.stack_element(0, size, 0)?;
        let cs = self.stack_element(1, size, 0)? as u16;
        if self.real() || self.v86() {
            if eip > 0xFFFF {
                return Err(Fault::new(vector::GP));
            }
            self.move_stack(2 * size + release);
            self.set(Seg::Cs, cs, Hidden::paragraph(cs));
            self.state[Field::Eip] = eip;
            return Ok(());
        }
        let hidden = self.return_target(cs)?;
        if rpl(cs) == self.cpl {
            Self::within_code(hidden, eip)?;
            self.move_stack(2 * size + release);
            self.set_code(cs, hidden, eip);
            return Ok(());
        }
        let esp = self.stack_element(2, size, release)?;
        let ss = self.stack_element(3, size, release)? as u16;
        self.return_outer(cs, hidden, eip, ss, esp, size)?;
        self.move_stack(release);
        Ok(())
    }

    fn return_outer(
        &mut self,
        cs: u16,
        code: Hidden,
        eip: u32,
        ss: u16,
        esp: u32,
        size: u32,
    ) -> Step {
        let stack = self.check_stack(ss, rpl(cs), vector::GP)?.hidden();
        Self::within_code(code, eip)?;
        self.cpl = rpl(cs);
        self.set_code(cs, code, eip);
        self.mark_accessed(ss);
        self.set(Seg::Ss, ss, stack);
        // A 16-bit stack gets SP alone.
        self.set_low(Field::Esp, if stack.big { 4 } else { 2 }, esp & mask(size));
        for seg in [Seg::Es, Seg::Fs, Seg::Gs, Seg::Ds] {
            let hidden = self.seg[seg as usize];
            let conforming = hidden.kind & 0x1C == 0x1C;
            if hidden.present && hidden.dpl < self.cpl && !conforming {
                self.set(seg, 0, Hidden::default());
            }
        }
        Ok(())
    }

    /// IRET (vol. 2A, "IRET/IRETD").
    pub(super) fn interrupt_return(&mut self, size: u32) -> Step {
        if self.v86() && self.iopl() < 3 {
            return Err(Fault::new(vector::GP));
        }
        if !self.real() && !self.v86() && self.flags(flag::NT) {
            return self.return_task();
        }
        let eip = self.stack_element(0, size, 0)?;
        let cs = self.stack_element(1, size, 0)? as u16;
        let image = self.stack_element(2, size, 0)?;
        if self.real() || self.v86() {
            if eip > 0xFFFF {
                return Err(Fault::new(vector::GP));
            }
            self.move_stack(3 * size);
            self.set(Seg::Cs, cs, Hidden::paragraph(cs));
            self.state[Field::Eip] = eip;
            self.load_flags(image, size, self.cpl, true);
            return Ok(());
        }
        if size == 4 && image & flag::VM != 0 && self.cpl == 0 {
            return self.return_to_v86(eip, cs, image);
        }
        let hidden = self.return_target(cs)?;
        let from = self.cpl;
        if rpl(cs) == from {
            Self::within_code(hidden, eip)?;
            self.move_stack(3 * size);
            self.set_code(cs, hidden, eip);
        } else {
            let esp = self.stack_element(3, size, 0)?;
            let ss = self.stack_element(4, size, 0)? as u16;
            self.return_outer(cs, hidden, eip, ss, esp, size)?;
        }
        self.load_flags(image, size, from, true);
        Ok(())
    }

    fn return_to_v86(&mut self, eip: u32, cs: u16, image: u32) -> Step {
        let esp = self.stack_element(3, 4, 0)?;
        let values: Vec<u16> = (4..9)
            .map(|n| self.stack_element(n, 4, 0).map(|value| value as u16))
            .collect::<Step<_>>()?;
        if eip > 0xFFFF {
            return Err(Fault::new(vector::GP));
        }
        self.load_flags(image, 4, 0, true);
        self.set_flag(flag::VM, true);
        self.cpl = 3;
        self.state[Field::Esp] = esp;
        self.state[Field::Eip] = eip;
        self.set(Seg::Cs, cs, Hidden::paragraph(cs));
        for (seg, value) in [Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs]
            .into_iter()
            .zip(values)
        {
            self.set(seg, value, Hidden::paragraph(value));
        }
        Ok(())
    }

    /// Flags of POPF and IRET as a program at `cpl` may change them.
    pub(super) fn load_flags(&mut self, image: u32, size: u32, cpl: u8, resume: bool) {
        let mut bits = flag::STATUS | flag::TF | flag::DF | flag::NT;
        let v86 = self.v86();
        if cpl == 0 && !v86 {
            bits |= flag::IOPL;
        }
        if self.real() || v86 || cpl <= self.iopl() {
            bits |= flag::IF;
        }
        if size == 4 {
            bits |= flag::AC | flag::ID;
            if resume {
                bits |= flag::RF;
            }
        }
        let flags = &mut self.state[Field::Eflags];
        *flags = *flags & !bits | image & bits;
    }
}
