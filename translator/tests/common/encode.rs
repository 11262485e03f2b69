//! Bytes for any opcode of iced's tables: each operand gets the first thing that fits.

use iced_x86::{Code, Encoder, Instruction, OpCodeOperandKind as K, OpKind, Register};

/// The register that memory operands are based on.
pub(crate) const BASE: Register = Register::EBX;

/// Fills operand `number` of `insn`; `None` for kinds that 32-bit code does not have, and for the
/// implicit memory of string instructions.
fn fill(insn: &mut Instruction, number: u32, kind: K, memory: bool) -> Option<()> {
    let register = match kind {
        K::r8_or_mem if !memory => Register::CL,
        K::r8_reg | K::r8_opcode => Register::CL,
        K::r16_or_mem if !memory => Register::CX,
        K::r16_reg | K::r16_rm | K::r16_opcode => Register::CX,
        K::r32_or_mem | K::r32_or_mem_mpx if !memory => Register::ECX,
        K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => Register::ECX,
        K::mm_or_mem if !memory => Register::MM1,
        K::mm_reg | K::mm_rm => Register::MM1,
        K::xmm_or_mem if !memory => Register::XMM1,
        K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => Register::XMM1,
        K::xmmp3_vvvv => Register::XMM4,
        K::ymm_or_mem if !memory => Register::YMM1,
        K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => Register::YMM1,
        K::zmm_or_mem if !memory => Register::ZMM1,
        K::zmm_reg | K::zmm_rm | K::zmm_vvvv => Register::ZMM1,
        K::zmmp3_vvvv => Register::ZMM4,
        K::bnd_or_mem_mpx if !memory => Register::BND1,
        K::bnd_reg => Register::BND1,
        K::k_or_mem if !memory => Register::K1,
        K::k_reg | K::k_rm | K::k_vvvv => Register::K1,
        K::kp1_reg => Register::K2,
        K::tmm_reg | K::tmm_rm | K::tmm_vvvv => Register::TMM1,
        K::seg_reg => Register::DS,
        K::cr_reg => Register::CR2,
        K::dr_reg => Register::DR1,
        K::r16_reg_mem => Register::CX,
        K::r32_reg_mem => Register::ECX,
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST1,
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::fs => Register::FS,
        K::gs => Register::GS,
        _ => Register::None,
    };
    if register != Register::None {
        insn.set_op_kind(number, OpKind::Register);
        insn.set_op_register(number, register);
        return Some(());
    }
    let immediate = match kind {
        K::imm8 | K::imm8_const_1 | K::imm4_m2z => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::br16_1 | K::br16_2 | K::xbegin_2 => OpKind::NearBranch16,
        K::br32_1 | K::br32_4 | K::xbegin_4 => OpKind::NearBranch32,
        _ => OpKind::Memory,
    };
    match immediate {
        OpKind::NearBranch16 => {
            insn.set_op_kind(number, immediate);
            insn.set_near_branch16(insn.ip16());
            return Some(());
        }
        OpKind::NearBranch32 => {
            insn.set_op_kind(number, immediate);
            insn.set_near_branch32(insn.ip32());
            return Some(());
        }
        OpKind::Memory => {}
        _ => {
            insn.set_op_kind(number, immediate);
            insn.set_immediate_u64(number, 1);
            return Some(());
        }
    }
    insn.set_op_kind(number, OpKind::Memory);
    match kind {
        K::mem_offs => {
            insn.set_memory_displacement64(0x3000);
            insn.set_memory_displ_size(4);
            return Some(());
        }
        K::mem_vsib32x | K::mem_vsib64x => insn.set_memory_index(Register::XMM2),
        K::mem_vsib32y | K::mem_vsib64y => insn.set_memory_index(Register::YMM2),
        K::mem_vsib32z | K::mem_vsib64z => insn.set_memory_index(Register::ZMM2),
        K::sibmem => insn.set_memory_index(Register::ECX),
        K::mem
        | K::mem_mpx
        | K::mem_mib
        | K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r32_or_mem_mpx
        | K::mm_or_mem
        | K::xmm_or_mem
        | K::ymm_or_mem
        | K::zmm_or_mem
        | K::bnd_or_mem_mpx
        | K::k_or_mem => {}
        _ => return None,
    }
    insn.set_memory_base(BASE);
    Some(())
}

/// Bytes that are `code` in 32-bit code at `ip`, with a memory operand or without where there is a choice.
pub(crate) fn encode(code: Code, ip: u32, memory: bool) -> Option<Vec<u8>> {
    let op = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    insn.set_ip(u64::from(ip));
    for (number, &kind) in op.op_kinds().iter().enumerate() {
        fill(&mut insn, number as u32, kind, memory)?;
    }
    if op.require_op_mask_register() {
        insn.set_op_mask(Register::K1);
    }
    let mut encoder = Encoder::new(32);
    encoder.encode(&insn, u64::from(ip)).ok()?;
    Some(encoder.take_buffer())
}
