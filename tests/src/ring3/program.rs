//! Programs for ring 3, generated: each slot of a program does one thing, which may fault.

use iced_x86::IcedError;

use iced_x86::code_asm::*;

use super::hostile::{HOSTILE, TRANSFERS};
use super::layout::{parameter, user};
use super::ordinary::ORDINARY;
use super::sweep;

use crate::generate::Rng;

/// Exceptions and system calls after which a program has come to its end.
pub(super) const MOST_EVENTS: u32 = 1000;

/// The page of a program: its slots, then the registers that it starts with, see [`parameter`].
pub type Page = [u8; 0x1000];

/// What a program is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// What compilers and libraries emit, and the faults that programs cause on purpose.
    Ordinary,
    /// Everything that ring 3 can try, as far as a processor that QEMU's TCG emulates checks it: it
    /// knows no segment limits and types, no LOCK and no alignment checks.
    Hostile,
    /// Everything that ring 3 can try where a process of Linux can do it, too: no system calls but one,
    /// no ports, no gates, nothing that long mode does otherwise; with limits, LOCK and alignment checks.
    Process,
    /// Every vector, every port, every selector, in [`SWEEPS`](super::SWEEPS) programs, whatever the
    /// seed.
    Sweep,
}

/// What templates are made from: random numbers, for a program of a certain character.
pub(super) struct Dice {
    rng: Rng,
    pub(super) character: Character,
}

impl Dice {
    /// The program is to run as a process, too.
    pub(super) fn process(&self) -> bool {
        self.character == Character::Process
    }
}

impl std::ops::Deref for Dice {
    type Target = Rng;

    fn deref(&self) -> &Rng {
        &self.rng
    }
}

impl std::ops::DerefMut for Dice {
    fn deref_mut(&mut self) -> &mut Rng {
        &mut self.rng
    }
}

/// One instruction or a few, for a slot.
pub(super) type Template = fn(&mut CodeAssembler, &mut Dice) -> Result<(), IcedError>;

/// One that goes elsewhere: to the slot whose number it is given, or to a random one.
pub(super) type Transfer = fn(&mut CodeAssembler, &mut Dice, u32) -> Result<(), IcedError>;

/// The program with this number under `seed`.
///
/// # Panics
///
/// When a template does not fit into a slot: a mistake of the template.
#[must_use]
pub fn program(seed: u64, number: u32, character: Character) -> Page {
    if character == Character::Sweep {
        return sweep::program(number);
    }
    // Twice through the generator: neighbouring numbers shall not give the same sequence, shifted.
    let rng = Rng::new(Rng::new(seed ^ u64::from(number) << 32).next_u64());
    let mut rng = Dice { rng, character };
    let mut page = [0x90; 0x1000];
    for slot in 0..user::SLOTS {
        let bytes = if slot + 1 == user::SLOTS {
            vec![0xCD, 0x81]
        } else {
            fill_slot(&mut rng, slot)
        };
        let start = (slot * user::SLOT) as usize;
        page[start..start + bytes.len()].copy_from_slice(&bytes);
    }
    for register in 0..8 {
        let value = rng.value();
        page[parameter::REGISTERS + register * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    // EFLAGS: status and DF at random, IF. IOPL is 0: a program that could clear IF would never run
    // directly, and might never end.
    let flags = rng.next_u32() & 0x8D5 | 0x202;
    for (at, value) in [
        (parameter::FLAGS, flags),
        (parameter::HANDLER, 0),
        (parameter::BUDGET, MOST_EVENTS),
    ] {
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    page
}

/// As many templates as fit.
fn fill_slot(rng: &mut Dice, slot: u32) -> Vec<u8> {
    let at = user::CODE + slot * user::SLOT;
    let mut bytes = Vec::new();
    for _ in 0..3 {
        let hostile = rng.character != Character::Ordinary && !rng.one_in(3);
        let mut assembler = CodeAssembler::new(32).expect("32 is a bitness");
        let made = if hostile && rng.one_in(6) {
            // Nearly always forward, or most programs would be loops.
            let target = if rng.one_in(16) {
                rng.below(user::SLOTS)
            } else {
                slot + 1
            };
            rng.pick(TRANSFERS)(&mut assembler, rng, target)
        } else {
            rng.pick(if hostile { HOSTILE } else { ORDINARY })(&mut assembler, rng)
        };
        made.expect("an instruction that exists");
        let ip = u64::from(at) + bytes.len() as u64;
        let more = assembler.assemble(ip).expect("code that can be encoded");
        assert!(more.len() <= user::SLOT as usize, "{more:02x?}");
        if bytes.len() + more.len() > user::SLOT as usize {
            break;
        }
        bytes.extend(more);
        if rng.one_in(2) {
            break;
        }
    }
    bytes
}

pub(super) const REGISTERS: [AsmRegister32; 7] = [eax, ecx, edx, ebx, ebp, esi, edi];

pub(super) const BYTE_REGISTERS: [AsmRegister8; 8] = [al, cl, dl, bl, ah, ch, dh, bh];

/// An address in one of the pages of the program, near its borders more often than not.
pub(super) fn address(rng: &mut Dice) -> u32 {
    const PAGES: [u32; 14] = [
        user::DATA,
        user::DATA,
        user::DATA,
        user::DATA + 0x1000,
        user::READ_ONLY,
        user::ABSENT,
        user::SUPERVISOR,
        user::FLIPPED,
        user::FLIPPED,
        user::STACK - 0x2000,
        user::STACK - 0x1000,
        user::LAZY,
        user::TOP,
        0,
    ];
    let offset = match rng.below(4) {
        0 => 0x1000 - 1 - rng.below(16),
        1 => rng.below(16),
        _ => rng.below(0x1000),
    };
    // For a process no page is mapped at first use; and whether an access may go beyond 4 GiB, in either
    // direction, is up to the processor (Intel SDM vol. 3A, section 5.3).
    let pages = if rng.process() { &PAGES[..11] } else { &PAGES };
    rng.pick(pages).wrapping_add(offset)
}

/// An address that is plain memory.
pub(super) fn plain(rng: &mut Dice) -> u32 {
    user::DATA + rng.below(0x1F00)
}
