//! Control and debug registers, descriptor-table registers, cache and TLB control.

use super::debug::{dr6, dr7};
use super::event::Exception;
use super::{Flow, System};
use crate::state::{TableRegister, cr0, cr4};
use iced_x86::{Instruction, OpKind};
use shadow_mmu::PagingRegs;

/// Bits of CR0 that exist; writes to the others are ignored.
const CR0_BITS: u32 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// Bits of CR3 that are kept without PAE: the page directory, PCD, PWT.
const CR3_BITS: u32 = 0xFFFF_F018;
/// Bits of CR3 that are kept with PAE: the table of four pointers, PCD, PWT.
const CR3_BITS_PAE: u32 = 0xFFFF_FFF8;
/// Bits of a page-directory-pointer-table entry that must be 0 whatever the address width (Intel SDM
/// vol. 3A, table 4-8).
const PDPTE_RESERVED: u64 = 0x1E6;
/// Bits of CR0 that LMSW loads; PE is never cleared by it.
const LMSW_BITS: u32 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

impl System<'_> {
    /// Hands CR0, CR3, CR4 and EFER to the shadow MMU.
    pub(super) fn update_paging(&mut self) {
        self.mmu.set_paging(PagingRegs {
            cr0: self.cpu.cr0,
            cr3: self.cpu.cr3,
            cr4: self.cpu.cr4,
            efer: self.cpu.msrs.efer,
        });
    }

    /// MOV to and from control registers.
    pub(super) fn mov_control(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (first, second) = (insn.op0_register(), insn.op1_register());
        let (control, writes) = if first.is_cr() {
            (first, true)
        } else {
            (second, false)
        };
        let number = control.number();
        let exists = match number {
            0 | 2 | 3 => true,
            4 => self.model.has_cr4(),
            _ => false,
        };
        if !exists {
            return Err(Exception::invalid_opcode());
        }
        self.require_cpl0()?;
        if !writes {
            let value = match number {
                0 => self.cpu.cr0,
                2 => self.cpu.cr2,
                3 => self.cpu.cr3,
                _ => self.cpu.cr4,
            };
            self.set_register(first, value);
            return Ok(Flow::Next);
        }
        let value = self.register(second);
        match number {
            0 => self.write_cr0(value)?,
            2 => self.cpu.cr2 = value,
            3 => {
                let value = value & self.cr3_bits();
                self.check_pointers(self.cpu.cr0, self.cpu.cr4, value)?;
                self.cpu.cr3 = value;
                self.mmu.load_cr3(value);
            }
            _ => self.write_cr4(value)?,
        }
        Ok(Flow::Next)
    }

    fn write_cr0(&mut self, value: u32) -> Result<(), Exception> {
        let value = (value & CR0_BITS) | cr0::ET;
        let paging_without_protection = value & (cr0::PG | cr0::PE) == cr0::PG;
        let write_through_without_cache_disable = value & (cr0::CD | cr0::NW) == cr0::NW;
        if paging_without_protection || write_through_without_cache_disable {
            return Err(Exception::general_protection());
        }
        let changed = self.cpu.cr0 ^ value;
        if changed & cr0::PG != 0 {
            self.check_pointers(value, self.cpu.cr4, self.cpu.cr3)?;
        }
        self.cpu.cr0 = value;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.update_paging();
        }
        Ok(())
    }

    /// The bits of CR3 that a load keeps.
    pub(super) fn cr3_bits(&self) -> u32 {
        if self.cpu.cr4 & cr4::PAE != 0 {
            CR3_BITS_PAE
        } else {
            CR3_BITS
        }
    }

    /// PAE paging reads its four page-directory pointers when CR3 is loaded, and when a change of
    /// CR0 or CR4 turns it on; one that is present with a reserved bit is #GP(0) (Intel SDM vol. 3A,
    /// 4.4.1).
    fn check_pointers(&self, cr0: u32, cr4: u32, cr3: u32) -> Result<(), Exception> {
        if cr0 & cr0::PG == 0 || cr4 & cr4::PAE == 0 {
            return Ok(());
        }
        let mut table = [0; 32];
        if self
            .mmu
            .read_phys(u64::from(cr3 & !0x1F), &mut table)
            .is_err()
        {
            return Ok(());
        }
        let reserved = PDPTE_RESERVED | u64::MAX << self.model.physical_bits();
        let bad = table.chunks_exact(8).any(|entry| {
            let entry = entry
                .iter()
                .rev()
                .fold(0, |value, &byte| (value << 8) | u64::from(byte));
            entry & 1 != 0 && entry & reserved != 0
        });
        if bad {
            return Err(Exception::general_protection());
        }
        Ok(())
    }

    fn write_cr4(&mut self, value: u32) -> Result<(), Exception> {
        if value & !self.model.cr4_bits() != 0 {
            return Err(Exception::general_protection());
        }
        let changed = self.cpu.cr4 ^ value;
        self.check_pointers(self.cpu.cr0, value, self.cpu.cr3)?;
        self.cpu.cr4 = value;
        if changed & (cr4::PSE | cr4::PAE | cr4::PGE) != 0 {
            self.update_paging();
        }
        Ok(())
    }

    /// MOV to and from debug registers.
    pub(super) fn mov_debug(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (first, second) = (insn.op0_register(), insn.op1_register());
        let (debug, writes) = if first.is_dr() {
            (first, true)
        } else {
            (second, false)
        };
        // DR4 and DR5 are other names of DR6 and DR7, unless CR4.DE is set.
        let number = match debug.number() {
            4 | 5 if self.cpu.cr4 & cr4::DE != 0 => return Err(Exception::invalid_opcode()),
            number @ (4 | 5) => number + 2,
            number => number,
        };
        if number >= self.cpu.dr.len() {
            return Err(Exception::invalid_opcode());
        }
        self.require_cpl0()?;
        if self.cpu.dr[7] & dr7::GD != 0 {
            return Err(Exception::debug_fault(dr6::BD));
        }
        if writes {
            let value = self.register(second);
            self.cpu.dr[number] = match number {
                6 => (value & dr6::WRITABLE) | dr6::FIXED,
                7 => (value & dr7::WRITABLE) | dr7::FIXED,
                _ => value,
            };
        } else {
            self.set_register(first, self.cpu.dr[number]);
        }
        Ok(Flow::Next)
    }

    /// CLTS.
    pub(super) fn clts(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_cpl0()?;
        self.cpu.cr0 &= !cr0::TS;
        Ok(Flow::Next)
    }

    /// LMSW.
    pub(super) fn lmsw(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_cpl0()?;
        let value = u32::from(self.read_operand16(insn, 0)?);
        let keep_protection = self.cpu.cr0 & cr0::PE;
        self.write_cr0((self.cpu.cr0 & !LMSW_BITS) | (value & LMSW_BITS) | keep_protection)?;
        Ok(Flow::Next)
    }

    /// SMSW. A 32-bit register gets all of CR0, as from the P6 on.
    pub(super) fn smsw(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        if insn.op0_kind() == OpKind::Register {
            self.set_register(insn.op0_register(), self.cpu.cr0);
        } else {
            self.write_operand16(insn, 0, self.cpu.cr0 as u16)?;
        }
        Ok(Flow::Next)
    }

    /// INVLPG.
    pub(super) fn invlpg(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.require_cpl0()?;
        let (index, offset) = self.effective_address(insn, 0);
        let base = self.cpu.seg.get(index).map_or(0, |segment| segment.base);
        self.mmu.invlpg(base.wrapping_add(offset));
        Ok(Flow::Next)
    }

    /// INVD, WBINVD: there is no cache to be seen.
    pub(super) fn invalidate_caches(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_cpl0()?;
        Ok(Flow::Next)
    }

    fn load_table_register(&mut self, insn: &Instruction) -> Result<TableRegister, Exception> {
        self.require_cpl0()?;
        let (index, offset) = self.effective_address(insn, 0);
        let [l0, l1, b0, b1, b2, b3] = self.read_segment(index, offset)?;
        let wide = matches!(
            insn.code(),
            iced_x86::Code::Lgdt_m1632 | iced_x86::Code::Lidt_m1632
        );
        Ok(TableRegister {
            base: u32::from_le_bytes([b0, b1, b2, if wide { b3 } else { 0 }]),
            limit: u16::from_le_bytes([l0, l1]),
        })
    }

    /// LGDT.
    pub(super) fn lgdt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.cpu.gdtr = self.load_table_register(insn)?;
        Ok(Flow::Next)
    }

    /// LIDT.
    pub(super) fn lidt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.cpu.idtr = self.load_table_register(insn)?;
        Ok(Flow::Next)
    }

    /// All 32 bits of the base are stored whatever the operand size: what processors do, if not
    /// what every edition of the manual says.
    fn store_table_register(
        &mut self,
        insn: &Instruction,
        table: TableRegister,
    ) -> Result<Flow, Exception> {
        let [l0, l1] = table.limit.to_le_bytes();
        let [b0, b1, b2, b3] = table.base.to_le_bytes();
        let (index, offset) = self.effective_address(insn, 0);
        self.write_segment(index, offset, &[l0, l1, b0, b1, b2, b3])?;
        Ok(Flow::Next)
    }

    /// SGDT.
    pub(super) fn sgdt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.store_table_register(insn, self.cpu.gdtr)
    }

    /// SIDT.
    pub(super) fn sidt(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        self.store_table_register(insn, self.cpu.idtr)
    }
}
