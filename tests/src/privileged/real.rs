//! The part of the driver in real mode: enters a case, and catches the exception that ends it.

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, ax, cr0, ds, dword_ptr, eax, ebp, ebx, ecx, edi, edx, es, esi, esp, fs,
    fword_ptr, gs, sp, ss, word_ptr,
};

use super::Field;
use super::layout::{self as at, selector};

type Code = Result<Vec<u8>, IcedError>;

fn input(field: Field) -> u32 {
    at::REAL_IN + field.offset()
}

fn output(field: Field) -> u32 {
    at::REAL_OUT + field.offset()
}

/// Offset of the code that the stubs lead to.
const COMMON: u32 = at::REAL_CODE + 0x100;

/// The code and where it belongs.
///
/// # Errors
///
/// When an instruction does not encode, which is a bug.
pub(super) fn code() -> Result<Vec<(u32, Vec<u8>)>, IcedError> {
    let mut parts = vec![(at::REAL_CODE, enter()?), (COMMON, common()?)];
    for vector in 0..32 {
        parts.push((stub_address(vector), stub(vector)?));
    }
    Ok(parts)
}

/// The handler of a vector below 32.
#[must_use]
pub(super) const fn stub_address(vector: u32) -> u32 {
    at::REAL_STUBS + vector * at::STUB_SIZE
}

fn stub(vector: u32) -> Code {
    let mut a = CodeAssembler::new(16)?;
    a.mov(word_ptr(output(Field::Vector)).cs(), vector as i32)?;
    a.jmp(u64::from(COMMON))?;
    a.assemble(stub_address(vector).into())
}

/// From 16-bit protected mode to real mode and into the case.
fn enter() -> Code {
    let mut a = CodeAssembler::new(16)?;
    let mut real = a.create_label();
    a.mov(ax, u32::from(selector::REAL_DATA))?;
    for register in [ds, es, fs, gs, ss] {
        a.mov(register, eax)?;
    }
    a.mov(eax, dword_ptr(input(Field::Cr0)))?;
    a.mov(cr0, eax)?;
    // jmp 0:real, whose offset is that of the instruction behind it.
    let length = 5;
    let mut size = CodeAssembler::new(16)?;
    size.mov(ax, u32::from(selector::REAL_DATA))?;
    for register in [ds, es, fs, gs, ss] {
        size.mov(register, eax)?;
    }
    size.mov(eax, dword_ptr(input(Field::Cr0)))?;
    size.mov(cr0, eax)?;
    let target = at::REAL_CODE + size.assemble(at::REAL_CODE.into())?.len() as u32 + length;
    let [low, high, ..] = target.to_le_bytes();
    a.db(&[0xEA, low, high, 0, 0])?;
    a.set_label(&mut real)?;
    a.xor(ax, ax)?;
    a.mov(ds, eax)?;
    a.mov(ss, eax)?;
    a.mov(sp, at::REAL_IN)?;
    a.push(dword_ptr(input(Field::Eflags)))?;
    a.popfd()?;
    a.mov(es, word_ptr(input(Field::Es)))?;
    a.mov(fs, word_ptr(input(Field::Fs)))?;
    a.mov(gs, word_ptr(input(Field::Gs)))?;
    for (register, field) in [
        (eax, Field::Eax),
        (ecx, Field::Ecx),
        (edx, Field::Edx),
        (ebx, Field::Ebx),
        (ebp, Field::Ebp),
        (esi, Field::Esi),
        (edi, Field::Edi),
    ] {
        a.mov(register, dword_ptr(input(field)))?;
    }
    a.lss(esp, fword_ptr(input(Field::Esp)))?;
    a.mov(ds, word_ptr(input(Field::Ds)))?;
    a.jmp(fword_ptr(input(Field::Eip)).cs())?;
    a.assemble(at::REAL_CODE.into())
}

fn common() -> Code {
    let mut a = CodeAssembler::new(16)?;
    for (register, field) in [
        (eax, Field::Eax),
        (ecx, Field::Ecx),
        (edx, Field::Edx),
        (ebx, Field::Ebx),
        (ebp, Field::Ebp),
        (esi, Field::Esi),
        (edi, Field::Edi),
    ] {
        a.mov(dword_ptr(output(field)).cs(), register)?;
    }
    for field in [Field::Eip, Field::Cs, Field::Eflags] {
        a.pop(word_ptr(output(field)).cs())?;
    }
    a.mov(dword_ptr(output(Field::Esp)).cs(), esp)?;
    for (register, field) in [
        (ss, Field::Ss),
        (ds, Field::Ds),
        (es, Field::Es),
        (fs, Field::Fs),
        (gs, Field::Gs),
    ] {
        a.mov(word_ptr(output(field)).cs(), register)?;
    }
    a.mov(eax, cr0)?;
    a.mov(dword_ptr(output(Field::Cr0)).cs(), eax)?;
    a.xor(ax, ax)?;
    a.mov(ds, eax)?;
    // sgdt and sidt with their 16-bit operand size store 6 bytes as well.
    a.sgdt(fword_ptr(at::REAL_TABLES))?;
    a.sidt(fword_ptr(at::REAL_TABLES + 8))?;
    // lgdt with all 32 bits of the base.
    let [low, high, ..] = at::REAL_GDTR.to_le_bytes();
    a.db(&[0x66, 0x0F, 0x01, 0x16, low, high])?;
    a.mov(eax, super::driver::CR0)?;
    a.mov(cr0, eax)?;
    // jmp DRIVER_CODE:BACK with a 32-bit offset.
    a.db(&[0x66, 0xEA])?;
    a.db(&at::BACK.to_le_bytes())?;
    a.db(&selector::DRIVER_CODE.to_le_bytes())?;
    a.assemble(COMMON.into())
}
