//! EFER.NXE and the execute-disable bit of PAE entries, seen by translated code.

mod common;

use common::Machine;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{TableRegister, reg};

const POINTERS: u32 = 0x4000;
const DIRECTORY: u32 = 0x5000;
const TABLE: u32 = 0x6000;
const IDT: u32 = 0x2000;
const HANDLER: u32 = 0x9000;
const EFER: u32 = 0xC000_0080;
/// The page that the program jumps to, and the one before.
const TARGET: u32 = 0x12_0000;
const BEFORE: u32 = TARGET - 0x1000;

/// Identity-mapped PAE paging below 2 MiB, with `no_execute` set for the target page, and a page-fault handler that
/// halts. `program` runs after EFER.NXE and paging have been turned on.
fn machine(
    no_execute: bool,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Machine {
    let mut machine = Machine::new(32, |a| {
        a.mov(ecx, EFER)?;
        a.xor(edx, edx)?;
        a.mov(eax, 0x800)?;
        a.wrmsr()?;
        a.mov(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, POINTERS)?;
        a.mov(cr3, eax)?;
        a.mov(eax, 0x8001_0001u32)?;
        a.mov(cr0, eax)?;
        program(a)
    });
    let mut put = |at: u32, value: u64| {
        machine
            .mmu
            .write_phys(u64::from(at), &value.to_le_bytes())
            .unwrap();
    };
    put(POINTERS, u64::from(DIRECTORY) | 1);
    put(DIRECTORY, u64::from(TABLE) | 3);
    for page in 0..512u32 {
        let nx = u64::from(no_execute && page == TARGET >> 12) << 63;
        put(TABLE + page * 8, u64::from(page) << 12 | 3 | nx);
    }
    // The GDT that the handler's gate refers to.
    put(0x1008, 0x00CF_9B00_0000_FFFF);
    put(0x1010, 0x00CF_9300_0000_FFFF);
    put(
        IDT + 14 * 8,
        u64::from(HANDLER & 0xFFFF) | 8 << 16 | 0x8E << 40,
    );
    put(HANDLER, 0xF4);
    put(TARGET, 0xC3); // ret
    let cpu = machine.vcpu.state_mut();
    cpu.gdtr = TableRegister {
        base: 0x1000,
        limit: 23,
    };
    cpu.idtr = TableRegister {
        base: IDT,
        limit: 0x7FF,
    };
    machine
}

/// Fails unless the machine stopped in the page-fault handler because of a fetch from `linear`.
fn assert_fetch_fault(machine: &mut Machine, linear: u32) {
    assert_eq!(machine.run(), Exit::Halted);
    let cpu = machine.vcpu.state();
    assert_eq!(cpu.eip, HANDLER + 1);
    assert_eq!(cpu.cr2, linear);
    // Present, supervisor, instruction fetch.
    assert_eq!(machine.dword(u64::from(machine.gpr(reg::ESP))), 0x11);
}

#[test]
fn code_on_a_page_without_the_bit_runs() {
    let mut machine = machine(false, |a| {
        a.mov(ebx, TARGET)?;
        a.call(ebx)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.vcpu.state().cr2, 0);
}

#[test]
fn a_call_to_an_execute_disabled_page_faults() {
    let mut machine = machine(true, |a| {
        a.mov(ebx, TARGET)?;
        a.mov(eax, dword_ptr(ebx))?; // data can be read
        a.mov(dword_ptr(ebx + 8), eax)?; // and written
        a.call(ebx)?;
        a.hlt()
    });
    assert_fetch_fault(&mut machine, TARGET);
}

#[test]
fn an_instruction_that_reaches_into_an_execute_disabled_page_faults() {
    let mut machine = machine(true, |a| {
        a.mov(ebx, TARGET - 2)?;
        a.jmp(ebx)
    });
    let mov = [0xB8, 0x01]; // mov eax, imm32: the rest is in the next page
    machine
        .mmu
        .write_phys(u64::from(BEFORE) + 0xFFE, &mov)
        .unwrap();
    assert_fetch_fault(&mut machine, TARGET);
}

/// Code that has run, alone and over two pages, is not entered again once its page is execute-disabled.
#[test]
fn code_that_becomes_execute_disabled_is_not_entered_again() {
    for entry in [TARGET, TARGET - 1] {
        let mut machine = machine(false, |a| {
            let mut top = a.create_label();
            a.mov(ebx, entry)?;
            a.mov(esi, 3)?;
            a.set_label(&mut top)?;
            a.call(ebx)?;
            a.dec(esi)?;
            a.jne(top)?;
            // Bit 63 of the target's entry.
            a.mov(dword_ptr(TABLE + (TARGET >> 12) * 8 + 4), 0x8000_0000u32)?;
            a.invlpg(byte_ptr(TARGET))?;
            a.call(ebx)?;
            a.hlt()
        });
        // At TARGET - 1: an instruction of two bytes, and a RET behind it.
        if entry != TARGET {
            let two_pages = [0x89, 0xC0]; // mov eax, eax
            machine
                .mmu
                .write_phys(u64::from(entry), &two_pages)
                .unwrap();
            machine
                .mmu
                .write_phys(u64::from(TARGET) + 1, &[0xC3])
                .unwrap();
        }
        assert_fetch_fault(&mut machine, TARGET);
    }
}
