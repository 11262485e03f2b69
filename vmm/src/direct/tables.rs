//! The monitor's own tables: page tables, descriptors, TSS and IDT (Intel SDM vol. 3A, chapters 3 to
//! 8, for IA-32e mode).

use super::layout::{
    CODE, CODE_BYTES, CODE_SELECTOR, DIRECTORY, GDT, IDT, IST_BYTES, IST_STACKS, LDT, LDT_SELECTOR,
    MONITOR_BYTES, MONITOR_GPA, MONITOR_LINEAR, MONITOR_SLOT, PAGE, PDPT, POOL_BYTES, ROOT_COUNT,
    ROOTS, STACK_SELECTOR, TABLE, TABLE_POOL_BASE, TSS, TSS_LIMIT, TSS_SELECTOR,
};
use super::memory::SharedMemory;
use super::monitor::{Image, STUB_BYTES};

/// Bits of a page-table entry (Intel SDM vol. 3A, section 4.5).
pub(super) mod entry {
    pub(in super::super) const PRESENT: u64 = 1 << 0;
    pub(in super::super) const WRITE: u64 = 1 << 1;
    pub(in super::super) const USER: u64 = 1 << 2;
    pub(in super::super) const ACCESSED: u64 = 1 << 5;
    pub(in super::super) const DIRTY: u64 = 1 << 6;
    pub(in super::super) const LARGE: u64 = 1 << 7;
    pub(in super::super) const NO_EXECUTE: u64 = 1 << 63;
}
use entry::{ACCESSED, DIRTY, LARGE, NO_EXECUTE, PRESENT, WRITE};

const LARGE_PAGE: u64 = 2 << 20;

/// Guest-physical address of something in the monitor's memory.
pub(super) const fn gpa(offset: u64) -> u64 {
    MONITOR_GPA + offset
}

/// Linear address of something in the monitor's memory.
pub(super) const fn linear(offset: u64) -> u64 {
    MONITOR_LINEAR + offset
}

/// Fills the monitor's memory. `pool_bytes` of table pool follow it.
pub(super) fn install(memory: &SharedMemory, image: Image, pool_bytes: u64) {
    memory.write_bytes(CODE, image.bytes);
    page_tables(memory, pool_bytes);
    descriptors(memory);
    task_state(memory);
    interrupt_descriptors(memory);
}

fn page_tables(memory: &SharedMemory, pool_bytes: u64) {
    const _: () = assert!(MONITOR_BYTES == LARGE_PAGE && CODE_BYTES.is_multiple_of(PAGE));
    const _: () = assert!(MONITOR_BYTES + POOL_BYTES == 512 * LARGE_PAGE);
    const _: () = assert!(ROOTS + ROOT_COUNT as u64 * PAGE <= MONITOR_BYTES);
    let table = PRESENT | WRITE | ACCESSED;
    let data = table | DIRTY | NO_EXECUTE;
    for root in 0..ROOT_COUNT as u64 {
        let at = ROOTS + root * PAGE + MONITOR_SLOT * 8;
        memory.write(at, gpa(PDPT) | table);
    }
    memory.write(PDPT, gpa(DIRECTORY) | table);
    memory.write(DIRECTORY, gpa(TABLE) | table);
    for page in 0..pool_bytes.min(POOL_BYTES).div_ceil(LARGE_PAGE) {
        let address = TABLE_POOL_BASE + page * LARGE_PAGE;
        memory.write(DIRECTORY + (page + 1) * 8, address | data | LARGE);
    }
    for page in 0..MONITOR_BYTES / PAGE {
        let rights = if page * PAGE < CODE_BYTES {
            PRESENT | ACCESSED
        } else {
            data
        };
        memory.write(TABLE + page * 8, gpa(page * PAGE) | rights);
    }
}

fn descriptors(memory: &SharedMemory) {
    let at = |selector: u16| GDT + u64::from(selector);
    memory.write(at(CODE_SELECTOR), 0x00AF_9B00_0000_FFFFu64);
    memory.write(at(STACK_SELECTOR), 0x00CF_9300_0000_FFFFu64);
    let system = |selector: u16, kind: u64, base: u64, limit: u64| {
        let low = (limit & 0xFFFF)
            | (base & 0xFF_FFFF) << 16
            | (0x80 | kind) << 40
            | (base >> 24 & 0xFF) << 56;
        memory.write(at(selector), low);
        memory.write(at(selector) + 8, base >> 32);
    };
    system(TSS_SELECTOR, 0xB, linear(TSS), TSS_LIMIT);
    system(LDT_SELECTOR, 0x2, linear(LDT), 0xFFFF);
}

/// The IST stack of a vector: #DB, NMI and #DF have their own (`mov ss` followed by `int n` raises
/// #DB inside the handler of *n*, on whose stack the frame still is).
fn stack_number(vector: u64) -> u64 {
    match vector {
        1 => 2,
        2 => 3,
        8 => 4,
        _ => 1,
    }
}

fn task_state(memory: &SharedMemory) {
    const IST1: u64 = 0x24;
    const IO_MAP_BASE: u64 = 0x66;
    for number in 1..=4 {
        let top = linear(IST_STACKS + number * IST_BYTES);
        let at = TSS + IST1 + (number - 1) * 8;
        // The TSS fields are 4-byte aligned only.
        memory.write(at, top as u32);
        memory.write(at + 4, (top >> 32) as u32);
    }
    memory.write(TSS + IO_MAP_BASE, (TSS_LIMIT + 1) as u16);
}

fn interrupt_descriptors(memory: &SharedMemory) {
    const INTERRUPT_GATE_DPL0: u64 = 0x8E;
    for vector in 0..256 {
        let target = linear(CODE + vector * STUB_BYTES);
        let low = (target & 0xFFFF)
            | u64::from(CODE_SELECTOR) << 16
            | stack_number(vector) << 32
            | INTERRUPT_GATE_DPL0 << 40
            | (target >> 16 & 0xFFFF) << 48;
        memory.write(IDT + vector * 16, low);
        memory.write(IDT + vector * 16 + 8, target >> 32);
    }
}
