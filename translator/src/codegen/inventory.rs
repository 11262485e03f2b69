//! The inventory of callouts: every opcode of a processor model that is not emitted as host code.

use super::CalloutKind;
use super::features::supports;
use super::system::callout_kind;
use crate::system::CpuModel;
use iced_x86::{Code, Instruction, Mnemonic};

/// One opcode that is carried out in Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CalloutEntry {
    /// The opcode.
    pub code: Code,
    /// Why.
    pub kind: CalloutKind,
    /// Only in some modes; inline otherwise.
    pub condition: Option<&'static str>,
}

/// Every opcode of `model`'s 16- and 32-bit modes that is emitted as a callout, always or in some
/// modes, in the order of the decoder's tables.
pub fn callout_inventory(model: CpuModel) -> Vec<CalloutEntry> {
    Code::values()
        .filter(|code| {
            let op = code.op_code();
            op.is_instruction() && (op.mode16() || op.mode32())
        })
        .filter_map(|code| {
            let mut insn = Instruction::default();
            insn.set_code(code);
            if !supports(model, &insn) {
                return None;
            }
            let (kind, condition) = entry(code, &insn)?;
            Some(CalloutEntry {
                code,
                kind,
                condition,
            })
        })
        .collect()
}

fn entry(code: Code, insn: &Instruction) -> Option<(CalloutKind, Option<&'static str>)> {
    let by_operands = match code {
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 => Some(CalloutKind::SegmentLoad),
        Code::Mov_cr_r32
        | Code::Mov_r32_dr
        | Code::Mov_dr_r32
        | Code::Mov_r32_tr
        | Code::Mov_tr_r32 => Some(CalloutKind::Privileged),
        _ => None,
    };
    if code == Code::Jmp_rm32 {
        let learning = "CPL 3, for as long as it is watched where it goes";
        return Some((CalloutKind::IndirectJump, Some(learning)));
    }
    if code == Code::Mov_r32_cr {
        return Some((CalloutKind::Privileged, Some("CPL above 0; CR4")));
    }
    if let Some(kind) = by_operands {
        return Some((kind, load_condition(kind, code)));
    }
    let op = code.op_code();
    let segment_pop =
        insn.mnemonic() == Mnemonic::Pop && op.op_count() == 1 && is_segment_operand(code);
    if segment_pop {
        let kind = CalloutKind::SegmentLoad;
        return Some((kind, load_condition(kind, code)));
    }
    let sometimes = match insn.mnemonic() {
        Mnemonic::Cli => Some((CalloutKind::Sensitive, "CPL above 0")),
        Mnemonic::Sti => Some((
            CalloutKind::Sensitive,
            "CPL above 0, or in front of a transfer",
        )),
        Mnemonic::Invlpg => Some((CalloutKind::Privileged, "CPL above 0")),
        Mnemonic::Pushf | Mnemonic::Pushfd => Some((CalloutKind::Sensitive, "virtual-8086 mode")),
        Mnemonic::Rdtsc => Some((
            CalloutKind::Sensitive,
            "TSC offset, or CR4.TSD at CPL above 0",
        )),
        Mnemonic::Fnstenv
        | Mnemonic::Fstenv
        | Mnemonic::Fnsave
        | Mnemonic::Fsave
        | Mnemonic::Fxsave => Some((
            CalloutKind::FpuState,
            "for the addresses in the image; the rest inline",
        )),
        Mnemonic::Enter => Some((CalloutKind::EnterNested, "nesting level above 0")),
        _ if insn.is_string_instruction() && callout_kind(insn).is_none() => Some((
            CalloutKind::String,
            "repeated, through segments that are not flat or with 16-bit pointers",
        )),
        _ => None,
    };
    if let Some((kind, condition)) = sometimes {
        return Some((kind, Some(condition)));
    }
    if matches!(
        insn.mnemonic(),
        Mnemonic::Daa | Mnemonic::Das | Mnemonic::Aaa | Mnemonic::Aas
    ) {
        return Some((CalloutKind::Decimal, None));
    }
    callout_kind(insn).map(|kind| (kind, load_condition(kind, code)))
}

/// Where loads of segment registers are callouts.
fn load_condition(kind: CalloutKind, code: Code) -> Option<&'static str> {
    let load = kind == CalloutKind::SegmentLoad;
    match code {
        Code::Popw_SS | Code::Popd_SS => {
            Some("all but in real mode in front of a load of the stack pointer")
        }
        Code::Popfd
        | Code::Iretd
        | Code::Sysenter
        | Code::Sysexitd
        | Code::Int_imm8
        | Code::Verw_rm16
        | Code::Verw_r32m16 => Some("all but the common kind, see translator.md, Shortcuts"),
        Code::Call_ptr1616
        | Code::Jmp_ptr1616
        | Code::Call_m1616
        | Code::Jmp_m1616
        | Code::Retfw
        | Code::Retfw_imm16
        | Code::Iretw => Some("all but the common kind in real mode, see translator.md, Shortcuts"),
        Code::Les_r16_m1616
        | Code::Les_r32_m1632
        | Code::Lss_r16_m1616
        | Code::Lss_r32_m1632
        | Code::Lds_r16_m1616
        | Code::Lds_r32_m1632
        | Code::Lfs_r16_m1616
        | Code::Lfs_r32_m1632
        | Code::Lgs_r16_m1616
        | Code::Lgs_r32_m1632 => {
            Some("protected mode, segments of real mode that are neither 64 KiB nor 4 GiB")
        }
        _ => load.then_some(
            "protected mode, all but the common kind (see translator.md, Shortcuts); segments \
             of real mode that are neither 64 KiB nor 4 GiB; SS where no load of the stack pointer follows",
        ),
    }
}

fn is_segment_operand(code: Code) -> bool {
    matches!(
        code,
        Code::Popw_ES
            | Code::Popd_ES
            | Code::Popw_CS
            | Code::Popw_SS
            | Code::Popd_SS
            | Code::Popw_DS
            | Code::Popd_DS
            | Code::Popw_FS
            | Code::Popd_FS
            | Code::Popw_GS
            | Code::Popd_GS
    )
}
