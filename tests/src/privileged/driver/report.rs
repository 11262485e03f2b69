//! The end of a case: the driver looks at what it left, sends a line, and puts the world back.

use iced_x86::code_asm::{
    CodeAssembler, al, ax, byte_ptr, cr0, cr2, cr3, cr4, dl, dr6, dr7, ds, dword_ptr, dx, eax, ebp,
    ebx, ecx, edi, edx, es, esi, esp, fword_ptr, ss, word_ptr,
};

use super::super::Field;
use super::super::layout::{self as at, selector};
use super::{CR0, Code, MSRS, UART, output, record};

/// The rest of the state, then the line that tells what changed.
pub(super) fn collect() -> Code {
    let mut a = CodeAssembler::new(32)?;
    a.mov(eax, u32::from(selector::DRIVER_DATA))?;
    a.mov(ss, eax)?;
    a.mov(esp, at::DRIVER_STACK)?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    // NT and the rest.
    a.push(2)?;
    a.popfd()?;
    a.mov(eax, CR0)?;
    a.mov(cr0, eax)?;
    a.mov(eax, cr2)?;
    a.mov(dword_ptr(output(Field::Cr2)), eax)?;
    a.mov(eax, cr3)?;
    a.mov(dword_ptr(output(Field::Cr3)), eax)?;
    a.mov(eax, cr4)?;
    a.mov(dword_ptr(output(Field::Cr4)), eax)?;
    a.str(eax)?;
    a.movzx(eax, ax)?;
    a.mov(dword_ptr(output(Field::Tr)), eax)?;
    a.sldt(eax)?;
    a.movzx(eax, ax)?;
    a.mov(dword_ptr(output(Field::Ldtr)), eax)?;
    for (table, base, limit) in [
        (at::V_TABLES, Field::GdtBase, Field::GdtLimit),
        (at::V_TABLES + 8, Field::IdtBase, Field::IdtLimit),
    ] {
        a.movzx(eax, word_ptr(table))?;
        a.mov(dword_ptr(output(limit)), eax)?;
        a.mov(eax, dword_ptr(table + 2))?;
        a.mov(dword_ptr(output(base)), eax)?;
    }
    a.mov(eax, dr7)?;
    a.mov(dword_ptr(output(Field::Dr7)), eax)?;
    a.mov(eax, dr6)?;
    a.mov(dword_ptr(output(Field::Dr6)), eax)?;
    for (msr, field) in MSRS {
        a.mov(ecx, msr)?;
        a.rdmsr()?;
        a.mov(dword_ptr(output(field)), eax)?;
    }
    a.lgdt(fword_ptr(at::V_POINTERS))?;
    a.lidt(fword_ptr(at::V_POINTERS + 8))?;
    // Bits of the frame's first and last words belong to it.
    a.and(dword_ptr(at::V_FRAME_LOW), -4)?;
    a.add(dword_ptr(at::V_FRAME_HIGH), 3)?;
    a.and(dword_ptr(at::V_FRAME_HIGH), -4)?;

    let mut field = a.create_label();
    let mut same = a.create_label();
    let mut compare = a.create_label();
    let mut skip = a.create_label();
    let mut compared = a.create_label();
    let mut send = a.create_label();
    let mut wait = a.create_label();
    let mut last = a.create_label();
    // EBP: the next character of the line.
    a.mov(ebp, at::LINE)?;
    a.mov(eax, dword_ptr(at::V_NUMBER))?;
    a.mov(ecx, 8)?;
    a.call(u64::from(at::HEX))?;
    a.xor(ebx, ebx)?;
    a.set_label(&mut field)?;
    a.mov(eax, dword_ptr(ebx * 4 + at::OUT))?;
    a.cmp(eax, dword_ptr(ebx * 4 + at::IN))?;
    a.je(same)?;
    a.mov(byte_ptr(ebp), i32::from(b' '))?;
    a.inc(ebp)?;
    a.mov(eax, ebx)?;
    a.shl(eax, 24)?;
    a.mov(ecx, 2)?;
    a.call(u64::from(at::HEX))?;
    a.mov(eax, dword_ptr(ebx * 4 + at::OUT))?;
    a.mov(ecx, 8)?;
    a.call(u64::from(at::HEX))?;
    a.set_label(&mut same)?;
    a.inc(ebx)?;
    a.cmp(ebx, Field::COUNT as u32)?;
    a.jb(field)?;

    a.mov(esi, at::SNAPSHOT + at::COMPARED)?;
    a.mov(edi, at::COMPARED)?;
    a.mov(ecx, (at::WORLD - at::COMPARED) / 4)?;
    a.set_label(&mut compare)?;
    a.repe().cmpsd()?;
    a.je(compared)?;
    a.lea(ebx, dword_ptr(edi - 4))?;
    a.cmp(ebx, dword_ptr(at::V_FRAME_HIGH))?;
    let mut report = a.create_label();
    a.jae(report)?;
    a.cmp(ebx, dword_ptr(at::V_FRAME_LOW))?;
    a.jae(skip)?;
    a.set_label(&mut report)?;
    a.push(ecx)?;
    a.mov(word_ptr(ebp), i32::from(u16::from_le_bytes(*b" @")))?;
    a.add(ebp, 2)?;
    a.mov(eax, ebx)?;
    a.shl(eax, 16)?;
    a.mov(ecx, 4)?;
    a.call(u64::from(at::HEX))?;
    a.mov(eax, dword_ptr(ebx))?;
    a.mov(ecx, 8)?;
    a.call(u64::from(at::HEX))?;
    a.pop(ecx)?;
    a.set_label(&mut skip)?;
    // As it was.
    a.mov(eax, dword_ptr(esi - 4))?;
    a.mov(dword_ptr(ebx), eax)?;
    a.test(ecx, ecx)?;
    a.jne(compare)?;
    a.set_label(&mut compared)?;
    a.mov(byte_ptr(ebp), i32::from(b'\n'))?;
    a.inc(ebp)?;

    // Sends the line in pieces of the size of the UART's FIFO.
    a.mov(esi, at::LINE)?;
    a.sub(ebp, esi)?;
    a.set_label(&mut send)?;
    a.mov(edx, UART + 5)?;
    a.set_label(&mut wait)?;
    a.in_(al, dx)?;
    a.test(al, 0x20)?;
    a.je(wait)?;
    a.mov(ecx, 16)?;
    a.cmp(ebp, ecx)?;
    let mut full = a.create_label();
    a.jae(full)?;
    a.mov(ecx, ebp)?;
    a.set_label(&mut full)?;
    a.sub(ebp, ecx)?;
    a.mov(edx, UART)?;
    a.rep().outsb()?;
    a.test(ebp, ebp)?;
    a.jne(send)?;
    a.jmp(last)?;

    // The words of the case become those of the pristine world.
    a.set_label(&mut last)?;
    a.mov(ebx, dword_ptr(at::V_CASE))?;
    a.mov(ecx, dword_ptr(ebx + record::POKES))?;
    a.lea(esi, dword_ptr(ebx + record::STATE + Field::COUNT * 4))?;
    let mut restore = a.create_label();
    let mut restored = a.create_label();
    a.jecxz(restored)?;
    a.set_label(&mut restore)?;
    a.mov(edi, dword_ptr(esi))?;
    a.mov(eax, dword_ptr(edi + at::PRISTINE))?;
    a.mov(dword_ptr(edi), eax)?;
    a.mov(dword_ptr(edi + at::SNAPSHOT), eax)?;
    a.add(esi, 8)?;
    a.loop_(restore)?;
    a.set_label(&mut restored)?;
    a.add(ebx, dword_ptr(ebx + record::SIZE))?;
    a.inc(dword_ptr(at::V_NUMBER))?;
    a.jmp(u64::from(at::MAIN))?;
    a.assemble(at::COLLECT.into())
}

/// Writes ECX hexadecimal digits of EAX, from the most significant one, at EBP, and moves EBP on.
pub(super) fn hex() -> Code {
    let mut a = CodeAssembler::new(32)?;
    let mut digit = a.create_label();
    let mut decimal = a.create_label();
    a.set_label(&mut digit)?;
    a.rol(eax, 4)?;
    a.mov(edx, eax)?;
    a.and(edx, 15)?;
    a.add(dl, i32::from(b'0'))?;
    a.cmp(dl, i32::from(b'9'))?;
    a.jbe(decimal)?;
    a.add(dl, i32::from(b'a' - b'9' - 1))?;
    a.set_label(&mut decimal)?;
    a.mov(byte_ptr(ebp), dl)?;
    a.inc(ebp)?;
    a.dec(ecx)?;
    a.jne(digit)?;
    a.ret()?;
    a.assemble(at::HEX.into())
}
