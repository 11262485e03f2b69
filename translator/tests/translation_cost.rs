//! What translating costs: host instructions for each guest instruction, counted by callgrind.

mod common;

use common::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::process::{Command, Stdio};
use translator::Exit;
use translator::state::reg;

/// Names the number of groups of instructions for [`straight_line_code_runs_once`].
const GROUPS: &str = "RINGSHIFT_GROUPS";
/// Instructions of a group.
const INSTRUCTIONS: u64 = 10;
/// Most host instructions for one guest instruction, translated and run once.
const MOST: u64 = 5000;

/// What compilers make: loads, stores, arithmetic, a comparison and a jump, a call.
fn group(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut next, mut function) = (a.create_label(), a.create_label());
    a.mov(eax, dword_ptr(ebx + 8))?;
    a.lea(ecx, ptr(eax + eax * 2 + 5))?;
    a.add(edx, ecx)?;
    a.mov(dword_ptr(esp - 16), edx)?;
    a.movzx(esi, byte_ptr(ebx + 3))?;
    a.test(esi, esi)?;
    a.jne(next)?;
    a.call(function)?;
    a.set_label(&mut function)?;
    a.pop(edi)?;
    a.set_label(&mut next)?;
    a.xor(eax, edx)
}

/// Translates and runs every instruction once. By itself it shows only that the program works.
#[test]
fn straight_line_code_runs_once() {
    let groups: usize = std::env::var(GROUPS).map_or(10, |text| text.parse().unwrap());
    // Assembled once: that is not what is to be counted.
    let mut assembler = CodeAssembler::new(32).unwrap();
    group(&mut assembler).unwrap();
    let mut code = assembler.assemble(0).unwrap().repeat(groups);
    code.push(0xF4); // hlt
    let mut machine = Machine::new(32, |a| a.hlt());
    machine.mmu.write_phys(u64::from(ORIGIN), &code).unwrap();
    machine.vcpu.state_mut().gpr[reg::EBX] = 0x3000;
    assert_eq!(machine.run(), Exit::Halted);
    let translated = machine.vcpu.stats().instructions_translated;
    assert!(translated >= INSTRUCTIONS * groups as u64, "{translated}");
}

/// Host instructions of [`straight_line_code_runs_once`] with so many groups.
fn host_instructions(groups: u64) -> Option<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        // The guest's code is translated code that changes.
        .arg("--smc-check=all-non-file")
        .arg(std::env::current_exe().ok()?)
        .args([
            "--exact",
            "straight_line_code_runs_once",
            "--test-threads=1",
        ])
        .env(GROUPS, groups.to_string())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
        return None;
    }
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    line.split_whitespace().last()?.parse().ok()
}

#[test]
fn an_instruction_is_translated_in_few_instructions() {
    let (few, many) = (200, 1500);
    let counts = host_instructions(few).zip(host_instructions(many));
    let Some((less, more)) = counts else {
        eprintln!("SKIPPED: callgrind cannot count the instructions here");
        return;
    };
    let each = more.saturating_sub(less) / (INSTRUCTIONS * (many - few));
    eprintln!("{each} host instructions to translate and run one guest instruction");
    assert!(each > 10, "{each}: nothing was counted");
    // Without optimization the figure says nothing.
    if cfg!(debug_assertions) {
        eprintln!("SKIPPED: not an optimized build");
        return;
    }
    assert!(each < MOST, "{each}, at most {MOST}");
}
