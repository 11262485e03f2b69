//! Task switches (Intel SDM vol. 3A, section 7.3).

use super::super::Field;
use super::super::op::{Far, Seg};
use super::super::world::{kind, tss16, tss32};
use super::segment::{Descriptor, Hidden, is_null, rpl};
use super::{Cpu, Fault, Step, flag, vector};

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Jump,
    Call,
    Interrupt { external: bool },
    Return,
}

impl From<Far> for Cause {
    fn from(how: Far) -> Cause {
        match how {
            Far::Jump => Cause::Jump,
            Far::Call => Cause::Call,
        }
    }
}

/// General registers in the order of a TSS.
const GENERAL: [Field; 8] = [
    Field::Eax,
    Field::Ecx,
    Field::Edx,
    Field::Ebx,
    Field::Esp,
    Field::Ebp,
    Field::Esi,
    Field::Edi,
];

/// CR0.TS.
const TS: u32 = 8;

impl Cpu {
    /// IRET with NT set.
    pub(super) fn return_task(&mut self) -> Step {
        let task = self.memory.read(self.tr.base + tss32::LINK, 2) as u16;
        let bad = Fault::of(vector::TS, task);
        if task & 4 != 0 || is_null(task) {
            return Err(bad);
        }
        let tss = self.require(task, vector::TS)?;
        if !matches!(tss.kind(), kind::TSS_16_BUSY | kind::TSS_32_BUSY) {
            return Err(bad);
        }
        if !tss.present() {
            return Err(Fault::of(vector::NP, task));
        }
        self.switch_task(task, tss, Cause::Return, None)
    }

    /// Switches to `task`, whose descriptor has been checked. `code` goes on the new stack.
    pub(super) fn switch_task(
        &mut self,
        task: u16,
        tss: Descriptor,
        cause: Cause,
        code: Option<u32>,
    ) -> Step {
        let external = cause == Cause::Interrupt { external: true };
        let new = tss.hidden();
        let wide = new.kind & 8 != 0;
        let least = if wide { 0x67 } else { 0x2B };
        if new.limit < least {
            return Err(Fault::of(vector::TS, task).external(external));
        }
        let old_selector = self.state[Field::Tr] as u16;
        let mut flags = self.state[Field::Eflags];
        if cause == Cause::Return {
            flags &= !flag::NT;
        }
        if matches!(cause, Cause::Jump | Cause::Return) {
            self.set_busy(old_selector, false);
        }
        self.save_task(flags);
        if matches!(cause, Cause::Call | Cause::Interrupt { .. }) {
            self.memory
                .write(new.base + tss32::LINK, 2, old_selector.into());
        }
        let mut selectors = self.load_task(new, wide);
        if matches!(cause, Cause::Call | Cause::Interrupt { .. }) {
            self.state[Field::Eflags] |= flag::NT;
        }
        if cause != Cause::Return {
            self.set_busy(task, true);
        }
        self.state[Field::Cr0] |= TS;
        self.state[Field::Tr] = task.into();
        self.tr = new;
        self.tr.kind |= 2;
        self.committed = true;
        if self.v86() {
            self.cpl = 3;
            for seg in Seg::ALL {
                let selector = selectors[seg as usize];
                self.set(seg, selector, Hidden::paragraph(selector));
            }
            selectors[..6].fill(0);
        }
        self.task_segments(selectors, external)?;
        if let Some(code) = code {
            self.push(if wide { 4 } else { 2 }, code)?;
        }
        if self.state[Field::Eip] > self.seg[Seg::Cs as usize].limit {
            return Err(Fault::new(vector::GP).external(external));
        }
        Ok(())
    }

    fn set_busy(&mut self, task: u16, busy: bool) {
        if let Some(address) = self.descriptor_address(task) {
            let byte = self.memory.read(address + 5, 1);
            let byte = if busy { byte | 2 } else { byte & !2 };
            self.memory.write(address + 5, 1, byte);
        }
    }

    fn save_task(&mut self, flags: u32) {
        let base = self.tr.base;
        let (eip, eflags, registers, segments, size, count) = if self.tr.kind & 8 != 0 {
            (tss32::EIP, tss32::EFLAGS, tss32::EAX, tss32::ES, 4, 6)
        } else {
            (tss16::IP, tss16::FLAGS, tss16::AX, tss16::ES, 2, 4)
        };
        let value = self.state[Field::Eip];
        self.memory.write(base + eip, size, value);
        self.memory.write(base + eflags, size, flags);
        for (index, field) in GENERAL.into_iter().enumerate() {
            let value = self.state[field];
            self.memory
                .write(base + registers + size * index as u32, size, value);
        }
        for (index, seg) in Seg::ALL.into_iter().take(count).enumerate() {
            let value = self.state[seg.field()];
            // Of a 32-bit slot the upper half stays as it is.
            self.memory
                .write(base + segments + size * index as u32, 2, value);
        }
    }

    /// Loads all but the segment registers; their selectors and the LDT's.
    fn load_task(&mut self, new: Hidden, wide: bool) -> [u16; 7] {
        let (eip, eflags, registers, segments, ldt, size, count) = if wide {
            (
                tss32::EIP,
                tss32::EFLAGS,
                tss32::EAX,
                tss32::ES,
                tss32::LDT,
                4,
                6,
            )
        } else {
            (
                tss16::IP,
                tss16::FLAGS,
                tss16::AX,
                tss16::ES,
                tss16::LDT,
                2,
                4,
            )
        };
        let read = |offset: u32| self.memory.read(new.base + offset, size);
        let values = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| read(registers + size * index));
        let mut selectors = [0; 7];
        for (index, selector) in selectors.iter_mut().take(count).enumerate() {
            *selector = read(segments + size * index as u32) as u16;
        }
        selectors[6] = read(ldt) as u16;
        let (eip, flags) = (read(eip), read(eflags));
        let upper = if wide { 0 } else { 0xFFFF_0000 };
        for (field, value) in GENERAL.into_iter().zip(values) {
            self.state[field] = value | upper;
        }
        self.state[Field::Eip] = eip;
        // Of a 16-bit TSS the upper half of EFLAGS becomes 0.
        self.state[Field::Eflags] = flags & 0x27_7FD5 | 2;
        selectors
    }

    /// LDTR, CS, SS and the data segments of the new task, whose faults are the new task's.
    fn task_segments(&mut self, selectors: [u16; 7], external: bool) -> Step {
        let ext = |fault: Fault| fault.external(external);
        let ldt = selectors[6];
        let cs = selectors[Seg::Cs as usize];
        if !self.v86() {
            // The level is that of the selector in CS, which has been loaded (section 7.3).
            self.cpl = rpl(cs);
        }
        for seg in Seg::ALL {
            if !self.v86() {
                self.set(seg, selectors[seg as usize], Hidden::default());
            }
        }
        self.state[Field::Ldtr] = ldt.into();
        self.ldt = Hidden::default();
        if !is_null(ldt) {
            let bad = ext(Fault::of(vector::TS, ldt));
            let descriptor = if ldt & 4 == 0 {
                self.descriptor(ldt)
            } else {
                None
            };
            let descriptor = descriptor
                .filter(|d| d.kind() == kind::LDT && d.present())
                .ok_or(bad)?;
            self.ldt = descriptor.hidden();
        }
        if self.v86() {
            return Ok(());
        }
        let bad = ext(Fault::of(vector::TS, cs));
        if is_null(cs) {
            return Err(bad);
        }
        let code = self.descriptor(cs).ok_or(bad)?;
        let level = rpl(cs);
        let allowed = code.is_code()
            && if code.is_conforming() {
                code.dpl() <= level
            } else {
                code.dpl() == level
            };
        if !allowed {
            return Err(bad);
        }
        if !code.present() {
            return Err(ext(Fault::of(vector::NP, cs)));
        }
        self.mark_accessed(cs);
        self.set(Seg::Cs, cs, code.hidden());
        let ss = selectors[Seg::Ss as usize];
        let stack = self.check_stack(ss, level, vector::TS).map_err(ext)?;
        self.mark_accessed(ss);
        self.set(Seg::Ss, ss, stack.hidden());
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            let selector = selectors[seg as usize];
            if is_null(selector) {
                continue;
            }
            let bad = ext(Fault::of(vector::TS, selector));
            let data = self.descriptor(selector).ok_or(bad)?;
            let reachable =
                data.is_conforming() || data.dpl() >= level && data.dpl() >= rpl(selector);
            if !data.is_readable() || !reachable {
                return Err(bad);
            }
            if !data.present() {
                return Err(ext(Fault::of(vector::NP, selector)));
            }
            self.mark_accessed(selector);
            self.set(seg, selector, data.hidden());
        }
        Ok(())
    }
}
