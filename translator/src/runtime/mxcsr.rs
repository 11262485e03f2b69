//! Bits of MXCSR that the host has and the guest's processor has not: a guest that sets one gets #GP, as
//! it would there (Intel SDM vol. 1, section 11.6.6).
#![allow(unsafe_code)] // runs FXSAVE, and reads an operand that was prepared as a host address

use super::engine::Engine;
use crate::state::FxState;
use crate::system::Exception;
use iced_x86::{Instruction, Mnemonic};

/// Offset of MXCSR in an image of FXSAVE.
const IMAGE: usize = 24;
/// Offset of MXCSR_MASK in an image of FXSAVE.
pub(super) const MASK: usize = 28;

/// The host's MXCSR_MASK: the bits of MXCSR that its FXRSTOR and LDMXCSR take (Intel SDM vol. 1, section
/// 11.6.6).
pub fn host_mxcsr_mask() -> u32 {
    let mut image = FxState([0; 512]);
    // SAFETY: every x86-64 processor has FXSAVE; the image has the size and the alignment that it asks for.
    unsafe { std::arch::x86_64::_fxsave(image.0.as_mut_ptr()) };
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| image.0[MASK + n]);
    match u32::from_le_bytes([a, b, c, d]) {
        0 => 0xFFBF,
        mask => mask,
    }
}

impl Engine {
    /// #GP(0) if `insn` is LDMXCSR or FXRSTOR and loads a bit that the processor model has not. `operand` is
    /// the host address of its operand.
    pub(super) fn check_mxcsr(&self, insn: &Instruction, operand: u64) -> Result<(), Exception> {
        let offset = match insn.mnemonic() {
            Mnemonic::Ldmxcsr => 0,
            Mnemonic::Fxrstor => IMAGE,
            _ => return Ok(()),
        };
        let place = (operand as *const u8).wrapping_add(offset).cast::<u32>();
        // SAFETY: the operand was prepared for a read of all its bytes: guest RAM or the bounce buffer.
        let value = unsafe { place.read_unaligned() };
        if value & !self.model.mxcsr_mask() != 0 {
            return Err(Exception::general_protection());
        }
        Ok(())
    }
}
