//! Which instructions a processor model has, and how its decoder reads bytes that later processors
//! gave a new meaning.

use crate::system::CpuModel;
use crate::system::cpuid::feature;
use iced_x86::{Code, CpuidFeature, DecoderOptions, Instruction, Mnemonic, OpCodeOperandKind};

/// How the decoder is to read guest code: as processors before 2008 did.
///
/// - TZCNT and LZCNT are BSF and BSR with a prefix that means nothing; compilers emit them so where
///   both give the same result. WBNOINVD likewise is WBINVD.
/// - 0F 18 to 0F 1F are hints without effect, ENDBR and CLDEMOTE among them.
pub(crate) const DECODER_OPTIONS: u32 = DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD
    | DecoderOptions::FORCE_RESERVED_NOP;

/// Takes off prefixes that mean nothing to any model, and something to the host: REP in front of
/// BSF (TZCNT), REPNE in front of a locked instruction (XACQUIRE), and so on.
pub(crate) fn strip_prefixes(insn: &mut Instruction) {
    if !insn.is_string_instruction() {
        insn.set_has_repe_prefix(false);
        insn.set_has_repne_prefix(false);
    }
}

/// True when `model` has `insn`; otherwise it is #UD there.
pub(crate) fn supports(model: CpuModel, insn: &Instruction) -> bool {
    match insn.code() {
        // The NOPs that share their opcode with AMD's PREFETCH came with 64-bit processors.
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D => false,
        _ => insn
            .cpuid_features()
            .iter()
            .all(|&feature| has(model, feature)),
    }
}

/// True for code that is undefined whatever follows: LES, LDS and BOUND of a register, POP with an opcode
/// extension. Later processors find VEX, EVEX and XOP instructions there, and read on.
pub(crate) fn is_undefined_start(code: &[u8]) -> bool {
    const PREFIXES: [u8; 11] = [
        0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3,
    ];
    let start = code.iter().position(|byte| !PREFIXES.contains(byte));
    match start.and_then(|start| code.get(start..)) {
        Some(&[0xC4 | 0xC5 | 0x62, modrm, ..]) => modrm >= 0xC0,
        Some(&[0x8F, modrm, ..]) => modrm & 0x38 != 0,
        _ => false,
    }
}

/// True when `insn` needs CR4.OSFXSR: an XMM register or MXCSR takes part in it, or would if its memory
/// operand were a register (Intel SDM vol. 3A, table 13-1). It is #UD without.
pub(crate) fn needs_osfxsr(insn: &Instruction) -> bool {
    use OpCodeOperandKind as K;
    matches!(insn.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr)
        || insn
            .op_code()
            .op_kinds()
            .iter()
            .any(|kind| matches!(kind, K::xmm_reg | K::xmm_rm | K::xmm_or_mem))
}

fn has(model: CpuModel, feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match feature {
        F::INTEL8086
        | F::INTEL186
        | F::INTEL286
        | F::INTEL386
        | F::INTEL486
        | F::FPU
        | F::FPU287
        | F::FPU387
        // REP NOP: a NOP where it has no meaning of its own.
        | F::PAUSE => true,
        F::CPUID => model.has_cpuid(),
        F::TSC => model.has(feature::TSC),
        F::MSR => model.has(feature::MSR),
        F::CX8 => model.has(feature::CX8),
        F::MMX => model.has(feature::MMX),
        F::RDPMC => model.has_performance_counters(),
        F::CMOV => model.has(feature::CMOV),
        F::SEP => model.has(feature::SEP),
        F::FXSR => model.has(feature::FXSR),
        F::MULTIBYTENOP => model.has_hint_nops(),
        F::SSE => model.has(feature::SSE),
        F::SSE2 => model.has(feature::SSE2),
        F::CLFSH => model.has(feature::CLFSH),
        F::SSE3 => model.has_sse3(),
        // All that came later or elsewhere, system management mode, and the 386's and 486's own
        // (test registers, UMOV, LOADALL).
        _ => false,
    }
}
