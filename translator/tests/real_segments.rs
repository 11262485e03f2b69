//! Segments in real mode: limits of 4 GiB that are kept ("unreal" mode), the interrupt shadow of a load of SS
//! that is carried out in line, and code segments with a limit.

mod common;

use common::{HANDLERS, Machine, ORIGIN, Ports};
use iced_x86::code_asm::*;
use translator::state::{Rights, Segment, eflags, reg, seg};
use translator::{Exit, Platform, RunLimits};

/// Where the data segments of the tests are.
const DATA: u64 = 0x2_0000;

fn unreal(selector: u16) -> Segment {
    Segment {
        limit: u32::MAX,
        rights: Segment::flat(0, false, 0).rights,
        ..Segment::real(selector)
    }
}

/// The base is 0 and something else in turn, and the pointers are beyond 64 KiB.
#[test]
fn segments_of_4_gib_are_loaded_in_line_and_stay_so() {
    let mut machine = Machine::new(16, |a| {
        let mut top = a.create_label();
        a.mov(cx, 1000)?;
        a.set_label(&mut top)?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(dword_ptr(ebx), ecx)?;
        a.mov(ax, 0x1000)?;
        a.mov(ds, ax)?;
        a.inc(dword_ptr(ebx))?;
        a.push(ds)?;
        a.pop(es)?;
        a.mov(edi, ebx)?;
        a.db(&[0x67, 0xAF])?; // addr32 scasw
        a.les(si, dword_ptr(ebx + 4))?;
        a.mov(dl, byte_ptr(ebx).es())?;
        a.loop_(top)?;
        a.hlt()
    });
    let cpu = machine.vcpu.state_mut();
    cpu.seg[seg::DS] = unreal(0x2000);
    cpu.seg[seg::ES] = unreal(0x2000);
    cpu.gpr[reg::EBX] = 0x20_0000;
    cpu.gpr[reg::ECX] = 0;
    let far = [0x34, 0x12, 0x00, 0x20];
    machine.mmu.write_phys(0x21_0004, &far).unwrap();
    machine.mmu.write_phys(0x22_0000, &[0x77]).unwrap();
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(0x20_0000), 1, "base 0");
    assert_eq!(machine.dword(0x21_0000), 1000, "base 10000h");
    assert_eq!(machine.gpr(reg::EDI), 0x20_0002);
    assert_eq!(machine.gpr(reg::ESI) as u16, 0x1234);
    assert_eq!(machine.gpr(reg::EDX) as u8, 0x77);
    let cpu = machine.vcpu.state();
    assert_eq!(cpu.seg[seg::DS], unreal(0x1000));
    assert_eq!(cpu.seg[seg::ES], unreal(0x2000));
    assert_eq!(machine.vcpu.stats().callouts.total(), 1, "the HLT");
}

#[test]
fn protected_mode_leaves_a_limit_behind_and_takes_it_away_again() {
    let mut machine = Machine::new(16, |a| {
        a.lgdt(fword_ptr(0x500))?;
        a.mov(edx, 0x2_0000)?;
        for selector in [8, 0x10] {
            a.mov(eax, cr0)?;
            a.or(al, 1)?;
            a.mov(cr0, eax)?;
            a.mov(bx, selector)?;
            a.mov(fs, bx)?;
            a.and(al, 0xFE)?;
            a.mov(cr0, eax)?;
            for paragraph in [0, 0x2000] {
                a.mov(ax, paragraph)?;
                a.mov(fs, ax)?;
                a.inc(byte_ptr(edx).fs())?;
            }
        }
        a.hlt()
    });
    machine.place_handlers();
    let table: [u64; 3] = [0, 0x00CF_9300_0000_FFFF, 0x0000_9300_0000_FFFF];
    let bytes: Vec<u8> = table.iter().flat_map(|d| d.to_le_bytes()).collect();
    machine.mmu.write_phys(DATA + 0x600, &bytes).unwrap();
    let register = [0x17, 0, 0, 0x06, 0x02, 0];
    machine.mmu.write_phys(DATA + 0x500, &register).unwrap();
    assert_eq!(machine.run(), Exit::Halted);
    let cpu = machine.vcpu.state();
    assert_eq!(cpu.seg[seg::CS].selector, HANDLERS);
    assert_eq!((cpu.eip - 1) / 16, 13, "#GP beyond 64 KiB");
    assert_eq!(machine.dword(0x2_0000) as u8, 1, "once");
    assert_eq!(machine.dword(0x4_0000) as u8, 1, "once");
    assert_eq!(cpu.seg[seg::FS], Segment::real(0));
}

/// What protected mode left behind for ring 3 becomes a segment of real mode with the first load.
#[test]
fn a_load_takes_rights_of_protected_mode_away() {
    for limit in [0xFFFF, 0xF_FFFF, u32::MAX] {
        let mut machine = Machine::new(16, |a| {
            a.inc(byte_ptr(0x10).fs())?;
            a.mov(ax, 0x2100)?;
            a.mov(fs, ax)?;
            a.inc(byte_ptr(0x10).fs())?;
            a.hlt()
        });
        machine.vcpu.state_mut().seg[seg::FS] = Segment {
            limit,
            rights: Segment::flat(0, false, 3).rights,
            ..Segment::real(0x2000)
        };
        assert_eq!(machine.run(), Exit::Halted);
        let expected = Segment {
            limit,
            ..unreal(0x2100)
        };
        assert_eq!(machine.vcpu.state().seg[seg::FS], expected);
        assert_eq!(machine.dword(DATA + 0x10) as u8, 1);
        assert_eq!(machine.dword(DATA + 0x1010) as u8, 1);
    }
}

#[test]
fn limits_of_another_size_are_kept_and_checked() {
    let mut machine = Machine::new(16, |a| {
        a.mov(ax, 0x2100)?;
        a.mov(fs, ax)?;
        a.inc(byte_ptr(ebx).fs())?;
        a.inc(ebx)?;
        a.inc(byte_ptr(ebx).fs())
    });
    machine.place_handlers();
    let cpu = machine.vcpu.state_mut();
    cpu.seg[seg::FS].limit = 0x1_FFFF;
    cpu.gpr[reg::EBX] = 0x1_FFFF;
    assert_eq!(machine.run(), Exit::Halted);
    let cpu = machine.vcpu.state();
    assert_eq!((cpu.eip - 1) / 16, 13, "#GP");
    assert_eq!(cpu.seg[seg::FS].limit, 0x1_FFFF);
    assert_eq!(cpu.gpr[reg::EBX], 0x2_0000);
    assert_eq!(machine.dword(DATA + 0x1000 + 0x1_FFFF) as u8, 1);
}

#[test]
fn loads_of_the_stack_stay_in_translated_code() {
    let mut machine = Machine::new(16, |a| {
        let mut top = a.create_label();
        a.mov(cx, 1000)?;
        a.set_label(&mut top)?;
        a.mov(ss, ax)?;
        a.mov(sp, bx)?;
        a.push(dx)?;
        a.mov(word_ptr(0x10), ss)?;
        a.mov(ss, word_ptr(0x10))?;
        a.lea(esp, ptr(ebx + 0x20))?;
        a.push(dx)?;
        a.pop(ss)?;
        a.mov(sp, word_ptr(0x12))?;
        a.push(cx)?;
        a.lss(sp, dword_ptr(0x14))?;
        a.pop(si)?;
        a.loop_(top)?;
        a.hlt()
    });
    let words = [0u16, 0x5000, 0x6000, 0x2300]
        .map(u16::to_le_bytes)
        .concat();
    machine.mmu.write_phys(DATA + 0x10, &words).unwrap();
    machine.mmu.write_phys(0x2_9000, &[0xCD, 0xAB]).unwrap();
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::EAX] = 0x2100;
    cpu.gpr[reg::EBX] = 0x4000;
    cpu.gpr[reg::EDX] = 0x2200;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(0x2_1000 + 0x3FFE) as u16, 0x2200);
    assert_eq!(machine.dword(0x2_1000 + 0x401E) as u16, 0x2200);
    assert_eq!(machine.dword(0x2_2000 + 0x4FFE) as u16, 1);
    assert_eq!(machine.gpr(reg::ESI) as u16, 0xABCD);
    assert_eq!(machine.gpr(reg::ESP), 0x6002);
    assert_eq!(machine.vcpu.state().seg[seg::SS], Segment::real(0x2300));
    let stats = machine.vcpu.stats();
    assert_eq!(stats.callouts.total(), 1, "the HLT");
}

/// Its interrupt wire goes high at a given look at it, and SP is read from a device.
struct Late {
    ports: Ports,
    looks: u32,
}

impl Platform for Late {
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.ports.port_read(port, size)
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.ports.port_write(port, size, value);
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        self.ports.mmio_read(gpa, data);
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.ports.mmio_write(gpa, data);
    }
    fn interrupt_pending(&mut self) -> bool {
        self.looks = self.looks.saturating_sub(1);
        self.looks == 0
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        8
    }
    fn attention(&mut self) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        1
    }
}

/// The fault on the device's page brings Rust to the boundary behind the load of SS.
#[test]
fn no_interrupt_comes_between_a_load_of_ss_and_of_sp() {
    // mov ss, ax; and push ax, pop ss. Then: mov sp, es:[0]; nop; hlt.
    for load in [&[0x8E, 0xD0][..], &[0x50, 0x17]] {
        let mut places = Vec::new();
        for looks in 1..12 {
            let mut machine = Machine::new(16, |a| {
                a.db(load)?;
                a.db(&[0x26, 0x8B, 0x26, 0, 0])?;
                a.nop()?;
                a.hlt()
            });
            let cpu = machine.vcpu.state_mut();
            cpu.eflags |= eflags::IF;
            cpu.gpr[reg::EAX] = 0x2100;
            cpu.seg[seg::ES] = Segment::real(0xA000);
            let mut platform = Late {
                ports: Ports {
                    screen: vec![0x00, 0x70],
                    ..Ports::default()
                },
                looks,
            };
            let exit = machine
                .vcpu
                .run(&mut machine.mmu, &mut platform, RunLimits::default());
            let cpu = machine.vcpu.state();
            if exit == Exit::InterruptReady {
                places.push((cpu.eip as u16, cpu.gpr[reg::ESP] as u16));
            }
        }
        let behind = load.len() as u16;
        assert!(places.iter().all(|(ip, _)| *ip != behind), "{places:x?}");
        assert!(places.contains(&(behind + 5, 0x7000)), "{places:x?}");
    }
}

/// Compilers for 16-bit code use near transfers with 32-bit operands, which could leave the segment.
#[test]
fn wide_near_transfers_stay_in_translated_code() {
    let code = [
        0xB9, 0xE8, 0x03, // mov cx, 1000
        0x66, 0xE8, 6, 0, 0, 0, // call dword 0Fh
        0x66, 0xFF, 0xD3, // call ebx
        0xE2, 0xF5, // loop 3
        0xF4, // hlt
        0x40, 0x66, 0xC3, // inc ax; ret dword
    ];
    let mut machine = Machine::new(16, |a| a.db(&code));
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::EAX] = 0;
    cpu.gpr[reg::EBX] = 0xF;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 2000);
    assert_eq!(machine.vcpu.stats().callouts.total(), 1, "the HLT");
}

#[test]
fn near_transfers_in_a_code_segment_with_a_limit() {
    let limit = ORIGIN + 0xFFF;
    let run = |target: u32, code: &[u8]| {
        let mut machine = Machine::new(32, |a| a.db(code));
        machine.mmu.write_phys(limit.into(), &[0xF4, 0xF4]).unwrap();
        let cpu = machine.vcpu.state_mut();
        cpu.seg[seg::CS].limit = limit;
        cpu.seg[seg::CS].rights.remove(Rights::GRANULARITY);
        cpu.gpr[reg::EAX] = target;
        cpu.gpr[reg::ECX] = 1000;
        let exit = machine.run();
        (exit, machine)
    };
    // call eax; loop; hlt; and behind them: inc ebx; ret
    let code = [0xFF, 0xD0, 0xE2, 0xFC, 0xF4, 0x43, 0xC3];
    let (exit, machine) = run(ORIGIN + 5, &code);
    assert_eq!(exit, Exit::Halted);
    assert_eq!(machine.gpr(reg::EBX), 1000);
    assert_eq!(machine.vcpu.stats().callouts.total(), 1, "the HLT");
    // jmp eax; call eax; push eax, ret. Nobody handles the #GP.
    for code in [&[0xFF, 0xE0][..], &[0xFF, 0xD0], &[0x50, 0xC3]] {
        let (exit, machine) = run(limit, code);
        assert_eq!(exit, Exit::Halted);
        assert_eq!(machine.vcpu.state().eip, limit + 1);
        for beyond in [limit + 1, 0x8000_0000, u32::MAX] {
            assert_eq!(run(beyond, code).0, Exit::Shutdown, "{beyond:#x}");
        }
    }
}
