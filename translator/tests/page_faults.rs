//! Instructions that cause page faults of the guest again and again: Rust walks the tables for them, and no host fault is
//! needed.

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
