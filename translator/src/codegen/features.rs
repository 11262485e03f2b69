//! Which instructions a processor model has.

use crate::system::CpuModel;
use iced_x86::{CpuidFeature, Instruction};

/// True when `model` has `insn`; otherwise it is #UD there.
pub(crate) fn supports(model: CpuModel, insn: &Instruction) -> bool {
    insn.cpuid_features()
        .iter()
        .all(|&feature| has(model, feature))
}

fn has(model: CpuModel, feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    let since = match feature {
        F::INTEL8086
        | F::INTEL8086_ONLY
        | F::INTEL186
        | F::INTEL286
        | F::INTEL386
        | F::INTEL486 => {
            return feature != F::INTEL8086_ONLY;
        }
        F::FPU | F::FPU287 | F::FPU387 | F::CPUID | F::PAUSE => CpuModel::I486,
        F::TSC | F::MSR | F::CX8 | F::MMX => CpuModel::Pentium,
        F::CMOV | F::RDPMC | F::SEP | F::FXSR | F::MULTIBYTENOP => CpuModel::Pentium2,
        F::SSE => CpuModel::Pentium3,
        _ => return false,
    };
    let rank = |m: CpuModel| CpuModel::ALL.iter().position(|&each| each == m);
    rank(model) >= rank(since)
}
