//! 16-bit code: small real-mode programs in Ringshift (everything translated) and in QEMU TCG, in
//! turn.
//!
//! `cargo run --release -p ringshift-tests --example bench-real-mode [-- RUNS]` (default 3). Each
//! program is a kernel of its own that goes to real mode, prints a line, works, and prints another; the
//! time between the two is measured on the host.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringshift_tests::bzimage::{LOAD_ADDRESS, bzimage};
use ringshift_tests::console::Console;
use ringshift_tests::{paths, programs};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Offset of the 16-bit program in the kernel, and the segment that it is copied to.
const PROGRAM: u32 = 0x200;
const SEGMENT: u32 = 0x1000;
const PROGRAM_BYTES: u32 = 0x1000;

type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A program: its name, thousands of rounds, and one round.
struct Work {
    name: &'static str,
    rounds: u32,
    body: Body,
}

/// One segment for code, data and stack; what is below 800h is the page of the code.
const WORK: [Work; 8] = [
    Work {
        name: "integer loop",
        rounds: 60_000,
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
    Work {
        name: "mixed code and data",
        rounds: 40_000,
        body: |a| {
            a.inc(word_ptr(0x800))?;
            a.add(ax, word_ptr(0x802))?;
            a.mov(word_ptr(0x804), ax)?;
            a.mov(di, 0x806)?;
            a.mov(word_ptr(di), cx)?;
            a.add(byte_ptr(di + 2), 3)
        },
    },
    Work {
        name: "stack beside code",
        rounds: 40_000,
        body: |a| {
            a.push(ax)?;
            a.push(bx)?;
            a.pop(ax)?;
            a.pop(bx)
        },
    },
    Work {
        name: "patched immediate",
        rounds: 100,
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
    Work {
        name: "far call and return",
        rounds: 1_000,
        body: |a| {
            a.db(&[0x9A])?; // call SEGMENT:F00h
            a.db(&[0x00, 0x0F, SEGMENT as u8, (SEGMENT >> 8) as u8])
        },
    },
    Work {
        name: "segment loads",
        rounds: 4_000,
        body: |a| {
            a.push(ds)?;
            a.mov(ax, 0x2000)?;
            a.mov(es, ax)?;
            a.mov(word_ptr(0x10).es(), cx)?;
            a.pop(ds)
        },
    },
    Work {
        name: "rep movsw, 4 KiB",
        rounds: 300,
        body: |a| {
            a.push(cx)?;
            a.mov(si, 0x4000)?;
            a.mov(di, 0x6000)?;
            a.mov(cx, 0x800)?;
            a.rep().movsw()?;
            a.pop(cx)
        },
    },
    Work {
        name: "lodsb, stosb",
        rounds: 20_000,
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

/// The real-mode program: 1,000 rounds inside, `rounds` outside.
fn program(work: &Work) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let (mut outer, mut inner) = (a.create_label(), a.create_label());
    a.mov(ax, cs)?;
    for segment in [ds, es, ss] {
        a.mov(segment, ax)?;
    }
    a.mov(sp, 0xC00)?;
    a.cld()?;
    putc(&mut a, b'S')?;
    a.mov(ebp, work.rounds)?;
    a.set_label(&mut outer)?;
    a.mov(cx, 1000)?;
    a.set_label(&mut inner)?;
    (work.body)(&mut a)?;
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

/// The 32-bit kernel around it.
fn kernel(work: &Work) -> Result<Vec<u8>, IcedError> {
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

fn time(command: Command) -> Result<f64, Box<dyn Error>> {
    let mut console = Console::start(command)?;
    console.expect("S\n", LIMIT)?;
    let start = Instant::now();
    console.expect("E\n", LIMIT)?;
    Ok(start.elapsed().as_secs_f64())
}

fn ours(kernel: &Path) -> Result<Command, Box<dyn Error>> {
    let mut command = programs::ringshift()?;
    command.arg("run").arg("--kernel").arg(kernel);
    command.args(["--memory", "40M", "--policy", "translate"]);
    Ok(command)
}

fn theirs(kernel: &Path) -> Command {
    let mut command = Command::new("qemu-system-i386");
    command
        .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-serial", "stdio", "-m", "40"])
        .args(["-cpu", "coreduo"])
        .arg("-kernel")
        .arg(kernel);
    command
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let runs = match std::env::args().nth(1) {
        Some(text) => text.parse::<usize>()?.max(1),
        None => 3,
    };
    let directory: PathBuf = paths::profile_dir()?.join("bench-real-mode");
    std::fs::create_dir_all(&directory)?;
    println!("work                    Ringshift   QEMU TCG   times as fast");
    for work in &WORK {
        let path = directory.join(work.name.replace([' ', ','], "-"));
        std::fs::write(&path, kernel(work)?)?;
        let (mut mine, mut qemu, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            let (first, second) = (time(ours(&path)?)?, time(theirs(&path))?);
            mine.push(first);
            qemu.push(second);
            ratios.push(second / first);
        }
        let nanoseconds = 1e6 / f64::from(work.rounds);
        println!(
            "{:<22} {:8.2} ns {:8.2} ns {:10.2}",
            work.name,
            median(mine) * nanoseconds,
            median(qemu) * nanoseconds,
            median(ratios)
        );
    }
    Ok(())
}
