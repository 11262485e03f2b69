//! Where everything is in the machine of the ring-3 tests, and the image that puts it there.

#![allow(unsafe_code)] // `global_asm!`, and the symbols between which the kernel lies

use core::arch::global_asm;

use devices::pm::spec::{PM1_CNT, Pm1Cnt, SLP_TYP_S5};

use crate::bzimage::{self, LOAD_ADDRESS};
use crate::native::{Mapping, Scene};

use super::descriptors::{LDT, LONG_BITS, LONG_CODE, gate, gdt};
use super::program::{Character, Page};

// Guest-physical addresses. The kernel sees the first 4 MiB at the same linear ones.
const IDT: u32 = 0x10_3000;
pub(super) const TSS: u32 = 0x10_3800;
const INITIAL_TABLES: u32 = 0x10_6000;
const VARIABLES: u32 = 0x10_A000;
const POINTERS: u32 = VARIABLES + 0x100;
const FPU_AREA: u32 = VARIABLES + 0x200;
const INITIAL_FPU: u32 = VARIABLES + 0x400;
const KERNEL_STACK: u32 = 0x10_C000;
const INITIAL_DESCRIPTORS: u32 = 0x10_C000;
pub(super) const DESCRIPTORS: u32 = 0x10_D000;
pub(super) const LDT_OFFSET: u32 = 0x400;
const DESCRIPTORS_BYTES: u32 = 0x800;
const PAGE_TABLES: u32 = 0x11_0000;
const PAGE_TABLES_BYTES: u32 = 0x4000;
const PROGRAMS: u32 = 0x20_0000;
const DATA_PAGES: u32 = 0x30_0000;
pub(super) const DATA_BYTES: u32 = 16 * PAGE;
// Numbers of data pages: the one at `user::FLIPPED` at first, and the one at all of `user::BETWEEN`.
const FLIPPED: u32 = 5;
const BETWEEN: u32 = 13;
const CODE_PAGE: u32 = 0x31_0000;
const INITIAL_DATA: u32 = 0x32_0000;
const END: u32 = INITIAL_DATA + DATA_BYTES;
const PAGE: u32 = 0x1000;

/// Most programs in one image.
pub const MOST_PROGRAMS: usize = ((DATA_PAGES - PROGRAMS) / PAGE) as usize;

/// Linear addresses that programs use.
pub mod user {
    /// The program's page, read-only at first.
    pub const CODE: u32 = 0x4000_0000;
    /// The first of 14 pages; see the constants below for those that are not plain memory. They stand
    /// apart, as it is up to the processor which page it looks at first when an access reaches into
    /// two that fault.
    pub const DATA: u32 = 0x4001_0000;
    /// Can be read only.
    pub const READ_ONLY: u32 = DATA + 0x2000;
    /// Not present.
    pub const ABSENT: u32 = DATA + 0x4000;
    /// For the supervisor only.
    pub const SUPERVISOR: u32 = DATA + 0x6000;
    /// System call 82h puts another page here, or makes it read-only.
    pub const FLIPPED: u32 = DATA + 0x8000;
    /// Mapped by the kernel at first use.
    pub const LAZY: u32 = DATA + 0xA000;
    /// The program's page again, writable.
    pub const CODE_ALIAS: u32 = DATA + 0xC000;
    /// The plain pages between these.
    pub const BETWEEN: [u32; 6] = [
        READ_ONLY + 0x1000,
        ABSENT + 0x1000,
        SUPERVISOR + 0x1000,
        FLIPPED + 0x1000,
        LAZY + 0x1000,
        CODE_ALIAS + 0x1000,
    ];
    /// The end of the stack: two pages below it, none above.
    pub const STACK: u32 = 0x4002_2000;
    /// ESP at the start. Some processors read more for a far return than they need in the end.
    pub const START_ESP: u32 = STACK - 0x20;
    /// The last page below 4 GiB.
    pub const TOP: u32 = 0xFFFF_F000;
    /// The upper half of the kernel's ESP while it handles an event.
    pub const KERNEL_ESP_HIGH: u32 = super::KERNEL_STACK & 0xFFFF_0000;
    /// Bytes in a slot of the program: after an exception the kernel goes on with the next slot.
    pub const SLOT: u32 = 32;
    /// Slots in a program, the one that ends it included.
    pub const SLOTS: u32 = 0xFC0 / SLOT;
}

/// Offsets in a program's page of what the kernel starts it with.
pub(super) mod parameter {
    /// EAX, ECX, EDX, EBX, EBP, ESI, EDI.
    pub(in super::super) const REGISTERS: usize = 0xFD0;
    /// EFLAGS.
    pub(in super::super) const FLAGS: usize = 0xFF0;
    /// Where it goes on after each fault; 0: with the next slot.
    pub(in super::super) const HANDLER: usize = 0xFF4;
    /// Exceptions and system calls after which it has come to its end.
    pub(in super::super) const BUDGET: usize = 0xFF8;
}

/// Selectors for programs.
pub mod selector {
    /// Flat 32-bit code.
    pub const CODE: u16 = 0x23;
    /// Flat data.
    pub const DATA: u16 = 0x2B;
    /// Data with a base and no limit, as C libraries use it, in the global table.
    pub const TLS: u16 = 0x63;
    /// Data with a base and no limit in the local table.
    pub const LDT_DATA: u16 = 0x07;
    /// 16-bit code over the program's page.
    pub const CODE16: u16 = 0x17;
    /// Stack segment that expands down: the last page.
    pub const STACK_DOWN: u16 = 0x27;
    /// A 16-bit stack.
    pub const STACK16: u16 = 0x2F;
    /// Data that is not present.
    pub const STACK_ABSENT: u16 = 0x57;
    /// Segments that a data segment register can hold and that cannot be written, or not be used at
    /// all: null, code, read-only. RPL is 3. A processor that QEMU's TCG emulates does not check that.
    pub const NOT_WRITABLE: [u16; 8] = [0x03, CODE, 0x73, 0x83, 0xAB, 0x0F, CODE16, 0x47];
    /// Segments with a limit. Direct execution hides them where a KVM does not check limits.
    pub const LIMITED: [u16; 9] = [
        0x6B, 0x83, 0xCB, CODE16, 0x1F, STACK_DOWN, STACK16, 0x37, 0x3F,
    ];
    /// Every kind of descriptor that a program may try: those above, and the ones that fault or do
    /// something odd.
    pub const ALL: [u16; 46] = [
        0x00,
        0x01,
        0x03,
        0x08,
        0x0B,
        0x10,
        0x13,
        0x18,
        0x1B,
        0x20,
        CODE,
        0x22,
        0x28,
        DATA,
        0x33,
        0x3B,
        0x43,
        0x53,
        TLS,
        0x60,
        0x6B,
        0x73,
        0x83,
        0x93,
        0x9B,
        0xA3,
        0xA8,
        0xAB,
        0xB3,
        0xBB,
        0xC3,
        0xCB,
        0x3FB,
        0xFFCB,
        0xFFFF,
        LDT_DATA,
        0x0F,
        CODE16,
        0x1F,
        STACK_DOWN,
        STACK16,
        0x37,
        0x3F,
        0x47,
        0x4F,
        STACK_ABSENT,
    ];
    /// The end of what Linux's global table has: what a process finds at the selectors below it is
    /// not what is here, but for code and data.
    pub const LINUX_GDT_END: u16 = 0x80;
    /// The end of this table.
    pub const GDT_END: u16 = 0xD0;
}

pub(super) const SIZES: Sizes = Sizes {
    tss_bitmap: 0x68,
    tss_limit: 0x68 + 0x2000,
};

/// Of the task state segment, in bytes.
pub(super) struct Sizes {
    tss_bitmap: u32,
    pub(super) tss_limit: u32,
}

// PM1a control register of the chipset, and soft-off in it (`devices`, ACPI).
const POWER_PORT: u16 = PM1_CNT;

global_asm!(
    ".pushsection .rodata.ringshift_ring3, \"a\", @progbits",
    ".balign 16",
    ".globl ringshift_ring3_start",
    ".hidden ringshift_ring3_start",
    "ringshift_ring3_start:",
    "ring3_start:",
    ".set LOAD, {load}",
    ".set KERNEL_CODE, 0x08",
    ".set KERNEL_DATA, 0x10",
    ".set TSS_SELECTOR, 0x40",
    ".set LDT_SELECTOR, 0x50",
    ".set USER_CODE_SELECTOR, {user_code_selector}",
    ".set USER_DATA, {user_data}",
    ".set USER_STACK16, {user_stack16}",
    ".set USER_LDT_DATA, {user_ldt_data}",
    ".set USER_CODE, {user_code}",
    ".set USER_STACK, {user_stack}",
    ".set SLOT, {slot}",
    ".set KERNEL_STACK, {kernel_stack}",
    ".set GDT_POINTER, {pointers}",
    ".set IDT_POINTER, {pointers} + 8",
    ".set PAGE_DIRECTORY, {page_tables}",
    ".set PAGE_TABLES, {page_tables}",
    ".set PAGE_TABLES_BYTES, {page_tables_bytes}",
    ".set INITIAL_TABLES, {initial_tables}",
    ".set DESCRIPTORS, {descriptors}",
    ".set DESCRIPTORS_BYTES, {descriptors_bytes}",
    ".set INITIAL_DESCRIPTORS, {initial_descriptors}",
    ".set LDT_DATA_BASE, {descriptors} + {ldt_offset} + 2",
    ".set TLS_BASE, {descriptors} + 0x60 + 2",
    ".set LONG_RIGHTS, {descriptors} + {long_code} + 4",
    ".set LONG_BITS, {long_bits}",
    ".set DATA_PAGES, {data_pages}",
    ".set DATA_BYTES, {data_bytes}",
    ".set INITIAL_DATA, {initial_data}",
    ".set CODE_PAGE, {code_page}",
    ".set PROGRAMS, {programs}",
    ".set LAZY_PAGE, {lazy}",
    ".set LAZY_ENTRY, {page_tables} + 0x2000 + ({lazy} >> 12 & 0x3FF) * 4",
    ".set FLIP_ENTRY, {page_tables} + 0x2000 + ({flipped} >> 12 & 0x3FF) * 4",
    ".set FLIP_BITS, ({data_pages} + {flipped_page} * 0x1000) ^ ({data_pages} + 8 * 0x1000)",
    ".set CODE_ENTRY, {page_tables} + 0x2000",
    ".set CR0_BITS, 0x80050022", // PG, AM, WP, NE, MP
    ".set CR4_BITS, 0x604",      // OSFXSR, OSXMMEXCPT; TSD, as no two readings are the same
    ".set MOST_TICKS, 600", // three seconds
    ".set PROGRAM_COUNT, {variables}",
    ".set VERBOSE, {variables} + 4",
    ".set PROGRAM, {variables} + 8",
    ".set SUM, {variables} + 12",
    ".set EVENTS, {variables} + 16",
    ".set BUDGET, {variables} + 20",
    ".set LAST_SLOT, {variables} + 24",
    ".set SCRATCH, {variables} + 28",
    ".set FPU_SUM, {variables} + 32",
    ".set MEMORY_SUM, {variables} + 36",
    ".set TICKS, {variables} + 40",
    ".set MAPS_LAZY_PAGE, {variables} + 44",
    ".set USER_FS, {variables} + 48",
    ".set HANDLER, {variables} + 52",
    ".set FPU_AREA, {fpu_area}",
    ".set INITIAL_FPU, {initial_fpu}",
    ".set POWER_PORT, {power_port}",
    ".set POWER_OFF, {power_off}",
    // The frame of an event, in bytes from the kernel's ESP.
    ".set F_GS, 0",
    ".set F_FS, 4",
    ".set F_ES, 8",
    ".set F_DS, 12",
    ".set F_EAX, 44",
    ".set F_VECTOR, 48",
    ".set F_ERROR, 52",
    ".set F_EIP, 56",
    ".set F_CS, 60",
    ".set F_EFLAGS, 64",
    ".set F_ESP, 68",
    ".set F_SS, 72",
    ".set F_WORDS, 19",
    include_str!("kernel.s"),
    ".globl ringshift_ring3_end",
    ".hidden ringshift_ring3_end",
    "ringshift_ring3_end:",
    ".globl ringshift_ring3_offsets",
    ".hidden ringshift_ring3_offsets",
    ".balign 4",
    "ringshift_ring3_offsets:",
    ".long ring3_stubs - ring3_start, ring3_call_gate - ring3_start",
    ".popsection",
    load = const LOAD_ADDRESS,
    user_code_selector = const selector::CODE,
    user_data = const selector::DATA,
    user_stack16 = const selector::STACK16,
    user_ldt_data = const selector::LDT_DATA,
    user_code = const user::CODE,
    user_stack = const user::START_ESP,
    slot = const user::SLOT,
    kernel_stack = const KERNEL_STACK,
    pointers = const POINTERS,
    page_tables = const PAGE_TABLES,
    page_tables_bytes = const PAGE_TABLES_BYTES,
    initial_tables = const INITIAL_TABLES,
    descriptors = const DESCRIPTORS,
    descriptors_bytes = const DESCRIPTORS_BYTES,
    initial_descriptors = const INITIAL_DESCRIPTORS,
    ldt_offset = const LDT_OFFSET,
    data_pages = const DATA_PAGES,
    data_bytes = const DATA_BYTES,
    initial_data = const INITIAL_DATA,
    code_page = const CODE_PAGE,
    programs = const PROGRAMS,
    lazy = const user::LAZY,
    flipped = const user::FLIPPED,
    flipped_page = const FLIPPED,
    variables = const VARIABLES,
    fpu_area = const FPU_AREA,
    initial_fpu = const INITIAL_FPU,
    long_code = const LONG_CODE,
    long_bits = const LONG_BITS,
    power_port = const POWER_PORT,
    power_off = const POWER_OFF,
);

unsafe extern "C" {
    static ringshift_ring3_start: u8;
    static ringshift_ring3_end: u8;
    static ringshift_ring3_offsets: [u32; 2];
}

/// The kernel's code, and the addresses of its exception stubs and of what the call gate leads to.
fn kernel() -> (&'static [u8], u32, u32) {
    // SAFETY: the symbols lie in one section in this order, the first two around the kernel, which is
    // never written.
    unsafe {
        let start = &raw const ringshift_ring3_start;
        let length = (&raw const ringshift_ring3_end).offset_from_unsigned(start);
        let [stubs, gate] = ringshift_ring3_offsets;
        let code = std::slice::from_raw_parts(start, length);
        (code, LOAD_ADDRESS + stubs, LOAD_ADDRESS + gate)
    }
}

/// The image as it grows.
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, address: u32, bytes: &[u8]) {
        let at = (address - LOAD_ADDRESS) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, address: u32, value: u32) {
        self.put(address, &value.to_le_bytes());
    }

    fn put_u64(&mut self, address: u32, value: u64) {
        self.put(address, &value.to_le_bytes());
    }
}

fn page_tables(image: &mut Image) {
    const PRESENT: u32 = 1;
    const WRITE: u32 = 2;
    const USER: u32 = 4;
    let (low, middle, top) = (0x1000, 0x2000, 0x3000);
    let mut entry = |table: u32, linear: u32, value: u32| {
        image.put_u32(INITIAL_TABLES + table + (linear >> 12 & 0x3FF) * 4, value);
    };
    for page in 0..1024 {
        entry(low, page << 12, page << 12 | PRESENT | WRITE);
    }
    let data = |number: u32| DATA_PAGES + number * PAGE;
    let plain = PRESENT | WRITE | USER;
    entry(low, 0, data(12) | plain);
    entry(middle, user::CODE, CODE_PAGE | PRESENT | USER);
    for (linear, value) in [
        (user::DATA, data(0) | plain),
        (user::DATA + PAGE, data(1) | plain),
        (user::READ_ONLY, data(2) | PRESENT | USER),
        (user::ABSENT, 0),
        (user::SUPERVISOR, data(4) | PRESENT | WRITE),
        (user::FLIPPED, data(FLIPPED) | plain),
        (user::LAZY, data(6) | WRITE | USER),
        (user::CODE_ALIAS, CODE_PAGE | plain),
    ] {
        entry(middle, linear, value);
    }
    for linear in user::BETWEEN {
        entry(middle, linear, data(BETWEEN) | plain);
    }
    for page in 0..2 {
        entry(
            middle,
            user::STACK - (page + 1) * PAGE,
            data(9 + page) | plain,
        );
    }
    entry(top, user::TOP, data(11) | plain);
    for (linear, table) in [(0, low), (user::CODE, middle), (user::TOP, top)] {
        image.put_u32(
            INITIAL_TABLES + (linear >> 22) * 4,
            (PAGE_TABLES + table) | plain,
        );
    }
}

/// The same pages and segments for a process. Of an address that only the supervisor may use a process
/// has nothing, which [`is_supervisors`] is for.
pub(super) fn scene() -> Scene {
    let page = |base, number: u32, writable| Mapping {
        base,
        len: PAGE,
        offset: number * PAGE,
        writable,
        executable: true, // no NX in these page tables
    };
    let mut mappings = vec![
        page(0, 12, true),
        page(user::CODE, CODE_IN_IMAGE, false),
        page(user::DATA, 0, true),
        page(user::DATA + 0x1000, 1, true),
        page(user::READ_ONLY, 2, false),
        page(user::FLIPPED, FLIPPED, true),
        page(user::CODE_ALIAS, CODE_IN_IMAGE, true),
        page(user::STACK - 0x1000, 9, true),
        page(user::STACK - 0x2000, 10, true),
        page(user::TOP, 11, true),
    ];
    mappings.extend(user::BETWEEN.map(|linear| page(linear, BETWEEN, true)));
    Scene {
        mappings,
        image_len: (DATA_BYTES + PAGE) as usize,
        ldt: &LDT,
        trap_system_calls: true,
    }
}

/// The page of a process's image with the program; the data pages come first.
pub(super) const CODE_IN_IMAGE: u32 = DATA_BYTES / PAGE;

/// There is a page at this address, which ring 3 may not touch.
pub(super) fn is_supervisors(address: u32) -> bool {
    address & !0xFFF == user::SUPERVISOR || (PAGE..KERNEL_END).contains(&address)
}

/// The kernel sees this much at its guest-physical addresses.
const KERNEL_END: u32 = 4 << 20;

fn task_state(image: &mut Image) {
    image.put_u32(TSS + 4, KERNEL_STACK); // ESP0
    image.put_u32(TSS + 8, 0x10); // SS0
    image.put_u32(TSS + 0x64, SIZES.tss_bitmap << 16);
    // Ports 80h and 84h are allowed, no others.
    let bitmap = [0xFF; 0x2001];
    image.put(TSS + SIZES.tss_bitmap, &bitmap);
    image.put(TSS + SIZES.tss_bitmap + 0x10, &[0b1110_1110]);
}

/// What the kernel prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A line for each program.
    Sums = 0,
    /// And one for each event.
    Events = 1,
    /// And all memory at the end of each program.
    Memory = 2,
}

/// A bzImage that runs `programs`, each a page of code and parameters, one after another over the
/// same initial `data`. `detail` is what it prints.
///
/// # Panics
///
/// When there are more than [`MOST_PROGRAMS`].
#[must_use]
pub(super) fn image(
    programs: &[Page],
    data: &[u8],
    character: Character,
    detail: Detail,
) -> Vec<u8> {
    assert!(programs.len() <= MOST_PROGRAMS);
    let (code, stubs, call_gate) = kernel();
    assert!(
        code.len() <= (IDT - LOAD_ADDRESS) as usize,
        "{}",
        code.len()
    );
    let mut image = Image(vec![0; (END - LOAD_ADDRESS) as usize]);
    image.put(LOAD_ADDRESS, code);
    for vector in 0..256 {
        let access = if [3, 4, 0x80, 0x81, 0x82].contains(&vector) {
            0xEE
        } else {
            0x8E
        };
        image.put_u64(IDT + vector * 8, gate(0x08, stubs + vector * 16, access));
    }
    task_state(&mut image);
    for (selector, raw) in gdt(call_gate) {
        image.put_u64(INITIAL_DESCRIPTORS + u32::from(selector), raw);
        image.put_u64(DESCRIPTORS + u32::from(selector), raw);
    }
    for (index, entry) in (0..).zip(LDT) {
        let offset = LDT_OFFSET + index * 8;
        image.put_u64(INITIAL_DESCRIPTORS + offset, entry.raw());
        image.put_u64(DESCRIPTORS + offset, entry.raw());
    }
    image.put(INITIAL_FPU, &0x037F_u16.to_le_bytes()); // as FNINIT leaves it
    image.put(INITIAL_FPU + 24, &0x1F80_u32.to_le_bytes());
    for (at, limit, base) in [(0, LDT_OFFSET - 1, DESCRIPTORS), (8, 0x7FF, IDT)] {
        image.put(POINTERS + at, &(limit as u16).to_le_bytes());
        image.put_u32(POINTERS + at + 2, base);
    }
    page_tables(&mut image);
    let tables = (INITIAL_TABLES - LOAD_ADDRESS) as usize;
    let initial = image.0[tables..tables + PAGE_TABLES_BYTES as usize].to_vec();
    image.put(PAGE_TABLES, &initial);
    image.put_u32(VARIABLES, programs.len() as u32);
    image.put_u32(VARIABLES + 4, detail as u32);
    let process = character == Character::Process;
    image.put_u32(VARIABLES + 44, u32::from(!process));
    let fs = if process {
        selector::LDT_DATA
    } else {
        selector::TLS
    };
    image.put_u32(VARIABLES + 48, fs.into());
    for (number, program) in (0..).zip(programs) {
        image.put(PROGRAMS + number * PAGE, program);
    }
    image.put(INITIAL_DATA, &data[..data.len().min(DATA_BYTES as usize)]);
    bzimage::bzimage(&image.0)
}

/// What [`POWER_PORT`] takes: SLP_EN with the type of S5 (ACPI 6.5, section 4.8.3.2.1).
const POWER_OFF: u16 = Pm1Cnt::SLP_EN.bits() | (SLP_TYP_S5 as u16) << 10;
