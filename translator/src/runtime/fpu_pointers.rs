//! What an x87 environment or an image of FXSAVE says of the host: addresses, and the mask of MXCSR.
#![allow(unsafe_code)] // reads and writes an operand that was prepared as a host address

use super::engine::Engine;
use super::mxcsr;
use crate::state::seg;
use iced_x86::{Instruction, Mnemonic};
use shadow_mmu::Mmu;

/// Instruction and operand pointer of the last x87 instruction, and its opcode.
#[derive(Debug, Clone, Copy)]
struct Pointers {
    instruction: u32,
    opcode: u16,
    operand: u32,
}

impl Engine {
    /// Replaces the host addresses in the image that `insn` (FSTENV, FSAVE, FXSAVE) has just
    /// stored at the host address in R8, and brings it into the format of the guest's mode (SDM
    /// vol. 1, figures 8-9 to 8-12 and section 10.5.1).
    pub(super) fn replace_fpu_pointers(&mut self, insn: &Instruction, mmu: &Mmu) {
        let address = self.cache.context().scratch[0] as *mut u8;
        let size = insn.memory_size().size();
        // SAFETY: R8 is what `prepare` answered for this operand of `size` bytes: untraced guest RAM
        // or the bounce buffer. Nothing else runs between the two exits of this instruction.
        let image = unsafe { std::slice::from_raw_parts_mut(address, size) };
        let put = |image: &mut [u8], at: usize, bytes: &[u8]| {
            image[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let environment = self.cache.context().fpu_environment;
        let guest = self.guest_pointers(
            mmu,
            Pointers {
                instruction: environment[3],
                opcode: (environment[4] >> 16) as u16 & 0x7FF,
                operand: environment[5],
            },
        );
        let cpu = self.state();
        let (code, data) = (cpu.seg[seg::CS].selector, cpu.seg[seg::DS].selector);
        let real = cpu.real_or_v86();
        if insn.mnemonic() == Mnemonic::Fxsave {
            if size < mxcsr::MASK + 4 {
                return;
            }
            put(image, 6, &guest.opcode.to_le_bytes());
            put(image, 8, &guest.instruction.to_le_bytes());
            put(image, 12, &u32::from(code).to_le_bytes());
            put(image, 16, &guest.operand.to_le_bytes());
            put(image, 20, &u32::from(data).to_le_bytes());
            put(image, mxcsr::MASK, &self.model.mxcsr_mask().to_le_bytes());
            return;
        }
        // The 16-bit formats are 14 and 94 bytes long, the 32-bit ones 28 and 108.
        let short = size == 14 || size == 94;
        if size < 28 && !short {
            return;
        }
        let linear = |index: usize, offset: u32| self.state().seg[index].base.wrapping_add(offset);
        match (short, real) {
            (true, false) => {
                put(image, 6, &(guest.instruction as u16).to_le_bytes());
                put(image, 8, &code.to_le_bytes());
                put(image, 10, &(guest.operand as u16).to_le_bytes());
                put(image, 12, &data.to_le_bytes());
            }
            (true, true) => {
                let (ip, dp) = (
                    linear(seg::CS, guest.instruction),
                    linear(seg::DS, guest.operand),
                );
                put(image, 6, &(ip as u16).to_le_bytes());
                let high = ((ip >> 4) as u16 & 0xF000) | guest.opcode;
                put(image, 8, &high.to_le_bytes());
                put(image, 10, &(dp as u16).to_le_bytes());
                put(image, 12, &((dp >> 4) as u16 & 0xF000).to_le_bytes());
            }
            (false, false) => {
                put(image, 12, &guest.instruction.to_le_bytes());
                put(image, 16, &code.to_le_bytes());
                put(image, 18, &guest.opcode.to_le_bytes());
                put(image, 20, &guest.operand.to_le_bytes());
                put(image, 24, &u32::from(data).to_le_bytes());
            }
            (false, true) => {
                let (ip, dp) = (
                    linear(seg::CS, guest.instruction),
                    linear(seg::DS, guest.operand),
                );
                put(image, 12, &(ip & 0xFFFF).to_le_bytes());
                let high = ((ip >> 16) << 12) | u32::from(guest.opcode);
                put(image, 16, &high.to_le_bytes());
                put(image, 20, &(dp & 0xFFFF).to_le_bytes());
                put(image, 24, &((dp >> 16) << 12).to_le_bytes());
            }
        }
    }

    /// The guest's idea of pointers that the host has noted. What does not lie in the translation cache
    /// was loaded by the guest itself and is returned as it is; what lies there and belongs to no unit
    /// any more is forgotten, and shows no host address.
    fn guest_pointers(&self, mmu: &Mmu, host: Pointers) -> Pointers {
        let start = self.cache.code_start();
        // The image holds 32 or 16 bits of the address; the cache is smaller than 4 GiB.
        let candidate = (start & !0xFFFF_FFFF) | u64::from(host.instruction);
        let full = if candidate < start {
            candidate + (1 << 32)
        } else {
            candidate
        };
        let Some(map) = self
            .units
            .at_host(full)
            .and_then(|index| self.units.get(index))
            .and_then(|unit| unit.instruction_at(full))
        else {
            return if self.cache.code_range().contains(&full) {
                Pointers {
                    instruction: 0,
                    opcode: host.opcode,
                    operand: 0,
                }
            } else {
                host
            };
        };
        let data_base = self.state().seg[seg::DS].base;
        Pointers {
            instruction: map.guest.ip32(),
            opcode: x87_opcode(&self.bytes_at(mmu, &map.guest)).unwrap_or(host.opcode),
            // Windows are aligned to 4 GiB: the low half of a host address is guest-linear.
            operand: host.operand.wrapping_sub(data_base),
        }
    }
}

/// The 11 bits that x87 notes of an instruction: the low three bits of its first byte, D8h to DFh,
/// and all of the second.
fn x87_opcode(bytes: &[u8]) -> Option<u16> {
    let first = bytes.iter().position(|byte| (0xD8..=0xDF).contains(byte))?;
    let second = bytes.get(first + 1)?;
    Some((u16::from(bytes[first] & 7) << 8) | u16::from(*second))
}
