//! The guest's program: for each case it prepares the world, enters the state of the case, sends what
//! the exception that ends it finds, and puts the world back. In 32-bit protected mode without paging, above
//! 1 MiB; the part in real mode is in `real`.

mod report;

use iced_x86::IcedError;
use iced_x86::code_asm::{
    CodeAssembler, al, ax, byte_ptr, cr0, cr2, cr3, cr4, dr6, dr7, ds, dword_ptr, dx, eax, ebp,
    ebx, ecx, edi, edx, es, esi, esp, fs, fword_ptr, gs, ptr, ss, st0, st1, word_ptr,
};

use super::Field;
use super::layout::{self as at, selector};

/// The serial port.
const UART: u32 = 0x3F8;
/// What the UART's scratch register holds before a case.
pub const SCRATCH: u8 = 0x5A;
/// UD2, which ends each case.
pub const UD2: [u8; 2] = [0x0F, 0x0B];
/// CR0 of the driver: PE, ET, NE.
pub const CR0: u32 = 0x31;
/// EFLAGS.VM.
const VM: u32 = 1 << 17;

/// Offsets in a record of the table of cases.
pub mod record {
    /// Size of the record in bytes; 0 ends the table.
    pub const SIZE: usize = 0;
    /// 1 for real mode.
    pub const REAL: usize = 4;
    /// Which [`super::Preparation`].
    pub const PREPARATION: usize = 8;
    /// Number of words to change in the world.
    pub const POKES: usize = 12;
    /// The state, then addresses and values of the words.
    pub const STATE: usize = 16;
}

/// What the driver does in front of a case that the state cannot say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Preparation {
    /// Nothing.
    #[default]
    None = 0,
    /// Leaves an unmasked x87 exception (a division by zero) pending.
    PendingX87 = 1,
    /// Loads all x87 and SSE registers, see [`super::units::prepared`].
    Units = 2,
    /// The same, with an unmasked x87 exception pending.
    UnitsPending = 3,
}

type Code = Result<Vec<u8>, IcedError>;

fn input(field: Field) -> u32 {
    at::IN + field.offset()
}

fn output(field: Field) -> u32 {
    at::OUT + field.offset()
}

/// The bytes of the driver, for [`at::DRIVER`], up to [`at::PRISTINE`].
///
/// # Errors
///
/// When an instruction does not encode, which is a bug.
pub fn driver() -> Code {
    let mut image = vec![0; (at::PRISTINE - at::DRIVER) as usize];
    let mut entry = CodeAssembler::new(32)?;
    entry.jmp(u64::from(at::START))?;
    let mut parts = vec![
        (at::DRIVER, entry.assemble(at::DRIVER.into())?),
        (at::COMMON, common()?),
        (at::DOUBLE_FAULT, double_fault()?),
        (at::BACK, back_from_real_mode()?),
        (at::START, start()?),
        (at::HEX, report::hex()?),
        (at::COLLECT, report::collect()?),
        (at::MAIN, main()?),
    ];
    for vector in 0..32 {
        parts.push((at::STUBS + vector * at::STUB_SIZE, stub(vector)?));
    }
    parts.sort_by_key(|(address, _)| *address);
    let mut free = at::DRIVER;
    for (address, code) in parts {
        assert!(address >= free, "the code before {address:#x} is too long");
        let offset = (address - at::DRIVER) as usize;
        image[offset..offset + code.len()].copy_from_slice(&code);
        free = address + code.len() as u32;
    }
    Ok(image)
}

/// Whether the processor pushes an error code (Intel SDM vol. 3A, table 6-1).
#[must_use]
pub const fn has_error_code(vector: u32) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

fn stub(vector: u32) -> Code {
    let mut a = CodeAssembler::new(32)?;
    if !has_error_code(vector) {
        a.push(0)?;
    }
    a.push(vector as i32)?;
    a.jmp(u64::from(at::COMMON))?;
    a.assemble((at::STUBS + vector * at::STUB_SIZE).into())
}

/// Saves what an exception pushed and the registers it found. Nothing is known of the stack but
/// that an exception could be delivered on it.
fn common() -> Code {
    let mut a = CodeAssembler::new(32)?;
    let mut outer = a.create_label();
    let mut v86 = a.create_label();
    let mut done = a.create_label();
    a.push(eax)?;
    a.push(ds)?;
    a.mov(eax, u32::from(selector::DRIVER_DATA))?;
    a.mov(ds, eax)?;
    a.mov(dword_ptr(at::V_FRAME_LOW), esp)?;
    for field in [
        Field::Ds,
        Field::Eax,
        Field::Vector,
        Field::Error,
        Field::Eip,
        Field::Cs,
        Field::Eflags,
    ] {
        a.pop(dword_ptr(output(field)))?;
    }
    a.mov(dword_ptr(output(Field::Ecx)), ecx)?;
    a.mov(dword_ptr(output(Field::Edx)), edx)?;
    a.mov(dword_ptr(output(Field::Ebx)), ebx)?;
    a.mov(dword_ptr(output(Field::Ebp)), ebp)?;
    a.mov(dword_ptr(output(Field::Esi)), esi)?;
    a.mov(dword_ptr(output(Field::Edi)), edi)?;
    for (register, field) in [(es, Field::Es), (fs, Field::Fs), (gs, Field::Gs)] {
        a.mov(eax, register)?;
        a.mov(dword_ptr(output(field)), eax)?;
    }
    a.test(dword_ptr(output(Field::Eflags)), VM)?;
    a.jne(v86)?;
    a.test(byte_ptr(output(Field::Cs)), 3)?;
    a.jne(outer)?;
    a.mov(dword_ptr(output(Field::Esp)), esp)?;
    a.mov(eax, ss)?;
    a.mov(dword_ptr(output(Field::Ss)), eax)?;
    a.jmp(done)?;
    a.set_label(&mut outer)?;
    a.pop(dword_ptr(output(Field::Esp)))?;
    a.pop(dword_ptr(output(Field::Ss)))?;
    a.jmp(done)?;
    a.set_label(&mut v86)?;
    for field in [
        Field::Esp,
        Field::Ss,
        Field::Es,
        Field::Ds,
        Field::Fs,
        Field::Gs,
    ] {
        a.pop(dword_ptr(output(field)))?;
    }
    a.set_label(&mut done)?;
    a.mov(dword_ptr(at::V_FRAME_HIGH), esp)?;
    // An offset beyond 64 KiB is the upper half of ESP on a 16-bit stack.
    a.and(dword_ptr(at::V_FRAME_LOW), 0xFFFF)?;
    a.and(dword_ptr(at::V_FRAME_HIGH), 0xFFFF)?;
    // A push of a segment register leaves the upper half of its slot alone.
    for field in [
        Field::Cs,
        Field::Ss,
        Field::Es,
        Field::Ds,
        Field::Fs,
        Field::Gs,
    ] {
        a.and(dword_ptr(output(field)), 0xFFFF)?;
    }
    a.mov(eax, cr0)?;
    a.mov(dword_ptr(output(Field::Cr0)), eax)?;
    a.sgdt(fword_ptr(at::V_TABLES))?;
    a.sidt(fword_ptr(at::V_TABLES + 8))?;
    a.jmp(u64::from(at::COLLECT))?;
    a.assemble(at::COMMON.into())
}

/// The double-fault task: the state of the case is in its TSS, which is compared with the rest of
/// the world; here only vector and error code are reported.
fn double_fault() -> Code {
    let mut a = CodeAssembler::new(32)?;
    a.mov(esi, at::IN)?;
    a.mov(edi, at::OUT)?;
    a.mov(ecx, Field::COUNT as u32)?;
    a.cld()?;
    a.rep().movsd()?;
    a.mov(dword_ptr(output(Field::Vector)), 8)?;
    a.pop(dword_ptr(output(Field::Error)))?;
    a.mov(
        dword_ptr(at::V_FRAME_LOW),
        at::STACK_DOUBLE_FAULT as i32 - 4,
    )?;
    a.mov(dword_ptr(at::V_FRAME_HIGH), at::STACK_DOUBLE_FAULT as i32)?;
    a.mov(eax, cr0)?;
    a.mov(dword_ptr(output(Field::Cr0)), eax)?;
    a.sgdt(fword_ptr(at::V_TABLES))?;
    a.sidt(fword_ptr(at::V_TABLES + 8))?;
    a.jmp(u64::from(at::COLLECT))?;
    a.assemble(at::DOUBLE_FAULT.into())
}

fn back_from_real_mode() -> Code {
    let mut a = CodeAssembler::new(32)?;
    a.mov(eax, u32::from(selector::DRIVER_DATA))?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.cld()?;
    a.mov(esi, at::REAL_OUT)?;
    a.mov(edi, at::OUT)?;
    a.mov(ecx, Field::COUNT as u32)?;
    a.rep().movsd()?;
    a.mov(esi, at::REAL_TABLES)?;
    a.mov(edi, at::V_TABLES)?;
    a.mov(ecx, 4)?;
    a.rep().movsd()?;
    a.mov(eax, dword_ptr(output(Field::Esp)))?;
    a.and(eax, 0xFFFF)?;
    a.mov(dword_ptr(at::V_FRAME_HIGH), eax)?;
    a.sub(eax, 6)?;
    a.mov(dword_ptr(at::V_FRAME_LOW), eax)?;
    a.jmp(u64::from(at::COLLECT))?;
    a.assemble(at::BACK.into())
}

/// Model-specific registers and where the low halves of their values are.
const MSRS: [(u32, Field); 4] = [
    (0x174, Field::SysenterCs),
    (0x175, Field::SysenterEsp),
    (0x176, Field::SysenterEip),
    (0xC000_0080, Field::Efer),
];

/// From the loader: makes the world, masks the interrupt controllers, sets the serial port to
/// 115,200 baud, 8N1, with FIFOs.
fn start() -> Code {
    let mut a = CodeAssembler::new(32)?;
    a.cli()?;
    a.cld()?;
    a.mov(esp, at::DRIVER_STACK)?;
    a.mov(esi, at::PRISTINE)?;
    a.xor(edi, edi)?;
    a.mov(ecx, at::WORLD / 4)?;
    a.rep().movsd()?;
    a.mov(esi, at::PRISTINE)?;
    a.mov(edi, at::SNAPSHOT)?;
    a.mov(ecx, at::WORLD / 4)?;
    a.rep().movsd()?;
    for (index, (base, limit)) in [
        (at::GDT, at::GDT_LIMIT),
        (at::IDT, at::IDT_LIMIT),
        (0, 0x3FF),
    ]
    .into_iter()
    .enumerate()
    {
        let pointer = at::V_POINTERS + 8 * index as u32;
        a.mov(word_ptr(pointer), i32::from(limit))?;
        a.mov(dword_ptr(pointer + 2), base as i32)?;
    }
    a.lgdt(fword_ptr(at::V_POINTERS))?;
    a.lidt(fword_ptr(at::V_POINTERS + 8))?;
    a.mov(eax, 0xFF)?;
    a.out(0x21, al)?;
    a.out(0xA1, al)?;
    for (register, value) in [(3, 0x83), (0, 1), (1, 0), (3, 3), (1, 0), (2, 7), (4, 3)] {
        a.mov(edx, UART + register)?;
        a.mov(al, value)?;
        a.out(dx, al)?;
    }
    for n in 0..8 {
        let entry = (n << 22 | 0x87) as i32;
        a.mov(dword_ptr(at::PAGE_DIRECTORY + 4 * n), entry)?;
        let entry = if n << 22 == at::HOLE { 0 } else { entry };
        a.mov(dword_ptr(at::PAGE_DIRECTORY_HOLE + 4 * n), entry)?;
    }
    a.mov(dword_ptr(at::V_NUMBER), 0)?;
    a.mov(ebx, at::CASES)?;
    // To the code segment of the driver.
    a.push(i32::from(selector::DRIVER_CODE))?;
    a.push(at::MAIN as i32)?;
    a.retf()?;
    a.assemble(at::START.into())
}

/// Runs the case at EBX.
fn main() -> Code {
    let mut a = CodeAssembler::new(32)?;
    let mut poke = a.create_label();
    let mut poked = a.create_label();
    let mut finished = a.create_label();
    let mut divided = a.create_label();
    let mut level_0 = a.create_label();
    let mut v86 = a.create_label();
    let mut real = a.create_label();
    a.mov(eax, u32::from(selector::DRIVER_DATA))?;
    a.mov(ds, eax)?;
    a.mov(es, eax)?;
    a.mov(ss, eax)?;
    a.mov(dword_ptr(at::V_CASE), ebx)?;
    a.cmp(dword_ptr(ebx + record::SIZE), 0)?;
    a.je(finished)?;

    a.lea(esi, dword_ptr(ebx + record::STATE))?;
    a.mov(edi, at::IN)?;
    a.mov(ecx, Field::COUNT as u32)?;
    a.rep().movsd()?;
    // The words of the case, in the world and in the copy of it.
    a.mov(ecx, dword_ptr(ebx + record::POKES))?;
    a.jecxz(poked)?;
    a.set_label(&mut poke)?;
    a.lodsd()?;
    a.mov(edi, eax)?;
    a.lodsd()?;
    a.mov(dword_ptr(edi), eax)?;
    a.mov(dword_ptr(edi + at::SNAPSHOT), eax)?;
    a.loop_(poke)?;
    a.set_label(&mut poked)?;

    // Tasks. LTR sets the busy bit, which the world has set.
    a.and(
        byte_ptr(at::GDT + u32::from(selector::TSS) + 5),
        0xFDu32 as i32,
    )?;
    a.mov(eax, u32::from(selector::TSS))?;
    a.ltr(ax)?;
    a.mov(eax, dword_ptr(input(Field::Ldtr)))?;
    a.lldt(ax)?;

    a.mov(edx, UART + 7)?;
    a.mov(al, u32::from(SCRATCH))?;
    a.out(dx, al)?;
    a.fninit()?;
    a.cmp(
        dword_ptr(ebx + record::PREPARATION),
        Preparation::PendingX87 as i32,
    )?;
    a.jne(divided)?;
    // 1 / 0 with the exception unmasked.
    a.push(0x37B)?;
    a.fldcw(word_ptr(esp))?;
    a.fld1()?;
    a.fldz()?;
    a.fdivp(st1, st0)?;
    a.pop(eax)?;
    a.set_label(&mut divided)?;
    for (preparation, image) in [
        (Preparation::Units, at::UNITS),
        (Preparation::UnitsPending, at::UNITS_PENDING),
    ] {
        let mut other = a.create_label();
        a.cmp(dword_ptr(ebx + record::PREPARATION), preparation as i32)?;
        a.jne(other)?;
        a.mov(eax, 1 << 9)?; // CR4.OSFXSR
        a.mov(cr4, eax)?;
        a.fxrstor(ptr(image))?;
        a.set_label(&mut other)?;
    }

    for (msr, field) in MSRS {
        a.mov(ecx, msr)?;
        a.mov(eax, dword_ptr(input(field)))?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
    }
    a.mov(eax, dword_ptr(input(Field::Dr6)))?;
    a.mov(dr6, eax)?;
    a.mov(eax, dword_ptr(input(Field::Cr2)))?;
    a.mov(cr2, eax)?;
    a.mov(eax, dword_ptr(input(Field::Cr3)))?;
    a.mov(cr3, eax)?;
    a.mov(eax, dword_ptr(input(Field::Cr4)))?;
    a.mov(cr4, eax)?;
    a.cmp(dword_ptr(ebx + record::REAL), 0)?;
    a.jne(real)?;
    a.mov(eax, dword_ptr(input(Field::Cr0)))?;
    a.mov(cr0, eax)?;
    a.test(dword_ptr(input(Field::Eflags)), VM)?;
    a.jne(v86)?;
    a.test(byte_ptr(input(Field::Cs)), 3)?;
    a.je(level_0)?;
    for field in [Field::Ss, Field::Esp, Field::Eflags, Field::Cs, Field::Eip] {
        a.push(dword_ptr(input(field)))?;
    }
    load_debug_and_registers(&mut a)?;
    a.mov(es, word_ptr(input(Field::Es)))?;
    a.mov(fs, word_ptr(input(Field::Fs)))?;
    a.mov(gs, word_ptr(input(Field::Gs)))?;
    a.mov(ds, word_ptr(input(Field::Ds)))?;
    a.iretd()?;

    a.set_label(&mut v86)?;
    for field in [
        Field::Gs,
        Field::Fs,
        Field::Ds,
        Field::Es,
        Field::Ss,
        Field::Esp,
        Field::Eflags,
        Field::Cs,
        Field::Eip,
    ] {
        a.push(dword_ptr(input(field)))?;
    }
    load_debug_and_registers(&mut a)?;
    a.iretd()?;

    a.set_label(&mut level_0)?;
    load_debug_and_registers(&mut a)?;
    a.mov(es, word_ptr(input(Field::Es)))?;
    a.mov(fs, word_ptr(input(Field::Fs)))?;
    a.mov(gs, word_ptr(input(Field::Gs)))?;
    a.push(dword_ptr(input(Field::Eflags)))?;
    a.popfd()?;
    a.lss(esp, fword_ptr(input(Field::Esp)))?;
    a.mov(ds, word_ptr(input(Field::Ds)))?;
    a.jmp(fword_ptr(input(Field::Eip)).cs())?;

    a.set_label(&mut real)?;
    a.mov(esi, at::IN)?;
    a.mov(edi, at::REAL_IN)?;
    a.mov(ecx, Field::COUNT as u32)?;
    a.rep().movsd()?;
    a.mov(edi, at::REAL_OUT)?;
    a.mov(ecx, Field::COUNT as u32)?;
    a.xor(eax, eax)?;
    a.rep().stosd()?;
    a.mov(esi, at::V_POINTERS)?;
    a.mov(edi, at::REAL_GDTR)?;
    a.movsd()?;
    a.movsd()?;
    a.lidt(fword_ptr(at::V_POINTERS + 16))?;
    a.push(i32::from(selector::REAL_CODE))?;
    a.push(at::REAL_CODE as i32)?;
    a.retf()?;

    a.set_label(&mut finished)?;
    // The last line may still fill the FIFO.
    let mut wait = a.create_label();
    a.mov(edx, UART + 5)?;
    a.set_label(&mut wait)?;
    a.in_(al, dx)?;
    a.test(al, 0x20)?;
    a.je(wait)?;
    a.mov(edx, UART)?;
    for byte in *b"END\n" {
        a.mov(al, u32::from(byte))?;
        a.out(dx, al)?;
    }
    a.cli()?;
    a.hlt()?;
    a.jmp(finished)?;
    a.assemble(at::MAIN.into())
}

/// DR7, then the general registers but ESP. Nothing may follow that a breakpoint could stop.
fn load_debug_and_registers(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, dword_ptr(input(Field::Dr7)))?;
    a.mov(dr7, eax)?;
    a.mov(ecx, dword_ptr(input(Field::Ecx)))?;
    a.mov(edx, dword_ptr(input(Field::Edx)))?;
    a.mov(ebx, dword_ptr(input(Field::Ebx)))?;
    a.mov(ebp, dword_ptr(input(Field::Ebp)))?;
    a.mov(esi, dword_ptr(input(Field::Esi)))?;
    a.mov(edi, dword_ptr(input(Field::Edi)))?;
    a.mov(eax, dword_ptr(input(Field::Eax)))
}
