//! Everything there is of a kind, one after another: every vector, every port, every selector.
//!
//! Vectors are in the slots of ordinary programs. The others are loops, which tell the kernel where
//! they go on after a fault:
//!
//! ```text
//! START   EBX = the table of ranges
//! OUTER   a system call, so that the sum has what EDI has gathered; EBP = start of the range
//! BODY    one instruction for the number EBP; if it does not fault, EDI gets what it did
//! LANDED  where a far transfer goes to
//! NEXT    the next number, the next range, the end; a fault leads here as well
//! ```

use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::layout::{parameter, selector, user};
use super::program::Page;

/// How many programs there are.
pub const SWEEPS: u32 = (VECTOR_PROGRAMS * VECTOR_FORMS.len() + LOOPS.len()) as u32;

/// Programs that share the vectors of one form: more do not fit.
const VECTOR_PROGRAMS: usize = 3;

/// What comes before `int n` in its slot, and how it begins.
type Form = fn(&mut CodeAssembler, slot: u32) -> Result<(), IcedError>;

const VECTOR_FORMS: [Form; 5] = [
    |_, _| Ok(()),
    |a, _| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ss, ax) // no interrupt and no trap before the next instruction
    },
    |a, _| {
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?; // TF
        a.popfd()
    },
    |a, _| {
        a.mov(esp, user::KERNEL_ESP_HIGH | 0x1800)?;
        a.mov(eax, u32::from(selector::STACK16))?;
        a.mov(ss, ax)
    },
    |a, slot| {
        // jmp CODE16: behind this
        let mut bytes = vec![0xEA];
        bytes.extend((slot * user::SLOT + 7).to_le_bytes());
        bytes.extend(selector::CODE16.to_le_bytes());
        a.db(&bytes)
    },
];

/// What a loop does with the number in EBP; EAX, ECX, EDX and ESI are free.
type Body = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// A loop: its body, what is at [`LANDED`], its numbers.
type Loop = (Body, Body, &'static [(u32, u32)]);

/// All numbers of 16 bits.
const ALL: &[(u32, u32)] = &{
    let mut ranges = [(0, 0); 16];
    let mut index = 0;
    while index < 16 {
        ranges[index] = (index as u32 * 0x1000, (index as u32 + 1) * 0x1000);
        index += 1;
    }
    ranges
};

/// Both descriptor tables and what is behind them, and the end, where the monitor of direct execution
/// has its own descriptors.
const SELECTORS: &[(u32, u32)] = &[(0, 0x120), (0x3E0, 0x420), (0xFF80, 0x1_0000)];

/// The selectors but for those of segments with a limit, which `lar` shows as not present where the
/// host's KVM does not check limits.
const UNLIMITED: &[(u32, u32)] = &[
    (0, 0x14),
    (0x18, 0x1C),
    (0x20, 0x24),
    (0x28, 0x2C),
    (0x30, 0x34),
    (0x38, 0x3C),
    (0x40, 0x68),
    (0x6C, 0x80),
    (0x84, 0xC8),
    (0xCC, 0x1000),
    (0x1000, 0x8000),
    (0x8000, 0xF000),
    (0xF000, 0x1_0000),
];

/// Around the ports that are allowed, 80h and 84h, and at both ends of the bitmap.
const PORT_BORDERS: &[(u32, u32)] = &[
    (0, 8),
    (0x7A, 0x8C),
    (0xFD, 0x102),
    (0xCF6, 0xD01),
    (0xFFF8, 0x1_0000),
];

const LOOPS: [Loop; 33] = [
    // Ports.
    (|a| input(a, |a| a.in_(al, dx)), nothing, ALL),
    (|a| output(a, |a| a.out(dx, al)), nothing, ALL),
    (|a| input(a, |a| a.in_(ax, dx)), nothing, PORT_BORDERS),
    (|a| input(a, |a| a.in_(eax, dx)), nothing, PORT_BORDERS),
    (|a| output(a, |a| a.out(dx, ax)), nothing, PORT_BORDERS),
    (|a| output(a, |a| a.out(dx, eax)), nothing, PORT_BORDERS),
    (|a| strings(a, |a| a.insb()), nothing, PORT_BORDERS),
    (|a| strings(a, |a| a.insw()), nothing, PORT_BORDERS),
    (|a| strings(a, |a| a.insd()), nothing, PORT_BORDERS),
    (|a| strings(a, |a| a.outsb()), nothing, PORT_BORDERS),
    (|a| strings(a, |a| a.outsw()), nothing, PORT_BORDERS),
    (|a| strings(a, |a| a.outsd()), nothing, PORT_BORDERS),
    // Selectors into segment registers.
    (|a| load(a, |a| a.mov(ds, ax)), nothing, ALL),
    (|a| load(a, |a| a.mov(es, ax)), nothing, SELECTORS),
    (|a| load(a, |a| a.mov(fs, ax)), nothing, SELECTORS),
    (|a| load(a, |a| a.mov(gs, ax)), nothing, SELECTORS),
    (|a| load(a, |a| a.mov(ss, ax)), nothing, SELECTORS),
    (|a| pop(a, |a| a.pop(ds)), nothing, SELECTORS),
    (|a| pop(a, |a| a.pop(es)), nothing, SELECTORS),
    (|a| pop(a, |a| a.pop(fs)), nothing, SELECTORS),
    (|a| pop(a, |a| a.pop(gs)), nothing, SELECTORS),
    (|a| pop(a, |a| a.pop(ss)), nothing, SELECTORS),
    (
        |a| far_pointer(a, |a| a.lds(ecx, fword_ptr(POINTER))),
        nothing,
        SELECTORS,
    ),
    (
        |a| far_pointer(a, |a| a.lss(esp, fword_ptr(POINTER))),
        nothing,
        SELECTORS,
    ),
    // Far transfers to them.
    (far_jump, landed, ALL),
    (far_call, landed, SELECTORS),
    (far_return, landed, SELECTORS),
    (interrupt_return, landed, SELECTORS),
    // What can be asked about them.
    (|a| ask(a, |a| a.lar(eax, ebp)), nothing, UNLIMITED),
    (|a| ask(a, |a| a.lsl(eax, ebp)), nothing, UNLIMITED),
    (|a| ask(a, |a| a.verr(bp)), nothing, UNLIMITED),
    (|a| ask(a, |a| a.verw(bp)), nothing, UNLIMITED),
    (|a| ask(a, |a| a.arpl(ax, bp)), nothing, ALL),
];

// Offsets in the page.
const OUTER: u32 = 0x10;
const BODY: u32 = 0x40;
const LANDED: u32 = 0x100;
const NEXT: u32 = 0x200;
const TABLE: u32 = 0x800;

/// Where far pointers are in memory.
const POINTER: u32 = user::DATA;
/// Where the strings for ports are.
const STRING: u32 = user::DATA + 0x100;

fn nothing(_: &mut CodeAssembler) -> Result<(), IcedError> {
    Ok(())
}

/// Mixes EAX into EDI.
fn gather(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.rol(edi, 5)?;
    a.xor(edi, eax)
}

fn input(a: &mut CodeAssembler, read: Body) -> Result<(), IcedError> {
    a.mov(edx, ebp)?;
    a.mov(eax, 0x1122_3344u32)?;
    read(a)?;
    gather(a)
}

fn output(a: &mut CodeAssembler, write: Body) -> Result<(), IcedError> {
    a.mov(edx, ebp)?;
    a.mov(eax, ebp)?;
    write(a)?;
    gather(a)
}

fn strings(a: &mut CodeAssembler, transfer: Body) -> Result<(), IcedError> {
    a.mov(edx, ebp)?;
    a.mov(esi, STRING)?;
    a.mov(edi, STRING)?;
    a.cld()?;
    transfer(a)
}

/// A load of the selector in EBP, which is in AX as well, and what a program of C has again.
fn load(a: &mut CodeAssembler, load: Body) -> Result<(), IcedError> {
    a.mov(eax, ebp)?;
    load(a)?;
    segments_back(a)?;
    a.mov(eax, ebp)?;
    gather(a)
}

fn segments_back(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, u32::from(selector::DATA))?;
    for register in [ds, es, fs, gs, ss] {
        a.mov(register, ax)?;
    }
    a.mov(esp, user::START_ESP)
}

fn pop(a: &mut CodeAssembler, pop: Body) -> Result<(), IcedError> {
    a.push(ebp)?;
    load(a, pop)
}

/// The far pointer at [`POINTER`]: to [`LANDED`], with the selector in EBP.
fn pointer(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dword_ptr(POINTER), (user::CODE + LANDED) as i32)?;
    a.mov(word_ptr(POINTER + 4), bp)
}

fn far_pointer(a: &mut CodeAssembler, instruction: Body) -> Result<(), IcedError> {
    pointer(a)?;
    load(a, instruction)
}

fn far_jump(a: &mut CodeAssembler) -> Result<(), IcedError> {
    pointer(a)?;
    a.jmp(fword_ptr(POINTER))
}

fn far_call(a: &mut CodeAssembler) -> Result<(), IcedError> {
    pointer(a)?;
    a.call(fword_ptr(POINTER)) // a call gate comes back here, and the code at LANDED is next
}

fn far_return(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(ebp)?;
    a.push((user::CODE + LANDED) as i32)?;
    a.db(&[0xCB]) // retf
}

fn interrupt_return(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(0x202)?;
    a.push(ebp)?;
    a.push((user::CODE + LANDED) as i32)?;
    a.iretd()
}

/// The far transfer was carried out: which selector CS has, and back to that of C programs.
fn landed(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, cs)?;
    gather(a)?;
    a.mov(esp, user::START_ESP)?;
    let mut bytes = vec![0xEA]; // jmp CODE:NEXT
    bytes.extend((user::CODE + NEXT).to_le_bytes());
    bytes.extend(selector::CODE.to_le_bytes());
    a.db(&bytes)
}

/// The answer is in ZF and, for some, in EAX.
fn ask(a: &mut CodeAssembler, question: Body) -> Result<(), IcedError> {
    a.mov(eax, 0x0002_0000u32)?;
    question(a)?;
    a.sete(cl)?;
    gather(a)?;
    a.xor(edi, ecx)
}

/// The program with this number.
///
/// # Panics
///
/// When something does not fit into its place: a mistake of this module.
#[must_use]
pub(super) fn program(number: u32) -> Page {
    let number = number as usize % SWEEPS as usize;
    let vectors = VECTOR_PROGRAMS * VECTOR_FORMS.len();
    let made = match number.checked_sub(vectors) {
        None => vector_program(
            VECTOR_FORMS[number / VECTOR_PROGRAMS],
            number % VECTOR_PROGRAMS,
        ),
        Some(number) => loop_program(&LOOPS[number]),
    };
    made.expect("instructions that exist")
}

/// Puts code at an offset of a page, before `end`.
fn put(
    page: &mut Page,
    at: u32,
    end: u32,
    make: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut assembler = CodeAssembler::new(32)?;
    make(&mut assembler)?;
    let code = assembler.assemble(u64::from(user::CODE + at))?;
    assert!(
        at + code.len() as u32 <= end,
        "{} bytes at {at:#x}",
        code.len()
    );
    page[at as usize..][..code.len()].copy_from_slice(&code);
    Ok(())
}

/// A third of the vectors, each in a slot. Vector 81h would be the end.
fn vector_program(form: Form, part: usize) -> Result<Page, IcedError> {
    let mut page = [0x90; 0x1000];
    let vectors = (0..256)
        .filter(|&vector| vector != 0x81)
        .skip(part * 86)
        .take(86);
    let mut last = 0;
    for (slot, vector) in (0..).zip(vectors) {
        let at = slot * user::SLOT;
        put(&mut page, at, at + user::SLOT, |a| {
            form(a, slot)?;
            // Whatever comes back is through with the slot, which is not code of the same size always.
            a.db(&[0xCD, vector as u8, 0x0F, 0x0B])
        })?;
        last = slot + 1;
    }
    put(&mut page, last * user::SLOT, 0xFC0, |a| a.int(0x81))?;
    parameters(&mut page, 0);
    Ok(page)
}

fn loop_program(&(body, landed, ranges): &Loop) -> Result<Page, IcedError> {
    let mut page = [0x90; 0x1000];
    put(&mut page, 0, OUTER, |a| a.mov(ebx, user::CODE + TABLE))?;
    put(&mut page, OUTER, BODY, |a| {
        a.int(0x80)?;
        a.mov(ebp, dword_ptr(ebx))
    })?;
    put(&mut page, BODY, LANDED, body)?;
    put(&mut page, LANDED, NEXT, landed)?;
    put(&mut page, NEXT, TABLE, |a| {
        a.inc(ebp)?;
        a.cmp(ebp, dword_ptr(ebx + 4))?;
        a.jb(u64::from(user::CODE + BODY))?;
        a.add(ebx, 8)?;
        a.cmp(dword_ptr(ebx + 4), 0)?;
        a.jne(u64::from(user::CODE + OUTER))?;
        a.int(0x81)
    })?;
    let words = ranges
        .iter()
        .flat_map(|&(first, end)| [first, end])
        .chain([0, 0]);
    for (index, word) in words.enumerate() {
        let at = TABLE as usize + index * 4;
        page[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    parameters(&mut page, user::CODE + NEXT);
    Ok(page)
}

/// Registers are 0 at the start.
fn parameters(page: &mut Page, handler: u32) {
    page[parameter::REGISTERS..].fill(0);
    for (at, value) in [
        (parameter::FLAGS, 0x202),
        (parameter::HANDLER, handler),
        (parameter::BUDGET, 0x2_0000),
    ] {
        page[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_is_there_once_in_each_form() {
        for form in 0..VECTOR_FORMS.len() {
            let mut found = Vec::new();
            for part in 0..VECTOR_PROGRAMS {
                let page = program((form * VECTOR_PROGRAMS + part) as u32);
                for slot in page[..0xFC0].chunks(user::SLOT as usize) {
                    // Of the slot's bytes only `int n; ud2` has this form.
                    let int = slot
                        .windows(4)
                        .find(|bytes| bytes[0] == 0xCD && bytes[2..] == [0x0F, 0x0B]);
                    found.extend(int.map(|bytes| bytes[1]));
                }
            }
            let all: Vec<u8> = (0..=255).filter(|&vector| vector != 0x81).collect();
            assert_eq!(found, all, "form {form}");
        }
    }

    #[test]
    fn loops_leave_nothing_out_but_what_they_say() {
        let numbers = |ranges: &[(u32, u32)]| -> Vec<u32> {
            ranges.iter().flat_map(|&(first, end)| first..end).collect()
        };
        assert_eq!(numbers(ALL), (0..0x1_0000).collect::<Vec<_>>());
        let unlimited: Vec<u32> = (0..0x1_0000)
            .filter(|&value| !selector::LIMITED.contains(&(value as u16 | 3)))
            .collect();
        assert_eq!(numbers(UNLIMITED), unlimited);
    }
}
