//! 16-bit code: small real-mode programs.
//!
//! Each is a kernel of its own that goes to real mode, prints "S", works, and prints "E".

use std::path::PathBuf;

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::work::{Bars, Group, Work};
use super::{CompareError, build};
use crate::bzimage::{LOAD_ADDRESS, bzimage};

/// Offset of the 16-bit program in the kernel, and the segment that it is copied to.
const PROGRAM: u32 = 0x200;
const SEGMENT: u32 = 0x1000;
const PROGRAM_BYTES: u32 = 0x1000;

type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A program: its work, whose rounds are in thousands here, and one round.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What is measured.
    pub work: Work,
    body: Body,
}

const fn work(name: &'static str, thousands: u64, times_qemu: Option<f64>) -> Work {
    Work {
        name,
        group: Group::RealMode,
        round: thousands * INNER,
        counted: thousands * INNER,
        operation: "round",
        bars: Bars {
            of_native: None,
            times_qemu,
        },
    }
}

/// Rounds of the inner loop.
const INNER: u64 = 1000;

/// The programs. One segment for code, data and stack; what is below 800h is the page of the code.
pub const WORK: [Program; 8] = [
    Program {
        work: work("16-bit-loop", 60_000, Some(2.0)),
        body: |a| {
            a.mov(dx, ax)?;
            a.shl(dx, 3)?;
            a.add(ax, dx)?;
            a.xor(ax, bx)?;
            a.imul_3(bx, ax, 17)?;
            a.adc(bx, dx)?;
            a.mov(word_ptr(0x4000), bx)?;
            a.add(ax, word_ptr(0x4002))
        },
    },
    Program {
        work: work("16-bit-mixed-page", 40_000, Some(2.0)),
        body: |a| {
            a.inc(word_ptr(0x800))?;
            a.add(ax, word_ptr(0x802))?;
            a.mov(word_ptr(0x804), ax)?;
            a.mov(di, 0x806)?;
            a.mov(word_ptr(di), cx)?;
            a.add(byte_ptr(di + 2), 3)
        },
    },
    Program {
        work: work("16-bit-stack-beside-code", 40_000, None),
        body: |a| {
            a.push(ax)?;
            a.push(bx)?;
            a.pop(ax)?;
            a.pop(bx)
        },
    },
    Program {
        work: work("16-bit-patched-immediate", 100, None),
        body: |a| {
            // The immediate of the second instruction, which is five bytes behind the program's
            // counter that the call pushes.
            let mut here = a.create_label();
            a.call(here)?;
            a.set_label(&mut here)?;
            a.pop(bx)?;
            a.mov(byte_ptr(bx + 5), cl)?;
            a.mov(al, 0)?;
            a.add(dx, ax)
        },
    },
    Program {
        work: work("16-bit-far-call", 1_000, None),
        body: |a| {
            a.db(&[0x9A])?; // call SEGMENT:F00h
            a.db(&[0x00, 0x0F, SEGMENT as u8, (SEGMENT >> 8) as u8])
        },
    },
    Program {
        work: work("16-bit-segment-loads", 4_000, None),
        body: |a| {
            a.push(ds)?;
            a.mov(ax, 0x2000)?;
            a.mov(es, ax)?;
            a.mov(word_ptr(0x10).es(), cx)?;
            a.pop(ds)
        },
    },
    Program {
        work: work("16-bit-rep-movsw", 300, None),
        body: |a| {
            a.push(cx)?;
            a.mov(si, 0x4000)?;
            a.mov(di, 0x6000)?;
            a.mov(cx, 0x800)?;
            a.rep().movsw()?;
            a.pop(cx)
        },
    },
    Program {
        work: work("16-bit-lodsb-stosb", 20_000, None),
        body: |a| {
            a.mov(si, 0x4000)?;
            a.mov(di, 0x6000)?;
            a.lodsb()?;
            a.inc(ax)?;
            a.stosb()
        },
    },
];

fn putc(a: &mut CodeAssembler, byte: u8) -> Result<(), IcedError> {
    a.mov(dx, 0x3F8)?;
    // A whole line, which goes out at once.
    for byte in [byte, b'\n'] {
        a.mov(al, u32::from(byte))?;
        a.out(dx, al)?;
    }
    Ok(())
}

/// The real-mode program: 1,000 rounds inside, thousands of them outside.
fn program(program: &Program) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let (mut outer, mut inner) = (a.create_label(), a.create_label());
    a.mov(ax, cs)?;
    for segment in [ds, es, ss] {
        a.mov(segment, ax)?;
    }
    a.mov(sp, 0xC00)?;
    a.cld()?;
    putc(&mut a, b'S')?;
    a.mov(ebp, (program.work.round / INNER) as u32)?;
    a.set_label(&mut outer)?;
    a.mov(cx, INNER as u32)?;
    a.set_label(&mut inner)?;
    (program.body)(&mut a)?;
    a.dec(cx)?;
    a.jne(inner)?;
    a.dec(ebp)?;
    a.jne(outer)?;
    putc(&mut a, b'E')?;
    a.cli()?;
    a.hlt()?;
    let mut code = a.assemble(0)?;
    code.resize(0xF00, 0);
    code.push(0xCB); // retf
    code.resize(PROGRAM_BYTES as usize, 0);
    Ok(code)
}

/// The kernel of a program, as a file.
///
/// # Errors
///
/// When it cannot be written.
pub fn kernel(program: &Program) -> Result<PathBuf, CompareError> {
    build::store(&format!("bench-{}", program.work.name), &image(program)?)
}

/// The 32-bit kernel around a program.
fn image(work: &Program) -> Result<Vec<u8>, IcedError> {
    const GDT: u32 = LOAD_ADDRESS + 0x100;
    const SIXTEEN: u32 = LOAD_ADDRESS + 0x180;
    let mut a = CodeAssembler::new(32)?;
    a.cli()?;
    a.cld()?;
    a.mov(esi, LOAD_ADDRESS + PROGRAM)?;
    a.mov(edi, SEGMENT << 4)?;
    a.mov(ecx, PROGRAM_BYTES)?;
    a.rep().movsb()?;
    // To 16-bit protected mode, from a place below 64 KiB, and on to real mode.
    a.mov(esi, SIXTEEN)?;
    a.mov(edi, 0x8000)?;
    a.mov(ecx, 0x40)?;
    a.rep().movsb()?;
    a.lgdt(fword_ptr(GDT - 8))?;
    a.db(&[0xEA, 0x00, 0x80, 0, 0, 0x08, 0])?; // jmp 8:8000h
    let mut code = a.assemble(u64::from(LOAD_ADDRESS))?;
    code.resize(0xF8, 0);
    code.extend([0x17, 0]);
    code.extend(GDT.to_le_bytes());
    code.resize(0x100, 0);
    for descriptor in [0, 0x0000_9B00_0000_FFFFu64, 0x0000_9300_0000_FFFF] {
        code.extend(descriptor.to_le_bytes());
    }
    code.resize(0x180, 0);
    let mut a = CodeAssembler::new(16)?;
    a.mov(ax, 0x10)?;
    for segment in [ds, es, fs, gs, ss] {
        a.mov(segment, ax)?;
    }
    a.mov(eax, cr0)?;
    a.and(al, 0xFEu32)?;
    a.mov(cr0, eax)?;
    a.db(&[0xEA, 0, 0, SEGMENT as u8, (SEGMENT >> 8) as u8])?; // jmp SEGMENT:0
    code.extend(a.assemble(0x8000)?);
    code.resize(PROGRAM as usize, 0);
    code.extend(program(work)?);
    Ok(bzimage(&code))
}
