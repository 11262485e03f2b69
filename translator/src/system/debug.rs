//! Debug registers: the bits, and which breakpoint an access or a fetch meets (Intel SDM vol. 3B,
//! section 17.2).
//!
//! Translated code runs without looking for breakpoints. The runtime runs the pages that
//! [`execute_pages`] names one instruction at a time, has no window map those that [`data_pages`]
//! names, and asks here for each instruction and access there. A hit of a data or I/O breakpoint is
//! noted in [`CpuState::pending_debug`] until the instruction has ended.

use super::event::Exception;
use crate::state::{CpuState, InterruptShadow, cr4, eflags};

/// Bits of DR6.
#[allow(missing_docs)] // the names are the SDM's
pub mod dr6 {
    pub const BD: u32 = 1 << 13;
    pub const BS: u32 = 1 << 14;
    pub const BT: u32 = 1 << 15;
    /// Bits that read as one.
    pub const FIXED: u32 = 0xFFFF_0FF0;
    /// B0 to B3, BD, BS, BT.
    pub const WRITABLE: u32 = 0x0000_E00F;
}

/// Bits of DR7.
#[allow(missing_docs)] // the names are the SDM's
pub mod dr7 {
    pub const GD: u32 = 1 << 13;
    /// L0 to L3, G0 to G3.
    pub const ENABLES: u32 = 0xFF;
    /// L0 to L3 and LE: what a task switch clears.
    pub const LOCAL: u32 = 0x155;
    /// Bit that reads as one.
    pub const FIXED: u32 = 0x400;
    pub const WRITABLE: u32 = 0xFFFF_23FF;
}

/// What a breakpoint watches for: the R/W field of DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Execute,
    Write,
    Port,
    ReadWrite,
}

/// One enabled breakpoint.
struct Breakpoint {
    /// Its bit in DR6.
    bit: u32,
    address: u32,
    len: u32,
    watch: Watch,
}

fn enabled(cpu: &CpuState) -> impl Iterator<Item = Breakpoint> {
    let control = cpu.dr[7];
    let addresses = cpu.dr;
    let ports = cpu.cr4 & cr4::DE != 0;
    (0..4u32)
        .filter(move |n| control >> (n * 2) & 3 != 0)
        .filter_map(move |n| {
            let field = control >> (16 + n * 4);
            let len = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            let watch = match field & 3 {
                0 => Watch::Execute,
                1 => Watch::Write,
                2 if ports => Watch::Port,
                2 => return None,
                _ => Watch::ReadWrite,
            };
            Some(Breakpoint {
                bit: 1 << n,
                address: addresses[n as usize] & !(len - 1),
                len,
                watch,
            })
        })
}

impl Breakpoint {
    fn overlaps(&self, address: u32, len: u32) -> bool {
        address.wrapping_sub(self.address) < self.len || self.address.wrapping_sub(address) < len
    }
}

/// Some breakpoint is enabled in DR7.
pub fn breakpoints_enabled(cpu: &CpuState) -> bool {
    cpu.dr[7] & dr7::ENABLES != 0
}

/// What the breakpoints are made of: they have to be looked at again when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Armed {
    control: u32,
    addresses: [u32; 4],
}

impl Armed {
    /// The breakpoints of `cpu`. Those that are not enabled are all the same.
    pub fn of(cpu: &CpuState) -> Armed {
        let [first, second, third, fourth, ..] = cpu.dr;
        if breakpoints_enabled(cpu) {
            Armed {
                control: cpu.dr[7],
                addresses: [first, second, third, fourth],
            }
        } else {
            Armed::default()
        }
    }
}

/// The guest-linear page numbers with instruction breakpoints.
pub fn execute_pages(cpu: &CpuState) -> impl Iterator<Item = u32> {
    enabled(cpu)
        .filter(|b| b.watch == Watch::Execute)
        .map(|b| b.address >> 12)
}

/// The guest-linear page numbers with data breakpoints. What a breakpoint watches is aligned, and
/// does not cross a page.
pub fn data_pages(cpu: &CpuState) -> impl Iterator<Item = u32> {
    enabled(cpu)
        .filter(|b| matches!(b.watch, Watch::Write | Watch::ReadWrite))
        .map(|b| b.address >> 12)
}

/// The fault of an instruction breakpoint at the guest-linear address of the next instruction.
pub fn instruction_breakpoint(cpu: &CpuState) -> Option<Exception> {
    if cpu.eflags & eflags::RF != 0 || cpu.interrupt_shadow == InterruptShadow::MovSs {
        return None;
    }
    let at = cpu.linear_eip();
    let hits = enabled(cpu)
        .filter(|b| b.watch == Watch::Execute && b.address == at)
        .fold(0, |bits, b| bits | b.bit);
    (hits != 0).then(|| Exception::debug_fault(hits))
}

/// The bits of DR6 for the data breakpoints that an access meets, 0 for none. The trap is due after
/// the instruction.
pub fn data_breakpoints(cpu: &CpuState, linear: u32, len: u32, write: bool) -> u32 {
    enabled(cpu)
        .filter(|b| b.watch == Watch::ReadWrite || (write && b.watch == Watch::Write))
        .filter(|b| b.overlaps(linear, len))
        .fold(0, |bits, b| bits | b.bit)
}

/// The bits of DR6 for the I/O breakpoints (CR4.DE) that a port access meets, 0 for none.
pub fn port_breakpoints(cpu: &CpuState, port: u16, len: u32) -> u32 {
    enabled(cpu)
        .filter(|b| b.watch == Watch::Port && b.overlaps(u32::from(port), len))
        .fold(0, |bits, b| bits | b.bit)
}

/// The single-step trap, due after an instruction that began with TF set and was not held off by an
/// interrupt shadow of a load of SS.
pub fn single_step_trap() -> Exception {
    Exception::debug_trap(dr6::BS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(dr7: u32, address: u32) -> CpuState {
        let mut cpu = CpuState::reset(0);
        cpu.dr[1] = address;
        cpu.dr[7] = dr7;
        cpu
    }

    #[test]
    fn write_breakpoint_of_four_bytes() {
        // G1, R/W1 = 01, LEN1 = 11.
        let cpu = cpu(1 << 3 | 0b1101 << 20, 0x1002);
        assert!(breakpoints_enabled(&cpu));
        assert_eq!(
            data_breakpoints(&cpu, 0x1003, 1, true),
            2,
            "aligned down to 1000h"
        );
        assert_eq!(data_breakpoints(&cpu, 0xFFE, 4, true), 2);
        assert_eq!(data_breakpoints(&cpu, 0xFFC, 4, true), 0);
        assert_eq!(data_breakpoints(&cpu, 0x1004, 4, true), 0);
        assert_eq!(data_breakpoints(&cpu, 0x1000, 4, false), 0, "reads");
    }

    #[test]
    fn instruction_breakpoint_needs_rf_clear() {
        let mut cpu = cpu(1 << 2, 0xFFFF_FFF0);
        assert_eq!(
            instruction_breakpoint(&cpu),
            Some(Exception::debug_fault(2))
        );
        cpu.eflags |= eflags::RF;
        assert_eq!(instruction_breakpoint(&cpu), None);
    }

    #[test]
    fn port_breakpoint_needs_debugging_extensions() {
        let mut cpu = cpu(1 << 3 | 0b0010 << 20, 0x60);
        assert_eq!(port_breakpoints(&cpu, 0x60, 1), 0);
        cpu.cr4 |= cr4::DE;
        assert_eq!(port_breakpoints(&cpu, 0x60, 1), 2);
        assert_eq!(port_breakpoints(&cpu, 0x61, 1), 0);
    }
}
