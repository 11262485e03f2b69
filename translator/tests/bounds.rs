//! What the translator keeps is bounded, and nothing breaks at the bound.

mod common;

use common::Machine;
use iced_x86::code_asm::*;
use translator::state::reg;
use translator::{Exit, VcpuConfig};

/// Thousands of units, each left by a call, twice.
fn many_units(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    let mut again = a.create_label();
    a.mov(esi, 2)?;
    a.xor(eax, eax)?;
    a.set_label(&mut again)?;
    for _ in 0..UNITS {
        let mut next = a.create_label();
        a.inc(eax)?;
        a.call(next)?;
        a.set_label(&mut next)?;
        a.pop(ecx)?;
    }
    a.dec(esi)?;
    a.jne(again)?;
    a.hlt()
}

const UNITS: u32 = 4000;

#[test]
fn records_of_units_are_bounded() {
    let config = VcpuConfig {
        record_bytes: 256 << 10,
        ..VcpuConfig::default()
    };
    let mut machine = Machine::with(config, 32, many_units);
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 2 * UNITS);
    let stats = machine.vcpu.stats();
    assert!(stats.flushes >= 4, "{} flushes", stats.flushes);
    assert_eq!(stats.tables_emptied, 0);
}

#[test]
fn jump_tables_are_bounded() {
    // A unit in each of many pages: 16 KiB of jump table for each, and a few hundred bytes of records.
    const PAGES: u32 = 600;
    let config = VcpuConfig {
        record_bytes: 2 << 20,
        ..VcpuConfig::default()
    };
    let mut machine = Machine::with(config, 32, |a| {
        let mut top = a.create_label();
        a.mov(edi, 0x10_0000)?;
        a.mov(esi, PAGES)?;
        a.xor(eax, eax)?;
        a.set_label(&mut top)?;
        a.mov(dword_ptr(edi), 0x00C3_4090)?; // nop, inc eax, ret
        a.call(edi)?;
        a.add(edi, 0x1000)?;
        a.dec(esi)?;
        a.jne(top)?;
        a.hlt()
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), PAGES);
    let stats = machine.vcpu.stats();
    assert!(stats.tables_emptied > 0);
    assert_eq!(stats.flushes, 0);
}
