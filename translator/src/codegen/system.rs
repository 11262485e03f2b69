//! Which instructions are carried out in Rust, and the few sensitive ones that are emitted inline.

use super::asm::{Mem, Reg, host};
use super::builder::{After, Builder, CannotEmit};
use super::{AccessHint, CalloutKind, layout};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// The kind of callout that `insn` is carried out by wherever it appears, or `None` if it is
/// translated (in some modes at least).
pub(crate) fn callout_kind(insn: &Instruction) -> Option<CalloutKind> {
    use CalloutKind as K;
    let kind = match insn.mnemonic() {
        Mnemonic::Hlt
        | Mnemonic::Clts
        | Mnemonic::Lmsw
        | Mnemonic::Invlpg
        | Mnemonic::Wbinvd
        | Mnemonic::Invd => K::Privileged,
        Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Lldt | Mnemonic::Ltr => K::Privileged,
        Mnemonic::Rdmsr | Mnemonic::Wrmsr | Mnemonic::Rdpmc | Mnemonic::Rsm => K::Privileged,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Smsw | Mnemonic::Cpuid => K::Sensitive,
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str => K::Sensitive,
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Verr | Mnemonic::Verw | Mnemonic::Arpl => {
            K::SelectorCheck
        }
        Mnemonic::In | Mnemonic::Out | Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            K::PortIo
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => K::PortIo,
        Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
            K::SegmentLoad
        }
        Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Int1 => K::SystemCall,
        Mnemonic::Sysenter | Mnemonic::Sysexit => K::SystemCall,
        Mnemonic::Bound => K::Bound,

        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Retf => K::FarTransfer,
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => K::Undefined,
        Mnemonic::Mov if is_system_register(insn) => K::Privileged,
        Mnemonic::Mov if matches!(insn.code(), Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16) => {
            K::SegmentLoad
        }
        _ if insn.is_jmp_far()
            || insn.is_call_far()
            || insn.is_jmp_far_indirect()
            || insn.is_call_far_indirect() =>
        {
            K::FarTransfer
        }
        _ => return None,
    };
    Some(kind)
}

/// MOV to or from CRn, DRn, TRn.
fn is_system_register(insn: &Instruction) -> bool {
    (0..insn.op_count().min(2)).any(|i| {
        insn.op_kind(i) == OpKind::Register && {
            let register = insn.op_register(i);
            register.is_cr() || register.is_dr() || register.is_tr()
        }
    })
}

impl Builder<'_> {
    /// RDTSC with the guest's offset added; RORX shifts without flags.
    fn read_tsc(&mut self) {
        const SHIFT_RDX: [u8; 6] = [0xC4, 0xE3, 0xFB, 0xF0, 0xD2, 32]; // rorx rdx, rdx, 32
        self.asm.bytes(&[0x0F, 0x31]);
        self.asm.bytes(&SHIFT_RDX);
        self.asm.load64(host::R8, layout::tsc_offset());
        self.asm.lea64(host::R8, Mem::sum(host::R8, host::RAX, 0));
        self.asm.lea64(host::R8, Mem::sum(host::R8, Reg(2), 0));
        self.asm.mov32(host::RAX, host::R8);
        self.asm.mov64(Reg(2), host::R8);
        self.asm.bytes(&SHIFT_RDX);
        self.asm.mov32(Reg(2), Reg(2));
    }

    /// Privileged instructions that do next to nothing, where they are allowed. A page-fault handler has one of
    /// each: INVLPG finds nothing out of date (`Mmu::invlpg`), and control registers are in the context.
    fn emit_kernel_mode(&mut self, insn: &Instruction) -> bool {
        if self.t.mode.cpl() != 0 || self.t.mode.v86() || self.hint == AccessHint::Callout {
            return false;
        }
        match insn.code() {
            Code::Invlpg_m => true,
            Code::Mov_r32_cr if insn.op0_register() != Register::ESP => {
                let register = match insn.op1_register() {
                    Register::CR0 => layout::cr0(),
                    Register::CR2 => layout::cr2(),
                    Register::CR3 => layout::cr3(),
                    _ => return false,
                };
                let target = Self::guest_of(insn.op0_register());
                self.asm.load32(target, register);
                true
            }
            _ => false,
        }
    }

    /// Emits `insn` if it is privileged, sensitive, or concerned with segments.
    pub(super) fn emit_system(&mut self, insn: &Instruction) -> Result<Option<After>, CannotEmit> {
        let free = self.t.mode.interrupt_flag_free() && self.hint != AccessHint::Callout;
        match insn.mnemonic() {
            Mnemonic::Cld | Mnemonic::Std => {
                return Ok(Some(self.set_direction(insn.mnemonic() == Mnemonic::Std)));
            }
            Mnemonic::Cli if free => {
                self.asm.store_imm(1, layout::interrupt_flag(), 0);
                return Ok(Some(After::Continue));
            }
            Mnemonic::Sti
                if free && !self.t.mode.is_single() && !self.shadow_needs_callout(insn) =>
            {
                self.asm.store_imm(1, layout::interrupt_flag(), 1);
                self.after_sti = true;
                return Ok(Some(After::Continue));
            }
            Mnemonic::Cli | Mnemonic::Sti | Mnemonic::Pushf | Mnemonic::Pushfd => {
                return Ok(Some(self.callout(CalloutKind::Sensitive)));
            }
            Mnemonic::Rdtsc => {
                if self.t.mode.tsc_callout() {
                    return Ok(Some(self.callout(CalloutKind::Sensitive)));
                }
                self.read_tsc();
                return Ok(Some(After::Continue));
            }
            Mnemonic::Mov if matches!(insn.code(), Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg) => {
                return Ok(Some(self.store_selector(insn)));
            }
            _ => {}
        }
        if self.emit_paragraph_load(insn) || self.emit_kernel_mode(insn) {
            return Ok(Some(After::Continue));
        }
        if let Some(after) = self.emit_shortcut(insn) {
            return Ok(Some(after));
        }
        let Some(kind) = callout_kind(insn) else {
            return Ok(None);
        };
        let ends = insn.flow_control() != FlowControl::Next && insn.mnemonic() != Mnemonic::Into
            || matches!(
                insn.mnemonic(),
                Mnemonic::Hlt | Mnemonic::Clts | Mnemonic::Lmsw | Mnemonic::Wrmsr
            )
            || (kind == CalloutKind::Privileged && is_system_register(insn));
        Ok(Some(if ends {
            self.callout_end(kind)
        } else {
            self.callout(kind)
        }))
    }
}
