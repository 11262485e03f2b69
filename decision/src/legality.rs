//! May a state run directly?

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::inputs::{CodeSize, HostSupport, Inputs, Segments};

bitflags! {
    /// Why a state does not run directly.
    ///
    /// The bits up to [`Reasons::SS`] are those of Algorithm 1 in Bugnion et al., "Bringing
    /// Virtualization to the x86 Architecture with the Original VMware Workstation" (ACM TOCS 30(4),
    /// 2012), in its order; the following ones are this monitor's own. All but
    /// [`Reasons::POLICY`] make direct execution illegal.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    pub struct Reasons: u32 {
        /// Protected mode is off (Algorithm 1, line 1). Nothing else of the algorithm is looked at.
        const REAL_MODE = 1 << 0;
        /// Virtual-8086 mode, which Algorithm 1 (line 4) allows, and this host's direct engine
        /// cannot do. The lines of the algorithm after it do not apply in virtual-8086 mode.
        const V86_UNSUPPORTED = 1 << 1;
        /// IOPL >= CPL: `cli`, `sti`, `in` and `out` would be carried out, `popf` would change IF
        /// (Algorithm 1, line 7).
        const IOPL = 1 << 2;
        /// IF = 0: a real interrupt must still reach the monitor, so IF would have to differ, and
        /// `pushf` would show it (Algorithm 1, line 7).
        const INTERRUPTS_OFF = 1 << 3;
        /// CS is not reversible (Algorithm 1, lines 10 to 14): its hidden part differs from what
        /// its selector would load now, so it could not be restored after an exit.
        const CS = 1 << 4;
        /// DS is not reversible.
        const DS = 1 << 5;
        /// ES is not reversible.
        const ES = 1 << 6;
        /// FS is not reversible.
        const FS = 1 << 7;
        /// GS is not reversible.
        const GS = 1 << 8;
        /// SS is not reversible.
        const SS = 1 << 9;

        /// CPL is not 3: the direct engine runs guest code at ring 3 only, and ring compression
        /// would show in CS and SS.
        const NOT_RING_3 = 1 << 10;
        /// TF: the monitor's own entry and exit would take the trap.
        const TRAP_FLAG = 1 << 11;
        /// An interrupt shadow cannot be carried through `iretq`.
        const INTERRUPT_SHADOW = 1 << 12;
        /// A debug register is enabled: breakpoints belong to guest-linear addresses and ports that
        /// only the translator checks.
        const DEBUG_REGISTERS = 1 << 13;
        /// 32-bit code, which the host's KVM was not found to run.
        const CODE_32_UNSUPPORTED = 1 << 14;
        /// 16-bit code, which the host's KVM was not found to run.
        const CODE_16_UNSUPPORTED = 1 << 15;
        /// A 16-bit stack: `iretq` would leave bits 31..16 of the monitor's RSP in ESP.
        const STACK_16_UNSUPPORTED = 1 << 16;
        /// Guest paging is off, and the direct engine has no flat shadow space.
        const UNPAGED = 1 << 17;
        /// Ring 3 could see a descriptor through `lar` or `lsl` that long mode answers differently
        /// for (Intel SDM vol. 2A, LAR; vol. 3A, 3.5).
        const LONG_MODE_VISIBLE = 1 << 18;
        /// The direct engine left at this instruction, and the translator has to find out why.
        const REPLAY = 1 << 19;
        /// A segment has a limit, which the host's KVM was found not to check: what ring 3 may not
        /// reach, it would reach.
        const LIMITS_UNCHECKED = 1 << 20;
        /// IOPL is 1 or 2, which the host's KVM was found not to keep: `pushf` would show it.
        const IOPL_UNSUPPORTED = 1 << 21;

        /// Direct execution is legal, and the policy prefers the translator.
        const POLICY = 1 << 22;
    }
}

impl Reasons {
    /// The reasons that make direct execution illegal, for every policy.
    pub const ILLEGAL: Self = Self::all().difference(Self::POLICY);

    /// How many distinct reasons there are.
    pub const COUNT: usize = Self::all().bits().count_ones() as usize;

    /// The reason that comes first in the order of the algorithm, if there is any: the one to blame
    /// where a single cause is asked for.
    #[must_use]
    pub const fn first(self) -> Option<Self> {
        match self.bits() {
            0 => None,
            bits => Some(Self::from_bits_truncate(1 << bits.trailing_zeros())),
        }
    }
}

impl std::fmt::Display for Reasons {
    /// The names, joined by `|`; `-` for the empty set.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, (name, _)) in self.iter_names().enumerate() {
            if index > 0 {
                f.write_str("|")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// The reasons against running this state directly on this host: empty exactly when direct
/// execution is legal.
///
/// All reasons that hold are in the set, not only the first one, except where a reason takes the
/// meaning from others: without protected mode there are no privilege levels and no descriptors, and
/// in virtual-8086 mode segments are always reversible and the monitor virtualizes IF and IOPL by
/// running the guest at IOPL 0.
#[must_use]
pub fn legality(inputs: &Inputs, host: &HostSupport) -> Reasons {
    let mut reasons = Reasons::empty();
    if !inputs.protected_mode {
        reasons |= Reasons::REAL_MODE;
    } else if inputs.virtual_8086 {
        reasons.set(Reasons::V86_UNSUPPORTED, !host.v86);
    } else {
        reasons |= protected_mode(inputs, host);
    }
    reasons.set(Reasons::TRAP_FLAG, inputs.trap_flag);
    reasons.set(Reasons::INTERRUPT_SHADOW, inputs.interrupt_shadow);
    reasons.set(Reasons::DEBUG_REGISTERS, inputs.debug_registers_enabled);
    reasons.set(Reasons::REPLAY, inputs.replay_pending);
    if inputs.protected_mode {
        reasons.set(Reasons::UNPAGED, !inputs.paging && !host.unpaged);
    }
    reasons
}

/// The rules for protected mode without EFLAGS.VM.
fn protected_mode(inputs: &Inputs, host: &HostSupport) -> Reasons {
    const SEGMENTS: [(Segments, Reasons); 6] = [
        (Segments::CS, Reasons::CS),
        (Segments::DS, Reasons::DS),
        (Segments::ES, Reasons::ES),
        (Segments::FS, Reasons::FS),
        (Segments::GS, Reasons::GS),
        (Segments::SS, Reasons::SS),
    ];
    let mut reasons = Reasons::empty();
    reasons.set(Reasons::IOPL, inputs.iopl >= inputs.cpl);
    reasons.set(Reasons::INTERRUPTS_OFF, !inputs.interrupt_flag);
    for (segment, reason) in SEGMENTS {
        reasons.set(reason, !inputs.reversible.contains(segment));
    }
    reasons.set(Reasons::NOT_RING_3, inputs.cpl != 3);
    match inputs.code_size {
        CodeSize::Bits32 => reasons.set(Reasons::CODE_32_UNSUPPORTED, !host.compat32),
        CodeSize::Bits16 => reasons.set(Reasons::CODE_16_UNSUPPORTED, !host.compat16),
    }
    let stack_leaks = inputs.stack_16 && !host.stack16;
    reasons.set(Reasons::STACK_16_UNSUPPORTED, stack_leaks);
    reasons.set(Reasons::LONG_MODE_VISIBLE, inputs.long_mode_visible);
    reasons.set(Reasons::LIMITS_UNCHECKED, inputs.limited && !host.limits);
    reasons.set(Reasons::IOPL_UNSUPPORTED, inputs.iopl != 0 && !host.iopl);
    reasons
}

/// Proof that a state may run directly.
///
/// Only [`Legal::check`] makes one, and it borrows the state it was made for, so that it can be
/// neither invented nor kept for a later state.
#[derive(Debug)]
pub struct Legal<'a> {
    inputs: &'a Inputs,
}

impl<'a> Legal<'a> {
    /// Checks a state.
    ///
    /// # Errors
    ///
    /// The reasons against, never empty, when the state may not run directly.
    pub fn check(inputs: &'a Inputs, host: &HostSupport) -> Result<Self, Reasons> {
        match legality(inputs, host) {
            none if none.is_empty() => Ok(Self { inputs }),
            reasons => Err(reasons),
        }
    }

    /// The state that was found legal.
    #[must_use]
    pub const fn inputs(&self) -> &'a Inputs {
        self.inputs
    }
}
