//! Page tables that change: what the page faults, the writes to tables and the new mappings of code cost. Instructions that cause
//! page faults again and again have Rust walk the tables for them, and need no host fault.

mod common;

use common::Machine;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{TableRegister, reg};

const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
const DIRECTORY: u32 = 0x5000;
const TABLE: u32 = 0x6000;
const HANDLER: u32 = 0x9000;
/// Where the handler counts, and where it notes the last error code.
const COUNT: u32 = 0xA000;
const ERROR: u32 = 0xA004;
/// Linear pages from here on are absent until somebody enters them.
const AREA: u32 = 0x12_0000;
/// The page that all of them lead to.
const FRAME: u32 = 0x13_0000;

/// Identity-mapped paging below [`AREA`]. The page-fault handler counts, and enters the page if EBP is not 0, else
/// skips the instruction, of two bytes.
fn machine(program: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Machine {
    let mut machine = Machine::new(32, |a| {
        a.mov(eax, DIRECTORY)?;
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
    put(DIRECTORY, u64::from(TABLE) | 3);
    for page in (0..AREA >> 12).step_by(2) {
        let entry = u64::from(page << 12 | 3);
        put(TABLE + page * 4, entry | (entry + 0x1000) << 32);
    }
    put(GDT + 8, 0x00CF_9B00_0000_FFFF);
    put(GDT + 16, 0x00CF_9300_0000_FFFF);
    put(IDT + 14 * 8, u64::from(HANDLER) | 8 << 16 | 0x8E << 40);
    let handler = |a: &mut CodeAssembler| {
        let mut enter = a.create_label();
        a.inc(dword_ptr(COUNT))?;
        a.pop(dword_ptr(ERROR))?;
        a.test(ebp, ebp)?;
        a.jnz(enter)?;
        a.add(dword_ptr(esp), 2)?;
        a.iretd()?;
        a.set_label(&mut enter)?;
        a.mov(edx, cr2)?;
        a.shr(edx, 12)?;
        a.mov(dword_ptr(edx * 4 + TABLE), (FRAME | 3) as i32)?;
        a.iretd()
    };
    let mut a = CodeAssembler::new(32).unwrap();
    handler(&mut a).unwrap();
    let code = a.assemble(u64::from(HANDLER)).unwrap();
    machine.mmu.write_phys(u64::from(HANDLER), &code).unwrap();
    let cpu = machine.vcpu.state_mut();
    (cpu.gdtr, cpu.idtr) = (
        TableRegister {
            base: GDT,
            limit: 23,
        },
        TableRegister {
            base: IDT,
            limit: 0x7FF,
        },
    );
    machine
}

#[test]
fn faults_of_one_instruction_cost_few_host_faults() {
    let mut machine = machine(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 200)?;
        a.mov(esi, AREA + 0x123)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut top)?;
        a.stc()?;
        a.mov(eax, dword_ptr(esi))?; // 2 bytes
        a.adc(edi, 0)?; // the flags outlive the fault
        a.add(esi, 0x1000)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(u64::from(COUNT)), 200);
    assert_eq!(
        machine.dword(u64::from(ERROR)),
        0,
        "a read of an absent page"
    );
    assert_eq!(machine.vcpu.state().cr2, AREA + 0x123 + 199 * 0x1000);
    assert_eq!(machine.gpr(reg::EDI), 200);
    let stats = machine.vcpu.stats();
    assert_eq!(stats.true_faults, 200);
    assert!(stats.host_faults < 30, "{}", stats.host_faults);
}

#[test]
fn a_page_that_is_touched_once_needs_no_mapping() {
    let mut machine = machine(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 200)?;
        a.mov(esi, AREA)?;
        a.mov(ebp, 1)?;
        a.set_label(&mut top)?;
        a.inc(dword_ptr(esi + 8))?;
        a.add(esi, 0x1000)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(u64::from(COUNT)), 200);
    assert_eq!(machine.dword(u64::from(ERROR)), 2, "a write");
    assert_eq!(machine.dword(u64::from(FRAME + 8)), 200);
    // All with accessed and dirty bits.
    let last = TABLE + ((AREA >> 12) + 199) * 4;
    assert_eq!(machine.dword(u64::from(last)), FRAME | 0x63);
    let stats = machine.vcpu.stats();
    assert_eq!(stats.true_faults, 200);
    assert!(stats.host_faults < 40, "{}", stats.host_faults);
    let mmaps = machine.mmu.stats().mmaps;
    assert!(mmaps < 40, "{mmaps}");
}

#[test]
fn an_instruction_that_faults_no_more_gets_its_own_form_back() {
    let program = |rounds: u32| {
        move |a: &mut CodeAssembler| {
            let mut top = a.create_label();
            let mut again = a.create_label();
            a.mov(ebp, 1)?;
            a.mov(edi, rounds)?;
            a.set_label(&mut again)?;
            a.mov(ecx, 100)?;
            a.mov(esi, AREA)?;
            a.set_label(&mut top)?;
            a.inc(dword_ptr(esi))?;
            a.add(esi, 0x1000)?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.dec(edi)?;
            a.jne(again)?;
            a.hlt()
        }
    };
    let run = |rounds| {
        let mut machine = machine(program(rounds));
        assert_eq!(machine.run(), Exit::Halted);
        assert_eq!(machine.dword(u64::from(COUNT)), 100);
        assert_eq!(machine.dword(u64::from(FRAME)), rounds * 100);
        machine.vcpu.stats().prepared_accesses
    };
    let accesses = run(10);
    assert!(accesses > 100, "{accesses}");
    assert_eq!(run(50), accesses);
}

#[test]
fn a_unit_that_is_given_up_in_its_first_bytes_can_still_be_entered() {
    let mut machine = machine(|a| {
        let mut touch = a.create_label();
        let mut again = a.create_label();
        let mut start = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut touch)?;
        a.inc(ebx)?; // shorter than the call that a dead unit begins with
        a.inc(dword_ptr(esi))?;
        a.add(esi, 0x1000)?;
        a.dec(ecx)?;
        a.jne(touch)?;
        a.ret()?;
        a.set_label(&mut start)?;
        a.mov(edi, 4)?;
        a.mov(ebp, 1)?;
        a.set_label(&mut again)?;
        a.mov(esi, AREA)?;
        a.mov(ecx, ebp)?;
        a.lea(ebp, dword_ptr(ebp * 4 + 1))?; // 1, 5, 21, 85 pages
        a.call(touch)?; // linked to the first unit in the second round, which is given up in the third
        a.dec(edi)?;
        a.jne(again)?;
        a.hlt()
    });
    for page in 0..85 {
        let at = u64::from(TABLE + ((AREA >> 12) + page) * 4);
        machine
            .mmu
            .write_phys(at, &(FRAME | 3).to_le_bytes())
            .unwrap();
    }
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(u64::from(COUNT)), 0, "hidden faults only");
    assert_eq!(machine.dword(u64::from(FRAME)), 112);
    let stats = machine.vcpu.stats();
    assert!(stats.hints > 0 && stats.hidden_faults < 40);
}

/// A table is filled, used, changed while it is used, and given up, again and again, all by one instruction. While nothing
/// depends on the table the writes take neither Rust nor a mapping; whatever is written while something does counts at once.
#[test]
fn a_table_that_comes_and_goes_is_filled_without_rust_and_followed_while_in_use() {
    const ROOT: u32 = 0x7000;
    const OTHER_TABLE: u32 = 0x8000;
    const OTHER_FRAME: u32 = 0x13_1000;
    const LINEAR: u32 = 0x40_0000;
    const ROUNDS: u32 = 20;
    let mut machine = machine(|a| {
        let mut store = a.create_label();
        let mut round = a.create_label();
        let mut fill = a.create_label();
        let mut other_use = a.create_label();
        let mut start = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut store)?;
        a.mov(dword_ptr(edi), eax)?;
        a.ret()?;
        a.set_label(&mut start)?;
        a.xor(ebx, ebx)?;
        a.mov(esi, ROUNDS)?;
        a.set_label(&mut round)?;
        a.mov(edi, OTHER_TABLE)?;
        a.mov(eax, FRAME | 3)?;
        a.mov(ecx, 64)?;
        a.set_label(&mut fill)?;
        a.call(store)?;
        a.add(edi, 4)?;
        a.dec(ecx)?;
        a.jnz(fill)?;
        a.mov(edx, ROOT)?;
        a.mov(cr3, edx)?;
        a.add(ebx, dword_ptr(LINEAR))?;
        a.mov(edi, OTHER_TABLE)?;
        a.mov(eax, OTHER_FRAME | 3)?;
        a.call(store)?;
        a.add(ebx, dword_ptr(LINEAR))?;
        a.mov(edx, DIRECTORY)?;
        a.mov(cr3, edx)?;
        a.mov(ecx, 8)?;
        a.set_label(&mut other_use)?;
        a.mov(dword_ptr(ecx * 4 + ROOT + 0x100), ecx)?;
        a.mov(dword_ptr(ecx * 4 + ROOT + 0x100), 0)?;
        a.dec(ecx)?;
        a.jnz(other_use)?;
        a.dec(esi)?;
        a.jnz(round)?;
        a.hlt()
    });
    let mut put = |at: u32, value: u32| {
        let at = u64::from(at);
        machine.mmu.write_phys(at, &value.to_le_bytes()).unwrap();
    };
    put(ROOT, TABLE | 3);
    put(ROOT + 4, OTHER_TABLE | 3);
    put(FRAME, 1);
    put(OTHER_FRAME, 1000);
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.vcpu.state().gpr[reg::EBX], ROUNDS * 1001);
    let stats = machine.vcpu.stats();
    assert!(
        stats.looked_up_accesses > u64::from(ROUNDS * 64 / 2),
        "{stats:?}"
    );
    machine.mmu.audit().unwrap();
}

/// The instruction and the page are known, and then a breakpoint is set on a part of the page.
#[test]
fn a_former_table_is_watched_like_any_page() {
    const ROOT: u32 = 0x7000;
    const OTHER_TABLE: u32 = 0x8000;
    const DEBUG_HANDLER: u32 = 0xB000;
    const LINEAR: u32 = 0x40_0000;
    let mut machine = machine(|a| {
        let mut again = a.create_label();
        let mut fill = a.create_label();
        let mut next = a.create_label();
        let mut start = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut fill)?;
        a.mov(ecx, 64)?;
        a.set_label(&mut next)?;
        a.mov(dword_ptr(ecx * 4 + OTHER_TABLE), ebp)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.ret()?;
        a.set_label(&mut start)?;
        a.xor(ebp, ebp)?;
        // A table in use: the instruction learns.
        a.mov(edx, ROOT)?;
        a.mov(cr3, edx)?;
        a.add(ebx, dword_ptr(LINEAR))?;
        a.call(fill)?;
        a.mov(edx, DIRECTORY)?;
        a.mov(cr3, edx)?;
        for i in 0..8 {
            a.mov(dword_ptr(ROOT + 0x100 + i * 4), 1)?;
        }
        a.mov(esi, 4)?;
        a.set_label(&mut again)?;
        a.call(fill)?;
        a.mov(eax, OTHER_TABLE + 0x80)?;
        a.mov(dr0, eax)?;
        a.mov(eax, 0xD_0402)?;
        a.mov(dr7, eax)?;
        a.dec(esi)?;
        a.jnz(again)?;
        a.hlt()
    });
    let mut put = |at: u32, value: u64| {
        let at = u64::from(at);
        machine.mmu.write_phys(at, &value.to_le_bytes()).unwrap();
    };
    put(ROOT, u64::from(TABLE) | 3);
    put(ROOT + 4, u64::from(OTHER_TABLE) | 3);
    put(OTHER_TABLE, u64::from(FRAME) | 3);
    put(IDT + 8, u64::from(DEBUG_HANDLER) | 8 << 16 | 0x8E << 40);
    let mut a = CodeAssembler::new(32).unwrap();
    a.inc(dword_ptr(COUNT)).unwrap();
    a.iretd().unwrap();
    let code = a.assemble(u64::from(DEBUG_HANDLER)).unwrap();
    let at = u64::from(DEBUG_HANDLER);
    machine.mmu.write_phys(at, &code).unwrap();
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(u64::from(COUNT)), 3);
    assert!(machine.vcpu.stats().looked_up_accesses > 30);
}

/// Two pages of functions take turns at one linear address. What was translated is found again with one look for each turn, not
/// for each function, and nothing of the other page is.
#[test]
fn code_that_is_mapped_again_is_found_page_by_page() {
    const FUNCTIONS: u32 = 16;
    const ROUNDS: u32 = 10;
    const PAGES: [(u32, u32); 2] = [(0x14_0000, 1), (0x15_0000, 1000)];
    let mut machine = machine(|a| {
        let mut round = a.create_label();
        a.xor(ebx, ebx)?;
        a.mov(esi, ROUNDS)?;
        a.set_label(&mut round)?;
        for (frame, _) in PAGES {
            let mut call = a.create_label();
            a.mov(dword_ptr(TABLE + (AREA >> 12) * 4), (frame | 3) as i32)?;
            a.mov(edi, AREA)?;
            a.mov(ecx, FUNCTIONS)?;
            a.set_label(&mut call)?;
            a.call(edi)?;
            a.add(edi, 0x80)?;
            a.dec(ecx)?;
            a.jnz(call)?;
        }
        a.dec(esi)?;
        a.jnz(round)?;
        a.hlt()
    });
    for (frame, adds) in PAGES {
        let mut a = CodeAssembler::new(32).unwrap();
        a.add(ebx, adds as i32).unwrap();
        a.ret().unwrap();
        let code = a.assemble(0).unwrap();
        for function in 0..FUNCTIONS {
            let at = u64::from(frame + function * 0x80);
            machine.mmu.write_phys(at, &code).unwrap();
        }
    }
    assert_eq!(machine.run(), Exit::Halted);
    let each: u32 = PAGES.iter().map(|&(_, adds)| adds).sum();
    assert_eq!(machine.gpr(reg::EBX), ROUNDS * FUNCTIONS * each);
    let misses = machine.vcpu.stats().misses;
    let first = 2 * u64::from(FUNCTIONS);
    assert!(misses >= first && misses < first + 60, "{misses}");
    machine.mmu.audit().unwrap();
}
