//! An `init` for Linux of a few hundred bytes: it computes, touches memory, uses the x87 unit, makes a
//! process, tells what came of it, and switches the machine off. For hosts on which every instruction
//! counts.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where the program is loaded; its data follow after [`BYTES`].
const BASE: u32 = 0x0804_8000;
/// Of the file.
const BYTES: u32 = 0x1000;
/// Pages behind the file that the program touches.
const PAGES: u32 = 8;
const DATA: u32 = BASE + BYTES;
/// Where it writes its text.
const TEXT: u32 = DATA + PAGES * 0x1000 - 0x100;
const HEADERS: u32 = 52 + 32;
/// Rounds of the computation.
const ROUNDS: u32 = 200;

const EXIT: u32 = 1;
const FORK: u32 = 2;
const WRITE: u32 = 4;
const WAITPID: u32 = 7;
const REBOOT: u32 = 88;

/// What the program prints.
#[must_use]
pub fn output() -> String {
    let mut hash: u32 = 0x811C_9DC5;
    for round in (1..=ROUNDS).rev() {
        hash = (hash ^ round).wrapping_mul(0x0100_0193).rotate_left(5);
    }
    let pages: u32 = (0..PAGES).map(|page| page * page + 1).sum();
    // The square of the sum of 1 to 10, by the x87 unit; the child's exit status.
    [hash, pages, 55 * 55, 7 << 8]
        .map(|number| format!("{number:08x}\n"))
        .concat()
}

/// The program, an ELF executable.
///
/// # Panics
///
/// When the code cannot be encoded: a mistake in it.
#[must_use]
pub fn executable() -> Vec<u8> {
    let code = code().expect("instructions that exist");
    let mut file = header();
    file.extend(code);
    assert!(file.len() <= BYTES as usize);
    file.resize(BYTES as usize, 0);
    file
}

/// ELF header and program header: all of the file, and the pages behind it, readable, writable and
/// executable.
fn header() -> Vec<u8> {
    let mut bytes = b"\x7FELF\x01\x01\x01".to_vec();
    bytes.resize(16, 0);
    let halves = |bytes: &mut Vec<u8>, values: &[u16]| {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let words = |bytes: &mut Vec<u8>, values: &[u32]| {
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    halves(&mut bytes, &[2, 3]); // executable, 386
    words(&mut bytes, &[1, BASE + HEADERS, 52, 0, 0]);
    halves(&mut bytes, &[52, 32, 1, 0, 0, 0]);
    let size = BYTES + PAGES * 0x1000;
    words(&mut bytes, &[1, 0, BASE, BASE, BYTES, size, 7, 0x1000]);
    bytes
}

fn system_call(a: &mut CodeAssembler, number: u32, arguments: &[u32]) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    for (register, &value) in [ebx, ecx, edx, esi].into_iter().zip(arguments) {
        a.mov(register, value)?;
    }
    a.int(0x80)
}

fn code() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(32)?;
    let mut print = a.create_label();

    // Integers.
    let mut hash = a.create_label();
    a.mov(eax, 0x811C_9DC5_u32)?;
    a.mov(ecx, ROUNDS)?;
    a.set_label(&mut hash)?;
    a.xor(eax, ecx)?;
    a.imul_3(eax, eax, 0x0100_0193)?;
    a.rol(eax, 5)?;
    a.dec(ecx)?;
    a.jnz(hash)?;
    a.call(print)?;

    // Memory: pages that the kernel maps when they are touched.
    let (mut fill, mut sum) = (a.create_label(), a.create_label());
    a.xor(ecx, ecx)?;
    a.mov(edi, DATA)?;
    a.set_label(&mut fill)?;
    a.mov(eax, ecx)?;
    a.imul_2(eax, ecx)?;
    a.inc(eax)?;
    a.mov(dword_ptr(edi), eax)?;
    a.add(edi, 0x1000)?;
    a.inc(ecx)?;
    a.cmp(ecx, PAGES)?;
    a.jb(fill)?;
    a.xor(eax, eax)?;
    a.set_label(&mut sum)?;
    a.sub(edi, 0x1000)?;
    a.add(eax, dword_ptr(edi))?;
    a.dec(ecx)?;
    a.jnz(sum)?;
    a.call(print)?;

    // Floating point.
    let mut add = a.create_label();
    a.fldz()?;
    a.mov(ecx, 10)?;
    a.set_label(&mut add)?;
    a.push(ecx)?;
    a.fild(dword_ptr(esp))?;
    a.faddp(st1, st0)?;
    a.pop(eax)?;
    a.dec(ecx)?;
    a.jnz(add)?;
    a.fmul_2(st0, st0)?;
    a.push(eax)?;
    a.fistp(dword_ptr(esp))?;
    a.pop(eax)?;
    a.call(print)?;

    // A process.
    let mut parent = a.create_label();
    system_call(&mut a, FORK, &[])?;
    a.test(eax, eax)?;
    a.jnz(parent)?;
    system_call(&mut a, EXIT, &[7])?;
    a.set_label(&mut parent)?;
    a.push(0)?;
    a.mov(ebx, eax)?;
    a.mov(ecx, esp)?;
    a.xor(edx, edx)?;
    a.mov(eax, WAITPID)?;
    a.int(0x80)?;
    a.pop(eax)?;
    a.call(print)?;

    system_call(&mut a, REBOOT, &[0xFEE1_DEAD, 672_274_793, 0x4321_FEDC, 0])?;
    system_call(&mut a, EXIT, &[1])?;

    // EAX as eight digits and a line end.
    let (mut digit, mut decimal) = (a.create_label(), a.create_label());
    a.set_label(&mut print)?;
    a.mov(edi, TEXT)?;
    a.mov(ecx, 8)?;
    a.set_label(&mut digit)?;
    a.rol(eax, 4)?;
    a.mov(edx, eax)?;
    a.and(edx, 15)?;
    a.add(edx, u32::from(b'0'))?;
    a.cmp(edx, u32::from(b'9'))?;
    a.jbe(decimal)?;
    a.add(edx, 39)?;
    a.set_label(&mut decimal)?;
    a.mov(byte_ptr(edi), dl)?;
    a.inc(edi)?;
    a.dec(ecx)?;
    a.jnz(digit)?;
    a.mov(byte_ptr(edi), 10)?;
    system_call(&mut a, WRITE, &[1, TEXT, 9])?;
    a.ret()?;
    a.assemble(u64::from(BASE + HEADERS))
}
