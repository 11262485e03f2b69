//! Task switches (Intel SDM vol. 3A, chapter 7).

use super::debug::dr7;
use super::descriptor::{Entry, is_null, rpl, system_type};
use super::event::{Exception, vector};
use super::{Flow, System};
use crate::state::{Rights, Segment, cr0, eflags, seg};
use shadow_mmu::Privilege;

/// What causes a task switch: it decides over busy bits, the link and NT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// JMP.
    Jump,
    /// CALL.
    Call,
    /// An interrupt or exception through a task gate.
    Interrupt,
    /// IRET with NT set.
    Return,
}

impl Switch {
    /// The old task stays busy and is linked from the new one.
    fn nests(self) -> bool {
        matches!(self, Switch::Call | Switch::Interrupt)
    }
}

/// The T bit of the new TSS was set: #DB before the first instruction of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trap;

/// How an instruction that switched tasks ends.
pub(super) fn flow_after_switch(trap: Option<Trap>) -> Flow {
    match trap {
        None => Flow::Switched,
        Some(trap) => Flow::Trap(trap.exception()),
    }
}

/// Segment registers in the order of the TSS, which is that of their numbers.
const SEGMENTS: [usize; 6] = [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS];

/// Offsets of a 32-bit TSS (Intel SDM vol. 3A, figure 7-2).
mod tss32 {
    pub(super) const SIZE: usize = 104;
    pub(super) const CR3: usize = 0x1C;
    pub(super) const EIP: usize = 0x20;
    pub(super) const EFLAGS: usize = 0x24;
    pub(super) const GENERAL: usize = 0x28;
    pub(super) const SEGMENTS: usize = 0x48;
    pub(super) const LDT: usize = 0x60;
    pub(super) const TRAP: usize = 0x64;
    /// What a switch away writes.
    pub(super) const SAVED: std::ops::Range<usize> = EIP..LDT;
}

/// Offsets of a 16-bit TSS (Intel SDM vol. 3A, figure 7-10).
mod tss16 {
    pub(super) const SIZE: usize = 44;
    pub(super) const IP: usize = 0x0E;
    pub(super) const FLAGS: usize = 0x10;
    pub(super) const GENERAL: usize = 0x12;
    pub(super) const SEGMENTS: usize = 0x22;
    pub(super) const LDT: usize = 0x2A;
    /// What a switch away writes.
    pub(super) const SAVED: std::ops::Range<usize> = IP..LDT;
}

/// The image of a TSS in memory; a 16-bit one uses the first part.
struct Image {
    bytes: [u8; tss32::SIZE],
    is_32_bit: bool,
}

impl Image {
    fn word(&self, at: usize) -> u16 {
        match self.bytes.get(at..at + 2) {
            Some(&[a, b]) => u16::from_le_bytes([a, b]),
            _ => 0,
        }
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    fn set_word(&mut self, at: usize, value: u16) {
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn set_dword(&mut self, at: usize, value: u32) {
        self.set_word(at, value as u16);
        self.set_word(at + 2, (value >> 16) as u16);
    }

    fn saved(&self) -> std::ops::Range<usize> {
        if self.is_32_bit {
            tss32::SAVED
        } else {
            tss16::SAVED
        }
    }

    fn eip(&self) -> u32 {
        if self.is_32_bit {
            self.dword(tss32::EIP)
        } else {
            u32::from(self.word(tss16::IP))
        }
    }

    fn eflags(&self) -> u32 {
        if self.is_32_bit {
            self.dword(tss32::EFLAGS)
        } else {
            u32::from(self.word(tss16::FLAGS))
        }
    }

    /// A general register; the upper half is all ones in what a 16-bit TSS gives.
    fn general(&self, n: usize) -> u32 {
        if self.is_32_bit {
            self.dword(tss32::GENERAL + n * 4)
        } else {
            0xFFFF_0000 | u32::from(self.word(tss16::GENERAL + n * 2))
        }
    }

    /// A selector; a 16-bit TSS has none for FS and GS.
    fn selector(&self, n: usize) -> u16 {
        if self.is_32_bit {
            self.word(tss32::SEGMENTS + n * 4)
        } else if n < seg::FS {
            self.word(tss16::SEGMENTS + n * 2)
        } else {
            0
        }
    }

    fn ldt(&self) -> u16 {
        self.word(if self.is_32_bit {
            tss32::LDT
        } else {
            tss16::LDT
        })
    }

    fn trap(&self) -> bool {
        self.is_32_bit && self.word(tss32::TRAP) & 1 != 0
    }
}

impl System<'_> {
    /// Reads the TSS that `task` describes; #TS(selector) when it is too short.
    fn task_image(&mut self, task: &Segment) -> Result<Image, Exception> {
        // Type bit 3 tells a 32-bit TSS from a 16-bit one.
        let is_32_bit = task.rights.contains(Rights::CODE);
        let size = if is_32_bit { tss32::SIZE } else { tss16::SIZE };
        if (task.limit as usize) < size - 1 {
            return Err(Exception::selector(vector::TS, task.selector));
        }
        let mut image = Image {
            bytes: [0; tss32::SIZE],
            is_32_bit,
        };
        let bytes = image.bytes.get_mut(..size).unwrap_or_default();
        self.read_linear(task.base, bytes, Privilege::Supervisor)?;
        Ok(image)
    }

    /// Fills in what a switch away from the current task saves.
    fn save_into(&self, image: &mut Image, eip: u32, flags: u32) {
        let cpu = &self.cpu;
        if image.is_32_bit {
            image.set_dword(tss32::EIP, eip);
            image.set_dword(tss32::EFLAGS, flags);
        } else {
            image.set_word(tss16::IP, eip as u16);
            image.set_word(tss16::FLAGS, flags as u16);
        }
        for (n, &value) in cpu.gpr.iter().enumerate() {
            if image.is_32_bit {
                image.set_dword(tss32::GENERAL + n * 4, value);
            } else {
                image.set_word(tss16::GENERAL + n * 2, value as u16);
            }
        }
        for n in SEGMENTS {
            let selector = cpu.seg[n].selector;
            if image.is_32_bit {
                image.set_word(tss32::SEGMENTS + n * 4, selector);
            } else if n < seg::FS {
                image.set_word(tss16::SEGMENTS + n * 2, selector);
            }
        }
    }

    /// Switches to the task of a TSS descriptor that the caller has checked (type, busy, present,
    /// privilege). `return_eip` and `saved_flags` go into the old TSS. The new EIP is not checked
    /// against the limit of CS.
    ///
    /// # Errors
    /// Up to the point where the old state is saved, the state is as before. Later faults are
    /// raised in the new task, as the processor does (Intel SDM vol. 3A, section 7.3).
    pub(super) fn switch_task(
        &mut self,
        task: &Entry,
        how: Switch,
        return_eip: u32,
        saved_flags: u32,
    ) -> Result<Option<Trap>, Exception> {
        let mut register = task.segment();
        register.rights |= Rights::from_bits_retain(u32::from(system_type::BUSY));
        let new = self.task_image(&register)?;
        let old_register = self.cpu.tr;
        let mut old = self.task_image(&old_register)?;
        self.save_into(&mut old, return_eip, saved_flags);
        let saved = old.saved();
        let saved_at = old_register.base.wrapping_add(saved.start as u32);
        let saved_bytes = old.bytes.get(saved).unwrap_or_default();

        // Whatever is going to be written has to be writable first.
        let old_descriptor = self.task_descriptor_address();
        self.check_write(saved_at, saved_bytes.len(), Privilege::Supervisor)?;
        if how.nests() {
            self.check_write(register.base, 2, Privilege::Supervisor)?;
        } else {
            self.check_write(old_descriptor.wrapping_add(5), 1, Privilege::Supervisor)?;
        }
        self.check_write(task.address.wrapping_add(5), 1, Privilege::Supervisor)?;

        if !how.nests() {
            self.mark_busy(old_descriptor, false)?;
        }
        self.write_linear(saved_at, saved_bytes, Privilege::Supervisor)?;
        if how.nests() {
            let link = old_register.selector.to_le_bytes();
            self.write_linear(register.base, &link, Privilege::Supervisor)?;
        }
        if how != Switch::Return {
            self.mark_busy(task.address, true)?;
        }
        self.cpu.tr = register;
        self.enter_task(&new, how)?;
        Ok(new.trap().then_some(Trap))
    }

    /// Loads the state of the new task; from here on faults are its own.
    fn enter_task(&mut self, new: &Image, how: Switch) -> Result<(), Exception> {
        let flags_mask = super::flags::ALWAYS
            | eflags::IF
            | eflags::IOPL
            | if new.is_32_bit {
                eflags::VM | eflags::RF | self.model.wide_flags()
            } else {
                0
            };
        let cpu = &mut *self.cpu;
        cpu.cr0 |= cr0::TS;
        cpu.dr[7] &= !dr7::LOCAL;
        cpu.eip = new.eip();
        cpu.eflags = (new.eflags() & flags_mask) | eflags::FIXED;
        if how.nests() {
            cpu.eflags |= eflags::NT;
        }
        for (n, value) in cpu.gpr.iter_mut().enumerate() {
            *value = new.general(n);
        }
        for n in SEGMENTS {
            cpu.seg[n] = Segment::null(new.selector(n));
        }
        let ldt = new.ldt();
        cpu.ldtr = Segment::null(ldt);
        let v86 = cpu.eflags & eflags::VM != 0;
        let code_selector = new.selector(seg::CS);
        cpu.cpl = if v86 { 3 } else { rpl(code_selector) };
        if new.is_32_bit && cpu.cr0 & cr0::PG != 0 {
            let cr3 = new.dword(tss32::CR3) & self.cr3_bits();
            self.cpu.cr3 = cr3;
            self.mmu.load_cr3(self.cpu.cr3);
        }

        self.cpu.ldtr = self.ldt_segment(ldt, vector::TS, vector::TS)?;
        if v86 {
            for n in SEGMENTS {
                self.cpu.seg[n] = Segment::virtual_8086(new.selector(n));
            }
            return Ok(());
        }
        let code = self.task_code_segment(code_selector)?;
        self.mark_accessed(&code)?;
        self.cpu.seg[seg::CS] = code.segment();
        let stack = self.stack_segment(new.selector(seg::SS), self.cpu.cpl, vector::TS)?;
        self.mark_accessed(&stack)?;
        self.cpu.seg[seg::SS] = stack.segment();
        for n in [seg::DS, seg::ES, seg::FS, seg::GS] {
            let selector = new.selector(n);
            if is_null(selector) {
                continue;
            }
            let data = self.data_segment(selector, vector::TS)?;
            self.mark_accessed(&data)?;
            self.cpu.seg[n] = data.segment();
        }
        Ok(())
    }

    fn task_code_segment(&mut self, selector: u16) -> Result<Entry, Exception> {
        if is_null(selector) {
            return Err(Exception::selector(vector::TS, selector));
        }
        let entry = self.require_descriptor(selector, vector::TS)?;
        let (descriptor, rpl) = (entry.descriptor, rpl(selector));
        let privilege_fits = if descriptor.is_conforming() {
            descriptor.dpl() <= rpl
        } else {
            descriptor.dpl() == rpl
        };
        if !descriptor.is_code() || !privilege_fits {
            return Err(entry.fault(vector::TS));
        }
        entry.require_present()?;
        Ok(entry)
    }
}
