//! Where the references differ from each other, which of them is right, and why.

/// The reference to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// The host's processor: QEMU's emulation is not exact.
    Native,
    /// QEMU, with the same processor model and the same kernel: the host's processor or kernel is
    /// another one.
    Qemu,
    /// Neither, but this.
    Text(&'static str),
}

/// A known difference.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// `TOPIC/NAME` of the lines, with `*` for any text.
    pub lines: &'static [&'static str],
    /// Text that the host's result has to contain: a difference of another kind is not explained.
    pub native_has: &'static str,
    /// What to compare with.
    pub right: Right,
    /// Why.
    pub reason: &'static str,
}

impl Difference {
    /// True when this explains why the references differ in a line.
    #[must_use]
    pub fn is_about(&self, name: &str, native: Option<&str>) -> bool {
        native.is_none_or(|text| text.contains(self.native_has))
            && self.lines.iter().any(|pattern| matches(pattern, name))
    }
}

/// A pattern in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|&at| tail.is_char_boundary(at))
                .any(|at| matches(rest, &tail[at..]))
        }),
    }
}

/// All known differences, of QEMU 7.2 and an x86-64 host with Linux. The first that is about a line
/// counts.
pub const DIFFERENCES: &[Difference] = &[
    // Segments.
    Difference {
        lines: &["segments/*", "strings/override*", "signals/load_null"],
        native_has: "trap 13",
        right: Right::Native,
        reason: "QEMU compares no access with the limit, the rights or the absence of a segment",
    },
    Difference {
        lines: &["segments/*"],
        native_has: "trap 12",
        right: Right::Native,
        reason: "the same for the stack segment",
    },
    Difference {
        lines: &["segments/far call beyond the limit"],
        native_has: "error 0 ",
        right: Right::Native,
        reason: "a far transfer beyond the limit is #GP(0); QEMU's error code is the selector",
    },
    Difference {
        lines: &["segments/conforming code"],
        native_has: "trap 11",
        right: Right::Qemu,
        reason: "Linux for i386 has a handler of its own for a bad return to user mode, and tells SIGILL",
    },
    // The kernel.
    Difference {
        lines: &["memory/kernel *", "memory/last *"],
        native_has: "SEGV code 1 trap 14",
        right: Right::Qemu,
        reason: "Linux for i386 reports every fault on its own addresses as one of protection",
    },
    Difference {
        lines: &[
            "memory/jump to unmapped",
            "memory/null call",
            "modifying/second page gone",
            "signals/ret_bad",
        ],
        native_has: "error 0x14",
        right: Right::Qemu,
        reason: "only paging with NX tells instruction fetches from reads",
    },
    Difference {
        lines: &["memory/execute *"],
        native_has: "error 0x15",
        right: Right::Qemu,
        reason: "no NX in the tables of these kernels: the 686 one has no PAE, and the 686-pae one, \
                 Linux 6.1, drops bit 63 of user entries (vm_get_page_prot computes in 32 bits)",
    },
    // The processor.
    Difference {
        lines: &["signals/icebp"],
        native_has: "trap 1",
        right: Right::Text(
            "TRAP code 1 trap 1 error 0 address 0 +2 eax a0a0a0a0 esp +0 flags 0 others 1",
        ),
        reason: "INT1 is a trap; QEMU has no such instruction, and hypervisors report it as a fault",
    },
    Difference {
        lines: &["signals/sysexit"],
        native_has: "trap 6",
        right: Right::Qemu,
        reason: "AMD's processors have no SYSEXIT in long mode",
    },
    Difference {
        lines: &["signals/lock_mov"],
        native_has: "trap 6",
        right: Right::Native,
        reason: "LOCK on MOV is #UD; QEMU ignores it",
    },
    Difference {
        lines: &["signals/pusha"],
        native_has: "trap 14",
        right: Right::Native,
        reason: "PUSHA writes from the top; QEMU probes the lowest address first",
    },
    Difference {
        lines: &["signals/resume flag"],
        native_has: "fault 1 trap 0",
        right: Right::Native,
        reason: "a fault pushes EFLAGS with RF set; QEMU leaves it clear",
    },
    Difference {
        lines: &["tracing/write", "tracing/access"],
        native_has: "+37:5",
        right: Right::Native,
        reason: "a watchpoint on the last iteration of a repeated instruction hits behind it",
    },
    Difference {
        lines: &["machine/cpuid 00000001"],
        native_has: "",
        right: Right::Text("000006e8 00000800 00000001 0f88a97d"),
        reason: "without VME, machine checks, local APIC, MTRRs, PAT, MONITOR and the hypervisor bit",
    },
    Difference {
        lines: &["machine/cpuid 00000005"],
        native_has: "",
        right: Right::Text("00000000 00000000 00000000 00000000"),
        reason: "without MONITOR there is nothing to enumerate of it",
    },
    // The x87 unit.
    Difference {
        lines: &["fpu/*, denormal flag"],
        native_has: "",
        right: Right::Native,
        reason: "QEMU's x87 instructions never set the denormal-operand flag",
    },
    Difference {
        lines: &[
            "fpu/fsin*",
            "fpu/fcos*",
            "fpu/fptan*",
            "fpu/fpatan*",
            "fpu/f2xm1*",
            "fpu/fyl2x*",
        ],
        native_has: "",
        right: Right::Native,
        reason:
            "the last bits of transcendental functions are the processor's own; QEMU computes the
                 first four in double precision",
    },
    Difference {
        lines: &["fpu/frndint single*"],
        native_has: "",
        right: Right::Native,
        reason: "FRNDINT does not depend on the precision control; QEMU's result does",
    },
    Difference {
        lines: &["fpu/fxam, flags"],
        native_has: "",
        right: Right::Native,
        reason: "FSTP clears C1, which FXAM had set to the sign; QEMU leaves it",
    },
    Difference {
        lines: &["fpu/unmasked invalid", "fpu/unmasked later"],
        native_has: "signal 8",
        right: Right::Native,
        reason: "QEMU looks for pending exceptions only in FWAIT and a few others",
    },
    Difference {
        lines: &["fpu/stack underflow", "fpu/stack overflow"],
        native_has: "signal 8",
        right: Right::Native,
        reason: "QEMU does not notice an empty or full register stack",
    },
    Difference {
        lines: &["fpu/cleared without waiting"],
        native_has: "eax b084",
        right: Right::Native,
        reason: "an unmasked divide by zero does not pop; in QEMU it does",
    },
    Difference {
        lines: &["fpu/fnstenv", "fpu/fnsave"],
        native_has: "ffff027f",
        right: Right::Native,
        reason: "the upper halves of the environment are ones and the opcode is stored; not in QEMU",
    },
    Difference {
        lines: &["simd/mmx and x87"],
        native_has: "",
        right: Right::Native,
        reason: "QEMU takes the tag of an MMX register from stale x87 contents",
    },
    // SSE.
    Difference {
        lines: &["simd/*, denormal flag"],
        native_has: "",
        right: Right::Native,
        reason: "QEMU sets the denormal-operand flag only for results of comparisons",
    },
    Difference {
        lines: &["simd/add*", "simd/sub*", "simd/mul*", "simd/div*"],
        native_has: "",
        right: Right::Native,
        reason: "of two NaNs SSE takes the first operand; QEMU takes the larger, as the x87 unit does",
    },
    Difference {
        lines: &["simd/rcpps*", "simd/rsqrtps*"],
        native_has: "",
        right: Right::Native,
        reason: "estimates: the processor's own, within a bound",
    },
    Difference {
        lines: &["simd/reserved bit"],
        native_has: "trap 13",
        right: Right::Native,
        reason: "LDMXCSR with a reserved bit is #GP(0); QEMU accepts it",
    },
    Difference {
        lines: &["simd/unmasked *"],
        native_has: "FPE",
        right: Right::Native,
        reason: "QEMU raises no SIMD floating-point exceptions",
    },
];

/// What direct execution shows, and the translator does not, where the processor is QEMU's emulation:
/// beside all of [`DIFFERENCES`] in which the real processor is right.
const EMULATED_HOST: &[Difference] = &[
    Difference {
        lines: &["segments/lar *"],
        native_has: "int3",
        right: Right::Native,
        reason:
            "this processor checks no limits, so descriptors with a limit are hidden from direct
                 execution as not present, which LAR shows",
    },
    Difference {
        lines: &["fpu/fnstenv", "fpu/fnsave"],
        native_has: "opcode",
        right: Right::Native,
        reason: "this processor keeps no opcode of the last x87 instruction; the translator does",
    },
];

/// Why a line that is right translated may be another one in direct execution on a processor that QEMU
/// emulates.
#[must_use]
pub fn of_an_emulated_host(name: &str, translated: &str) -> Option<&'static Difference> {
    EMULATED_HOST
        .iter()
        .chain(DIFFERENCES)
        .filter(|each| each.right == Right::Native)
        .find(|each| each.is_about(name, Some(translated)))
}

#[cfg(test)]
mod tests {
    use super::{matches, of_an_emulated_host};

    #[test]
    fn an_emulated_host_explains_its_own_mistakes_alone() {
        let explained = |name, translated| of_an_emulated_host(name, translated).is_some();
        assert!(explained("signals/lock_mov", "ILL code 2 trap 6"));
        assert!(!explained("signals/lock_mov", "int3"));
        assert!(explained("segments/lar data", "int3 eax 40"));
        assert!(!explained("segments/base", "int3 eax 40"));
        assert!(
            !explained("machine/cpuid 00000001", "00000000"),
            "the model's, not the host's"
        );
    }

    #[test]
    fn patterns() {
        assert!(matches("fpu/*, flags", "fpu/fsin, flags"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(matches("*", ""));
        assert!(!matches("a*b", "a-b-c"));
        assert!(!matches("a", "ab"));
    }
}
