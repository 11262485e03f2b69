//! Emitted code, in full. `RINGSHIFT_BLESS=1 cargo test -p translator --test golden` writes it anew.
//!
//! Addresses of the host differ from run to run and are left out.

mod common;

use common::Machine;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::path::Path;
use translator::Exit;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Operands that hold a host address, replaced by a word.
fn without_addresses(line: &str) -> String {
    line.split_inclusive([' ', ',', '['])
        .map(|word| {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit() && c != 'h');
            let hex = digits.strip_suffix('h').unwrap_or_default();
            if hex.len() >= 11 && hex.chars().all(|c| c.is_ascii_hexdigit()) {
                word.replace(digits, "HOST")
            } else {
                word.to_owned()
            }
        })
        .collect()
}

fn listing(bits: u32, program: Program) -> String {
    let mut machine = Machine::new(bits, program);
    assert_eq!(machine.run(), Exit::Halted);
    let text = machine
        .vcpu
        .unit_listing(common::ORIGIN)
        .expect("a unit at the first instruction");
    text.lines()
        .map(without_addresses)
        .collect::<Vec<_>>()
        .join("\n")
        + "\n"
}

fn check(name: &str, bits: u32, program: Program) -> String {
    let found = listing(bits, program);
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
        .with_extension("txt");
    if std::env::var_os("RINGSHIFT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} is emitted differently (RINGSHIFT_BLESS=1 accepts it):\n{found}"
    );
    found
}

/// The host instructions that a listing shows for the guest instruction `guest`.
fn host_of<'a>(listing: &'a str, guest: &str) -> Vec<&'a str> {
    listing
        .lines()
        .skip_while(|line| !line.ends_with(guest))
        .skip(1)
        .take_while(|line| line.starts_with("    +"))
        .map(|line| line[11..].trim())
        .collect()
}

#[test]
fn a_flat_load_is_one_host_load() {
    let listing = check("flat_load", 32, |a| {
        a.mov(ebx, 0x3000)?;
        a.mov(eax, dword_ptr(ebx + 8))?;
        a.mov(ecx, dword_ptr(0x3000))?;
        a.mov(edx, dword_ptr(esp + 4))?;
        a.hlt()
    });
    assert_eq!(
        host_of(&listing, "mov eax,[ebx+8]"),
        ["mov eax,[r14+rbx+8]"]
    );
    assert_eq!(
        host_of(&listing, "mov ecx,[3000h]"),
        ["mov ecx,[r14+3000h]"]
    );
    assert_eq!(host_of(&listing, "mov edx,[esp+4]"), ["mov edx,[r12+4]"]);
}

/// An emulated host whose flags after CMPXCHG8B are right in a block that begins with it (QEMU's TCG
/// before 8.0) gave the process TF and DF.
#[test]
fn cmpxchg8b_begins_a_block() {
    let listing = check("cmpxchg8b", 32, |a| {
        a.mov(edi, 0x3000)?;
        a.add(eax, 5)?;
        a.cmpxchg8b(qword_ptr(edi))?;
        a.hlt()
    });
    let host = host_of(&listing, "cmpxchg8b [edi]");
    let jump = host.iter().position(|line| line.starts_with("jmp"));
    let exchange = host.iter().position(|line| line.starts_with("cmpxchg8b"));
    let (jump, exchange) = (jump.expect(&listing), exchange.expect(&listing));
    // What finds the address changes no flags.
    let between = host.get(jump + 1..exchange).expect(&listing);
    assert!(
        between
            .iter()
            .all(|line| line.starts_with("lea") || line.starts_with("mov")),
        "{listing}"
    );
}

#[test]
fn stack_and_arithmetic() {
    check("stack", 32, |a| {
        a.push(eax)?;
        a.pop(ecx)?;
        a.sub(esp, 16)?;
        a.add(esp, 16)?;
        a.push(ebp)?;
        a.mov(ebp, esp)?;
        a.leave()?;
        a.inc(eax)?;
        a.mov(ah, byte_ptr(ebx))?;
        a.hlt()
    });
}

#[test]
fn a_loop_and_a_string() {
    check("loop", 32, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 3)?;
        a.set_label(&mut top)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.mov(esi, 0x3000)?;
        a.mov(edi, 0x4000)?;
        a.rep().movsd()?;
        a.pushfd()?;
        a.cli()?;
        a.hlt()
    });
}

#[test]
fn real_mode() {
    check("real_mode", 16, |a| {
        a.mov(bx, 0x100)?;
        a.mov(ax, word_ptr(bx + 2))?;
        a.mov(byte_ptr(bx), al)?;
        a.push(ax)?;
        a.hlt()
    });
}
