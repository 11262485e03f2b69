//! The same loop as in the guest, on the bare processor.
#![allow(unsafe_code)] // three instructions of assembly

use std::arch::asm;

/// Runs `dec; jnz` `count` times: twice as many instructions.
pub(super) fn count_down(count: u32) {
    if count == 0 {
        return;
    }
    // SAFETY: counts a register down to 0 and touches nothing else but the flags.
    unsafe {
        asm!(
            "2:",
            "dec {0:e}",
            "jnz 2b",
            inout(reg) count => _,
            options(nomem, nostack),
        );
    }
}
