//! Small programs through the whole translator.

mod common;

use common::Machine;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{reg, seg};

#[test]
fn loops_calls_and_memory() {
    let mut machine = Machine::new(32, |a| {
        let mut top = a.create_label();
        let mut double = a.create_label();
        a.mov(ecx, 1000)?;
        a.xor(eax, eax)?;
        a.set_label(&mut top)?;
        a.add(eax, ecx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.call(double)?;
        a.mov(dword_ptr(0x3000), eax)?;
        a.push(eax)?;
        a.pop(ebx)?;
        a.hlt()?;
        a.set_label(&mut double)?;
        a.add(eax, eax)?;
        a.ret()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 1_001_000);
    assert_eq!(machine.gpr(reg::EBX), 1_001_000);
    assert_eq!(machine.dword(0x3000), 1_001_000);
    assert_eq!(machine.gpr(reg::ESP), 0x8000);
}

#[test]
fn real_mode_and_ports() {
    let mut machine = Machine::new(16, |a| {
        a.mov(ax, 0x1234)?;
        a.mov(word_ptr(0x10), ax)?;
        a.push(ax)?;
        a.pop(bx)?;
        a.mov(dx, 0x3F8)?;
        a.in_(al, dx)?;
        a.out(0x80, al)?;
        a.mov(si, 0x10)?;
        a.mov(di, 0x20)?;
        a.mov(cx, 2)?;
        a.rep().movsb()?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EBX) & 0xFFFF, 0x1234);
    assert_eq!(machine.gpr(reg::ESP), 0x1234_8000);
    assert_eq!(machine.dword(0x2_0010) & 0xFFFF, 0x1234);
    assert_eq!(machine.dword(0x2_0020) & 0xFFFF, 0x1234);
    assert_eq!(machine.ports.written, [(0x80, 0xE8)]);
}

/// Encodings that became ENDBR32, RDSSPD and CLDEMOTE later are NOPs to the models here.
#[test]
fn reserved_nops() {
    let mut machine = Machine::new(32, |a| {
        a.mov(eax, 5)?;
        a.endbr32()?;
        a.rdsspd(eax)?;
        a.cldemote(byte_ptr(0xFFFF_FFFFu32))?;
        a.prefetcht0(byte_ptr(0xA_0000))?;
        a.add(eax, 1)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 6);
    assert_eq!(machine.ports.memory, []);
}

#[test]
fn device_memory_and_x87() {
    let mut machine = Machine::new(32, |a| {
        a.mov(ebx, 0xA_0000)?;
        a.mov(ecx, 10)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(dword_ptr(ebx), ecx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.fldpi()?;
        a.fld1()?;
        a.faddp(st1, st0)?;
        a.fstp(qword_ptr(0x3000))?;
        a.mov(eax, ebx)?;
        a.movzx(edx, byte_ptr(ebx + 5))?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    let mut bytes = [0; 8];
    machine.mmu.read_phys(0x3000, &mut bytes).unwrap();
    assert_eq!(f64::from_le_bytes(bytes), std::f64::consts::PI + 1.0);
    assert_eq!(machine.gpr(reg::EDX), 5);
    assert_eq!(machine.ports.memory.len(), 10);
    assert_eq!(
        machine.ports.memory[0],
        (0xA_0000, (0x0302_0100u32 + 10).to_le_bytes().to_vec())
    );
}

#[test]
fn code_that_changes_itself() {
    let mut machine = Machine::new(32, |a| {
        let mut patched = a.create_label();
        let mut again = a.create_label();
        let mut here = a.create_label();
        a.mov(esi, 3)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.call(here)?;
        a.set_label(&mut here)?;
        a.pop(edi)?;
        a.inc(byte_ptr(edi + 5))?;
        a.set_label(&mut patched)?;
        a.add(eax, 1)?;
        a.dec(esi)?;
        a.jne(again)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 2 + 3 + 4);
}

#[test]
fn the_stack_pointer_as_an_ordinary_register() {
    let mut machine = Machine::new(32, |a| {
        a.push(ebp)?;
        a.mov(ebp, esp)?;
        a.push(0x55)?;
        a.sub(esp, 0x20)?;
        a.and(esp, -16)?;
        a.mov(dword_ptr(esp), 7)?;
        a.mov(eax, esp)?;
        a.cmp(esp, ebp)?;
        a.pop(ecx)?;
        a.lea(esp, dword_ptr(ebp - 4))?;
        a.pop(edx)?;
        a.mov(ebx, esp)?;
        a.leave()?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 0x7FD0);
    assert_eq!(machine.gpr(reg::ECX), 7);
    assert_eq!(machine.gpr(reg::EDX), 0x55);
    assert_eq!(machine.gpr(reg::EBX), 0x7FFC);
    assert_eq!(machine.gpr(reg::ESP), 0x8000);
    assert_eq!(
        machine.vcpu.stats().host_faults,
        1,
        "the stack, its page filled once"
    );
}

#[test]
fn a_negative_offset_from_a_segment_base_wraps() {
    let mut machine = Machine::new(32, |a| {
        a.mov(edx, -84)?;
        a.mov(eax, dword_ptr(edx).gs())?;
        a.mov(ecx, dword_ptr(edx + 4).gs())?;
        a.mov(ebx, dword_ptr(0x40).gs())?;
        a.hlt()
    });
    machine.vcpu.state_mut().seg[seg::GS].base = 0x3000;
    for (offset, value) in [(-84i64, 11u32), (-80, 12), (0x40, 13)] {
        machine
            .mmu
            .write_phys((0x3000 + offset) as u64, &value.to_le_bytes())
            .unwrap();
    }
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(
        [reg::EAX, reg::ECX, reg::EBX].map(|r| machine.gpr(r)),
        [11, 12, 13]
    );
}

#[test]
fn a_call_backwards_can_be_interrupted() {
    let mut machine = Machine::new(32, |a| {
        let mut start = a.create_label();
        let mut back = a.create_label();
        a.jmp(start)?;
        a.set_label(&mut back)?;
        a.inc(eax)?;
        a.ret()?;
        a.set_label(&mut start)?;
        for _ in 0..4 {
            a.call(back)?;
        }
        a.hlt()
    });
    let kicker = machine.vcpu.kicker();
    // A kick that arrives before the run makes it come back at once; the guest notices nothing.
    loop {
        kicker.kick();
        match machine.run() {
            Exit::Kicked => {}
            exit => {
                assert_eq!(exit, Exit::Halted);
                break;
            }
        }
        if machine.run() == Exit::Halted {
            break;
        }
    }
    assert_eq!(machine.gpr(reg::EAX), 4);
    assert_eq!(machine.gpr(reg::ESP), 0x8000);
}

#[test]
fn the_fpu_environment_names_guest_addresses() {
    let mut machine = Machine::new(32, |a| {
        let mut here = a.create_label();
        a.call(here)?;
        a.set_label(&mut here)?;
        a.pop(ebx)?;
        a.fninit()?;
        a.fld(qword_ptr(0x3008))?;
        a.fnstenv(ptr(0x3100))?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    // FLD is behind POP (1 byte) and FNINIT (2 bytes).
    assert_eq!(machine.dword(0x310C), machine.gpr(reg::EBX) + 3);
    // FLD m64 with an absolute address: DD 05 /0.
    assert_eq!(machine.dword(0x3110), 0x0505_0008);
    assert_eq!(machine.dword(0x3114), 0x3008);
}

#[test]
fn instructions_are_counted() {
    common::COUNTED.set(true);
    let mut machine = Machine::new(32, |a| {
        let mut top = a.create_label();
        let mut skip = a.create_label();
        let mut leaf = a.create_label();
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.test(ecx, 1)?;
        a.jne(skip)?;
        a.call(leaf)?;
        a.set_label(&mut skip)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()?;
        a.set_label(&mut leaf)?;
        a.ret()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(
        machine.vcpu.stats().instructions,
        Some(1 + 4 * 1000 + 2 * 500 + 1)
    );
}

#[test]
fn an_access_that_met_a_device_once_gets_its_own_form_back() {
    let mut machine = Machine::new(32, |a| {
        let mut top = a.create_label();
        let mut store = a.create_label();
        a.mov(ebx, 0xA_0000)?;
        a.mov(ecx, 100_000)?;
        a.set_label(&mut top)?;
        a.cmp(ecx, 99_990)?;
        a.jne(store)?;
        a.mov(ebx, 0x3000)?;
        a.set_label(&mut store)?;
        a.mov(dword_ptr(ebx), ecx)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.ports.memory.len(), 10);
    assert_eq!(machine.dword(0x3000), 1);
    let accesses = machine.vcpu.stats().prepared_accesses;
    assert!((5..5000).contains(&accesses), "{accesses} accesses by Rust");
}

/// MOV and XCHG are written to a device before they run, in every form of their operands.
#[test]
fn exchanges_with_a_device_give_what_was_there() {
    let mut machine = Machine::new(32, |a| {
        let mut top = a.create_label();
        a.mov(ebx, 0xA_0000)?;
        a.mov(esp, 0x1122_3344)?;
        a.mov(ecx, 1000)?;
        a.xor(edx, edx)?;
        a.set_label(&mut top)?;
        a.mov(byte_ptr(ebx), ch)?;
        a.mov(byte_ptr(ebx + 1), 0x55)?;
        a.mov(ah, 0x66)?;
        a.xchg(byte_ptr(ebx + 1), ah)?; // 55h, and 66h there
        a.movzx(edi, ah)?;
        a.add(edx, edi)?;
        a.mov(eax, ecx)?;
        a.xchg(word_ptr(ebx + 2), ax)?; // what the last round left
        a.mov(esi, ebx)?;
        a.xchg(dword_ptr(esi), esi)?; // its own address
        a.xchg(dword_ptr(ebx + 4), esp)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.mov(dword_ptr(0x3000), esp)?;
        a.hlt()
    });
    machine.ports.screen = vec![0; 0x1000];
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EDX), 0x55 * 1000);
    // The last round found its own count but for the address that the round before had written there.
    assert_eq!(machine.gpr(reg::EAX), 0xA_0000 >> 16);
    assert_eq!(machine.gpr(reg::ESI), 0x0001_6600);
    assert_eq!(machine.ports.screen[..4], [0, 0, 0xA, 0]);
    assert_eq!(machine.ports.screen[4..8], [0; 4]);
    assert_eq!(machine.dword(0x3000), 0x1122_3344);
    let stats = machine.vcpu.stats();
    assert!(stats.complete_stores > 5_900, "{stats:?}");
    assert!(stats.exits.access < 6_100, "{stats:?}");
}

/// Offsets are added to bases without wrapping around; what that reaches beyond 4 GiB must be guard
/// region, never memory of the monitor.
#[test]
fn sums_up_to_8_gib_stay_in_the_guard_region() {
    let mut machine = Machine::new(32, |a| {
        a.mov(ebx, -0x1000)?;
        a.mov(eax, dword_ptr(ebx - 0x0100_1000).gs())?;
        a.mov(ecx, dword_ptr(ebx - 0x0200_0000))?;
        a.mov(edx, dword_ptr(ebx + 0x7FFF_FFFF))?;
        a.hlt()
    });
    machine.vcpu.state_mut().seg[seg::GS].base = 0xFFFF_F000;
    assert_eq!(machine.run(), Exit::Halted);
    // Holes all: the platform answers with the low byte of the address, counting up.
    assert_eq!(machine.gpr(reg::EAX), 0x0302_0100);
    assert_eq!(machine.gpr(reg::ECX), 0x0302_0100);
    assert_eq!(machine.gpr(reg::EDX), 0x0201_00FF);
}
