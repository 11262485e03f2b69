//! Model-specific registers, counters, CPUID.

use super::event::Exception;
use super::{Flow, System, cpuid::feature};
use crate::state::{cr4, efer, reg};
use iced_x86::Instruction;

/// Addresses (Intel SDM vol. 4, tables 2-2 and 2-53 to 2-55).
mod address {
    pub(super) const P5_MC_ADDR: u32 = 0x0;
    pub(super) const P5_MC_TYPE: u32 = 0x1;
    pub(super) const TIME_STAMP_COUNTER: u32 = 0x10;
    pub(super) const P5_CESR: u32 = 0x11;
    pub(super) const P5_CTR1: u32 = 0x13;
    pub(super) const PLATFORM_ID: u32 = 0x17;
    pub(super) const APIC_BASE: u32 = 0x1B;
    pub(super) const EBL_CR_POWERON: u32 = 0x2A;
    pub(super) const TEST_CTL: u32 = 0x33;
    pub(super) const BIOS_UPDT_TRIG: u32 = 0x79;
    pub(super) const BBL_CR_D0: u32 = 0x88;
    pub(super) const BIOS_SIGN: u32 = 0x8B;
    pub(super) const PERFCTR0: u32 = 0xC1;
    pub(super) const PERFCTR1: u32 = 0xC2;
    pub(super) const BBL_CR_ADDR: u32 = 0x116;
    pub(super) const BBL_CR_DECC: u32 = 0x118;
    pub(super) const BBL_CR_BUSY: u32 = 0x11B;
    pub(super) const BBL_CR_CTL3: u32 = 0x11E;
    pub(super) const SYSENTER_CS: u32 = 0x174;
    pub(super) const SYSENTER_ESP: u32 = 0x175;
    pub(super) const SYSENTER_EIP: u32 = 0x176;
    pub(super) const EVNTSEL0: u32 = 0x186;
    pub(super) const EVNTSEL1: u32 = 0x187;
    pub(super) const MISC_ENABLE: u32 = 0x1A0;
    pub(super) const DEBUGCTL: u32 = 0x1D9;
    pub(super) const LAST_BRANCH_FROM: u32 = 0x1DB;
    pub(super) const LAST_EXCEPTION_TO: u32 = 0x1DE;
    pub(super) const EFER: u32 = 0xC000_0080;
}

/// Bits of IA32_MISC_ENABLE (Intel SDM vol. 4, table 2-2).
mod misc_enable {
    /// Fast REP MOVS and STOS.
    pub(super) const FAST_STRINGS: u64 = 1 << 0;
    /// Read-only: there is no branch trace storage.
    pub(super) const NO_BTS: u64 = 1 << 11;
    /// Read-only: there is no event-based sampling.
    pub(super) const NO_PEBS: u64 = 1 << 12;
    /// CPUID has no basic leaf above 3, for operating systems that cannot take more.
    pub(super) const LIMIT_CPUID: u64 = 1 << 22;
    /// What a write can change.
    pub(super) const WRITABLE: u64 = FAST_STRINGS | LIMIT_CPUID;
}

/// What APIC_BASE reads as: the default address, bootstrap processor, disabled by hardware.
const APIC_BASE_DISABLED: u64 = 0xFEE0_0100;

impl System<'_> {
    /// The value of a model-specific register, `None` where the processor has none.
    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        use address::*;
        let p6 = self.model.has(feature::CMOV);
        Some(match msr {
            P5_MC_ADDR | P5_MC_TYPE => 0,
            TIME_STAMP_COUNTER => self.time_stamp(),
            P5_CESR..=P5_CTR1 if !p6 => 0,
            APIC_BASE if p6 => APIC_BASE_DISABLED,
            SYSENTER_CS if self.model.has(feature::SEP) => u64::from(self.cpu.msrs.sysenter_cs),
            SYSENTER_ESP if self.model.has(feature::SEP) => u64::from(self.cpu.msrs.sysenter_esp),
            SYSENTER_EIP if self.model.has(feature::SEP) => u64::from(self.cpu.msrs.sysenter_eip),
            MISC_ENABLE if self.model.has_misc_enable() => {
                self.cpu.msrs.misc_enable | misc_enable::NO_BTS | misc_enable::NO_PEBS
            }
            EFER if self.model.has_execute_disable() => self.cpu.msrs.efer,
            // Real registers of which a guest can see no effect: microcode (none loaded), cache
            // set-up, performance counters that stand still, last-branch records of nothing.
            PLATFORM_ID
            | EBL_CR_POWERON
            | TEST_CTL
            | BBL_CR_D0..=BIOS_SIGN
            | PERFCTR0
            | PERFCTR1
            | BBL_CR_ADDR
            | BBL_CR_DECC..=BBL_CR_BUSY
            | BBL_CR_CTL3
            | EVNTSEL0
            | EVNTSEL1
            | DEBUGCTL
            | LAST_BRANCH_FROM..=LAST_EXCEPTION_TO
                if p6 =>
            {
                0
            }
            _ => return None,
        })
    }

    /// Writes a model-specific register; `None` where the processor has none or refuses the value.
    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        use address::*;
        let p6 = self.model.has(feature::CMOV);
        let sep = self.model.has(feature::SEP);
        match msr {
            // On the P6 a write sets the low half and clears the high one (Intel SDM vol. 3B, 18.17).
            TIME_STAMP_COUNTER => {
                let low_only = p6 && !self.model.has_misc_enable();
                let value = if low_only { value & 0xFFFF_FFFF } else { value };
                self.cpu.msrs.tsc_offset = value.wrapping_sub(self.platform.tsc());
            }
            SYSENTER_CS if sep => self.cpu.msrs.sysenter_cs = value as u32,
            SYSENTER_ESP if sep => self.cpu.msrs.sysenter_esp = value as u32,
            SYSENTER_EIP if sep => self.cpu.msrs.sysenter_eip = value as u32,
            MISC_ENABLE if self.model.has_misc_enable() => {
                let changed = value ^ self.read_msr(MISC_ENABLE)?;
                if changed & !misc_enable::WRITABLE != 0 {
                    return None;
                }
                self.cpu.msrs.misc_enable = value & misc_enable::WRITABLE;
            }
            EFER if self.model.has_execute_disable() => {
                if value & !efer::NXE != 0 {
                    return None;
                }
                self.cpu.msrs.efer = value;
                self.update_paging();
            }
            P5_MC_ADDR | P5_MC_TYPE => {}
            P5_CESR..=P5_CTR1 if !p6 => {}
            APIC_BASE
            | EBL_CR_POWERON
            | TEST_CTL
            | BIOS_UPDT_TRIG
            | BBL_CR_D0..=BIOS_SIGN
            | PERFCTR0
            | PERFCTR1
            | BBL_CR_ADDR
            | BBL_CR_DECC..=BBL_CR_BUSY
            | BBL_CR_CTL3
            | EVNTSEL0
            | EVNTSEL1
            | DEBUGCTL
                if p6 => {}
            _ => return None,
        }
        Some(())
    }

    fn require_msrs(&self) -> Result<(), Exception> {
        if !self.model.has(feature::MSR) {
            return Err(Exception::invalid_opcode());
        }
        self.require_cpl0()
    }

    /// RDMSR.
    pub(super) fn rdmsr(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_msrs()?;
        let msr = self.cpu.gpr[reg::ECX];
        let Some(value) = self.read_msr(msr) else {
            return Err(Exception::general_protection());
        };
        self.set_edx_eax(value);
        Ok(Flow::Next)
    }

    /// WRMSR.
    pub(super) fn wrmsr(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        self.require_msrs()?;
        let msr = self.cpu.gpr[reg::ECX];
        let value = u64::from(self.cpu.gpr[reg::EDX]) << 32 | u64::from(self.cpu.gpr[reg::EAX]);
        if self.write_msr(msr, value).is_none() {
            return Err(Exception::general_protection());
        }
        Ok(Flow::Next)
    }

    fn set_edx_eax(&mut self, value: u64) {
        self.cpu.gpr[reg::EAX] = value as u32;
        self.cpu.gpr[reg::EDX] = (value >> 32) as u32;
    }

    fn time_stamp(&mut self) -> u64 {
        self.platform.tsc().wrapping_add(self.cpu.msrs.tsc_offset)
    }

    /// RDTSC.
    pub(super) fn rdtsc(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        if !self.model.has(feature::TSC) {
            return Err(Exception::invalid_opcode());
        }
        if self.cpu.cr4 & cr4::TSD != 0 {
            self.require_cpl0()?;
        }
        let value = self.time_stamp();
        self.set_edx_eax(value);
        Ok(Flow::Next)
    }

    /// RDPMC: two counters that stand still.
    pub(super) fn rdpmc(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        if !self.model.has_performance_counters() {
            return Err(Exception::invalid_opcode());
        }
        if self.cpu.cr4 & cr4::PCE == 0 {
            self.require_cpl0()?;
        }
        if self.cpu.gpr[reg::ECX] > 1 {
            return Err(Exception::general_protection());
        }
        self.set_edx_eax(0);
        Ok(Flow::Next)
    }

    /// CPUID.
    pub(super) fn cpuid(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        let (leaf, subleaf) = (self.cpu.gpr[reg::EAX], self.cpu.gpr[reg::ECX]);
        let limited = self.cpu.msrs.misc_enable & misc_enable::LIMIT_CPUID != 0;
        let [eax, ebx, ecx, edx] = self.model.cpuid(leaf, subleaf, limited);
        self.cpu.gpr[reg::EAX] = eax;
        self.cpu.gpr[reg::EBX] = ebx;
        self.cpu.gpr[reg::ECX] = ecx;
        self.cpu.gpr[reg::EDX] = edx;
        Ok(Flow::Next)
    }
}
