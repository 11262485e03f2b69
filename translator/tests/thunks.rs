//! Calls of thunks that load their return address, which callers do without once they are known: the same
//! registers, stack and flags, and nothing is kept that has changed.

mod common;

use common::worlds::{self, ALIAS, DIRECTORY, Part, TABLE, World, halts, put};
use common::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use translator::state::reg;

/// The thunk, in a page of its own, and what it is replaced with.
const THUNK: u32 = 0x1000;
/// Where the results are.
const RESULTS: u32 = 0x3_0000;
const REGISTERS: [AsmRegister32; 7] = [eax, ecx, edx, ebx, esi, edi, ebp];

/// `mov REG, [esp]; ret`
fn load_and_return(
    register: AsmRegister32,
) -> impl Fn(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        a.mov(register, dword_ptr(esp))?;
        a.ret()
    }
}

/// A machine with paging whose pages are all the supervisor's.
fn machine(parts: &[Part<'_>]) -> Machine {
    let mut machine = worlds::machine(World::Paged, parts);
    for page in 0..1024u32 {
        let entry = page << 12 | 0x63;
        let at = u64::from(TABLE + page * 4);
        machine.mmu.write_phys(at, &entry.to_le_bytes()).unwrap();
    }
    machine
}

/// True when the unit that starts at `offset` of the program holds a call of a thunk in line.
fn is_in_line(machine: &Machine, offset: u32) -> bool {
    let listing = machine.vcpu.unit_listing(ORIGIN + offset).expect("a unit");
    listing.contains("jrcxz")
}

#[test]
fn a_call_in_line_leaves_what_the_call_leaves() {
    for (number, register) in REGISTERS.into_iter().enumerate() {
        let thunk = THUNK + 0x10 * number as u32;
        let call = u64::from(ORIGIN + thunk);
        let program = |a: &mut CodeAssembler| {
            a.call(call)?;
            // At 5: the thunk is known.
            for target in [eax, ecx, edx, ebx, esi, edi, ebp] {
                a.mov(target, 0x0101_0101)?;
            }
            a.stc()?;
            a.call(call)?;
            a.mov(dword_ptr(RESULTS), register)?;
            a.push(dword_ptr(esp - 4))?;
            a.pop(dword_ptr(RESULTS + 4))?;
            a.mov(dword_ptr(RESULTS + 8), esp)?;
            a.setb(byte_ptr(RESULTS + 12))?;
            a.hlt()
        };
        let mut machine = machine(&[(0, &program), (thunk, &load_and_return(register))]);
        let stack = machine.gpr(reg::ESP);
        halts(&mut machine);
        assert!(is_in_line(&machine, 5), "{register:?}");
        // Behind the second call: five bytes, seven times five, one, and five.
        let value = ORIGIN + 46;
        let mut seen = [0; 16];
        machine.mmu.read_phys(RESULTS.into(), &mut seen).unwrap();
        let word = |at: usize| u32::from_le_bytes(seen[at..at + 4].try_into().unwrap());
        assert_eq!(
            (word(0), word(4), word(8), word(12)),
            (value, value, stack, 1),
            "{register:?}"
        );
        for (other, name) in REGISTERS.into_iter().zip([0, 1, 2, 3, 6, 7, 5]) {
            if other != register {
                assert_eq!(machine.gpr(name), 0x0101_0101, "{register:?} {other:?}");
            }
        }
    }
}

/// Where the loop begins, and where the call in it returns to.
const LOOP: u32 = 0x40;
const BEHIND: u32 = LOOP + 5;
const ROUNDS: u32 = 40;
/// The round in which the thunk changes.
const CHANGE: u32 = 15;

/// Runs a loop that calls the thunk and adds EBX to EDX, ECX counting down from `ROUNDS`; `change` is run when ECX is
/// `CHANGE`, behind the call. `prepare` is called with the machine first.
fn sum_with(
    change: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    prepare: impl FnOnce(&mut Machine),
) -> Machine {
    let thunk = u64::from(ORIGIN + THUNK);
    let first = |a: &mut CodeAssembler| {
        a.call(thunk)?;
        a.mov(ecx, ROUNDS)?;
        a.xor(edx, edx)?;
        a.jmp(u64::from(ORIGIN + LOOP))
    };
    let body = |a: &mut CodeAssembler| {
        let mut next = a.create_label();
        a.call(thunk)?;
        a.add(edx, ebx)?;
        a.cmp(ecx, CHANGE)?;
        a.jne(next)?;
        change(a)?;
        a.set_label(&mut next)?;
        a.dec(ecx)?;
        a.jne(u64::from(ORIGIN + LOOP))?;
        a.hlt()
    };
    let mut machine = machine(&[(0, &first), (LOOP, &body), (THUNK, &load_and_return(ebx))]);
    prepare(&mut machine);
    halts(&mut machine);
    assert!(is_in_line(&machine, LOOP));
    machine
}

/// What EDX is when the thunk gave the return address until the round of the change, and 7 behind it.
fn changed_sum() -> u32 {
    (ROUNDS - CHANGE + 1) * (ORIGIN + BEHIND) + (CHANGE - 1) * 7
}

/// `push 7; pop ebx; ret`, as long as the thunk.
const SEVEN: u32 = 0xC35B_076A;

#[test]
fn a_thunk_that_nobody_writes_to_stays() {
    let machine = sum_with(&|a| a.nop(), |_| {});
    assert_eq!(machine.gpr(reg::EDX), ROUNDS * (ORIGIN + BEHIND));
}

#[test]
fn a_thunk_is_written_to() {
    for address in [ORIGIN + THUNK, ALIAS + ORIGIN + THUNK] {
        let change = |a: &mut CodeAssembler| a.mov(dword_ptr(address), SEVEN as i32);
        let machine = sum_with(&change, |_| {});
        assert_eq!(machine.gpr(reg::EDX), changed_sum(), "{address:#x}");
    }
}

#[test]
fn a_thunk_is_written_to_behind_the_processor() {
    let mut machine = sum_with(&|a| a.nop(), |_| {});
    let thunk = u64::from(ORIGIN + THUNK);
    machine.mmu.write_phys(thunk, &SEVEN.to_le_bytes()).unwrap();
    machine.vcpu.state_mut().eip = ORIGIN + LOOP;
    let cpu = machine.vcpu.state_mut();
    (cpu.gpr[reg::ECX], cpu.gpr[reg::EDX]) = (3, 0);
    halts(&mut machine);
    assert_eq!(machine.gpr(reg::EDX), 3 * 7);
}

/// Where there is another thunk, and a second set of tables that has it in the place of the first.
const OTHER: u32 = 0x5_0000;
const OTHER_DIRECTORY: u32 = DIRECTORY + 0x2000;
const OTHER_TABLE: u32 = DIRECTORY + 0x3000;

fn put_other(machine: &mut Machine) {
    machine
        .mmu
        .write_phys(OTHER.into(), &SEVEN.to_le_bytes())
        .unwrap();
    let mut table = [0; 4096];
    machine.mmu.read_phys(TABLE.into(), &mut table).unwrap();
    machine.mmu.write_phys(OTHER_TABLE.into(), &table).unwrap();
    let entry = u64::from((ORIGIN + THUNK) >> 12) * 4;
    for (at, value) in [
        (u64::from(OTHER_TABLE) + entry, OTHER | 0x63),
        (u64::from(OTHER_DIRECTORY), OTHER_TABLE | 0x63),
    ] {
        machine.mmu.write_phys(at, &value.to_le_bytes()).unwrap();
    }
}

#[test]
fn the_page_of_a_thunk_is_mapped_to_another() {
    let entry = TABLE + ((ORIGIN + THUNK) >> 12) * 4;
    let change = |a: &mut CodeAssembler| {
        a.mov(dword_ptr(entry), (OTHER | 0x63) as i32)?;
        a.invlpg(ptr(ORIGIN + THUNK))
    };
    let machine = sum_with(&change, put_other);
    assert_eq!(machine.gpr(reg::EDX), changed_sum());
}

#[test]
fn another_space_has_another_thunk_at_the_address() {
    let change = |a: &mut CodeAssembler| {
        a.mov(eax, OTHER_DIRECTORY)?;
        a.mov(cr3, eax)
    };
    let mut machine = sum_with(&change, put_other);
    assert_eq!(machine.gpr(reg::EDX), changed_sum());
    // Back, in turn with the other, and through the same unit.
    let rounds = |a: &mut CodeAssembler| {
        a.mov(eax, DIRECTORY)?;
        a.mov(cr3, eax)?;
        a.call(u64::from(ORIGIN + THUNK))?;
        a.call(u64::from(ORIGIN + 0x180))?;
        a.xor(edx, edx)?;
        a.mov(ecx, 20)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(eax, cr3)?;
        a.xor(eax, (DIRECTORY ^ OTHER_DIRECTORY) as i32)?;
        a.mov(cr3, eax)?;
        a.call(u64::from(ORIGIN + 0x180))?;
        a.loop_(again)?;
        a.hlt()
    };
    let function = |a: &mut CodeAssembler| {
        a.call(u64::from(ORIGIN + THUNK))?;
        a.add(edx, ebx)?;
        a.ret()
    };
    put(&mut machine, 32, ORIGIN, ORIGIN.into(), (0x100, &rounds));
    put(&mut machine, 32, ORIGIN, ORIGIN.into(), (0x180, &function));
    machine.vcpu.state_mut().eip = ORIGIN + 0x100;
    halts(&mut machine);
    assert!(is_in_line(&machine, 0x180));
    assert_eq!(
        machine.gpr(reg::EDX),
        10 * (ORIGIN + 0x185) + 10 * 7,
        "in turn"
    );
}
