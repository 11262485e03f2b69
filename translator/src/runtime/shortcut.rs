//! Shortcuts: privileged instructions of the common kind, in assembly.
//!
//! A kernel is entered and left millions of times, nearly always in the same way: flat segments, a
//! 32-bit gate, nothing unusual in EFLAGS. That way is carried out here, without Rust and without
//! touching the guest's FPU state; *whatever else is met goes to Rust*, which does the whole
//! instruction again from the beginning. So a shortcut makes every check that the processor makes,
//! and changes nothing before the last of them.
//!
//! The code is position-independent and is copied to the start of the code cache, behind the other
//! stubs. A fault in it (a descriptor, a stack that the window does not hold) comes back through the
//! signal handler as any other: see [`super::crossing`].
//!
//! | entry | reached by | arguments |
//! | --- | --- | --- |
//! | segment load | `call` | R11 selector, R8 segment register, R10 bytes to pop |
//! | VERW | `call` | R11 selector |
//! | POPFD | `call` | - |
//! | SYSENTER, SYSEXIT, IRETD | `jmp` | R9 where Rust would go on |
//! | far transfer of real mode | `jmp` | R9 the same, R11 selector, R8 IP, R10 what is added to SP |
//! | IRET of real mode | `jmp` | R9 the same, R11 selector, R8 IP, scratch flags |
//! | INT n of real mode | `jmp` | R9 the same, R8 vector; the frame is below the stack pointer |
//! | INT n | `jmp` | the same, R8 vector, R10 EIP of the next instruction |
//! | look up a page to write | `call` | R8 linear address, R10 that of the last byte, R9 whose access; R8 becomes the host address |
//!
//! R8 to R11 and RAX are at their disposal; RAX and the flags wait in the context meanwhile.
#![allow(unsafe_code)] // reads machine code out of the program's text

#[macro_use]
mod parts;
mod text;

/// Where a change of privilege leads: what the context needs to run code of the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Destination {
    /// The window; 0 where Rust has to look first.
    pub(crate) window: u64,
    /// Entry 0 of the jump table.
    pub(crate) jump_table: u64,
    /// The store table.
    pub(crate) store_table: u64,
}

/// The part of the context that shortcuts use.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Shortcuts {
    /// The guest's RAX while a shortcut runs.
    pub(crate) rax: u64,
    /// Where Rust goes on if the shortcut gives up: behind the call or jump.
    pub(crate) site: u64,
    /// Code at CPL 3.
    pub(crate) user: Destination,
    /// Code at CPL 0.
    pub(crate) kernel: Destination,
    /// A jump table without entries.
    pub(crate) empty_table: u64,
    /// What the poll pointer holds while nobody wants the vCPU to leave; can be read.
    pub(crate) quiet_poll: u64,
    /// [`leave`](super::switch).
    pub(crate) leave: u64,
    /// Changes of privilege so far.
    pub(crate) count: u64,
    /// The guest's status flags while a shortcut runs: OF in byte 0, LAHF's AH in byte 1.
    pub(crate) flags: u32,
    /// An external interrupt is pending.
    pub(crate) pending: u32,
    /// IRET has nothing to do with NMIs.
    pub(crate) iret: u32,
    /// The selector in IA32_SYSENTER_CS; 0 if SYSENTER raises an exception.
    pub(crate) sysenter: u32,
    /// The privilege that was last changed to, plus 1; 0 if none was since the context was entered.
    pub(crate) crossed: u32,
    /// Room for one value.
    pub(crate) scratch: u32,
    /// Where a far CALL puts the address together that it pushes.
    pub(crate) frame: u32,
    /// CS was loaded by a shortcut of real mode since the context was entered.
    pub(crate) far: u32,
    /// Code segments of real mode and their jump tables.
    pub(crate) paragraphs: [[Paragraph; WAYS]; PARAGRAPHS],
}

/// A code segment of real mode.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Paragraph {
    /// The selector plus 1; 0 if there is none.
    pub(crate) selector: u64,
    /// Entry 0 of its jump table.
    pub(crate) jump_table: u64,
}

/// Sets of code segments of real mode that shortcuts know.
pub(crate) const PARAGRAPHS: usize = 64;

/// Code segments of a set, the one noted last first. With one of each, a program and the handler that it calls
/// could put each other out all the time.
pub(crate) const WAYS: usize = 2;

/// The set that a selector belongs to.
pub(crate) const fn paragraph(selector: u16) -> usize {
    (selector ^ (selector >> 6)) as usize % PARAGRAPHS
}

impl Default for Shortcuts {
    fn default() -> Self {
        Shortcuts {
            rax: 0,
            site: 0,
            user: Destination::default(),
            kernel: Destination::default(),
            empty_table: 0,
            quiet_poll: 0,
            leave: 0,
            count: 0,
            flags: 0,
            pending: 0,
            iret: 0,
            sysenter: 0,
            crossed: 0,
            scratch: 0,
            frame: 0,
            far: 0,
            paragraphs: [[Paragraph::default(); WAYS]; PARAGRAPHS],
        }
    }
}

/// Offsets of the entries from the start of the code.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entries {
    pub(crate) load_segment: u64,
    pub(crate) popfd: u64,
    pub(crate) sysenter: u64,
    pub(crate) sysexit: u64,
    pub(crate) iretd: u64,
    pub(crate) int: u64,
    pub(crate) verw: u64,
    pub(crate) far_real: u64,
    pub(crate) iret_real: u64,
    pub(crate) int_real: u64,
    pub(crate) known_real: u64,
    pub(crate) look_up: u64,
}

/// Number of words in front of the code: the entries, and the end.
const HEADER: usize = 13;

/// The code, and its entries.
pub(super) fn code() -> (Entries, &'static [u8]) {
    let start = text::shortcuts as *const () as *const u8;
    // SAFETY: the function begins with HEADER words of offsets from its start (see there), the last
    // of them that of its end; text is readable and lives for ever.
    let (header, code) = unsafe {
        let header: [u32; HEADER] = start.cast::<[u32; HEADER]>().read_unaligned();
        let code = std::slice::from_raw_parts(start, header[HEADER - 1] as usize);
        (header, code)
    };
    let entries = Entries {
        load_segment: u64::from(header[0]),
        popfd: u64::from(header[1]),
        sysenter: u64::from(header[2]),
        sysexit: u64::from(header[3]),
        iretd: u64::from(header[4]),
        int: u64::from(header[5]),
        verw: u64::from(header[6]),
        far_real: u64::from(header[7]),
        iret_real: u64::from(header[8]),
        int_real: u64::from(header[9]),
        known_real: u64::from(header[10]),
        look_up: u64::from(header[11]),
    };
    (entries, code)
}
