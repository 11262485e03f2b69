//! The table of expected results: the checks and effects of each instruction in the order that its
//! operation section has in the Intel SDM. Written for these cases alone; it shares nothing with
//! the translator.

mod interrupt;
mod ops;
mod ports;
mod segment;
mod task;
mod transfer;

pub(crate) use ops::EFER;

use super::case::Case;
use super::driver::{Preparation, has_error_code};
use super::layout::{self as at, selector};
use super::op::Seg;
use super::world::Memory;
use super::{Field, State, units};
use segment::{Descriptor, Hidden};

/// Vectors of exceptions.
#[allow(missing_docs)] // the names are the SDM's
pub(crate) mod vector {
    pub(crate) const DB: u8 = 1;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
}

/// Bits of EFLAGS.
#[allow(missing_docs)] // the names are the SDM's
pub(crate) mod flag {
    pub(crate) const ZF: u32 = 1 << 6;
    pub(crate) const TF: u32 = 1 << 8;
    pub(crate) const IF: u32 = 1 << 9;
    pub(crate) const DF: u32 = 1 << 10;
    pub(crate) const OF: u32 = 1 << 11;
    pub(crate) const IOPL: u32 = 3 << 12;
    pub(crate) const NT: u32 = 1 << 14;
    pub(crate) const RF: u32 = 1 << 16;
    pub(crate) const VM: u32 = 1 << 17;
    pub(crate) const AC: u32 = 1 << 18;
    pub(crate) const ID: u32 = 1 << 21;
    /// CF, PF, AF, ZF, SF, OF.
    pub(crate) const STATUS: u32 = 0x8D5;
}

/// An exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) vector: u8,
    pub(crate) code: Option<u32>,
    /// What CR2 becomes.
    pub(crate) address: Option<u32>,
    /// A trap: it is reported behind the instruction, and RF stays clear in the image of EFLAGS.
    pub(crate) trap: bool,
}

impl Fault {
    pub(crate) const fn new(vector: u8) -> Fault {
        let code = if has_error_code(vector as u32) {
            Some(0)
        } else {
            None
        };
        Fault {
            vector,
            code,
            address: None,
            trap: false,
        }
    }

    /// With a selector's index and table.
    pub(crate) const fn of(vector: u8, selector: u16) -> Fault {
        Fault {
            code: Some(selector as u32 & 0xFFFC),
            ..Fault::new(vector)
        }
    }

    /// With EXT set, for what happens while an exception is delivered.
    fn external(self, external: bool) -> Fault {
        Fault {
            code: self.code.map(|code| code | u32::from(external)),
            ..self
        }
    }

    /// Divide error, #TS, #NP, #SS, #GP (Intel SDM vol. 3A, table 6-4).
    const fn is_contributory(self) -> bool {
        matches!(self.vector, 0 | 10..=13)
    }

    /// A second exception on the way to the handler makes a double fault (table 6-5).
    const fn doubles(self, second: Fault) -> bool {
        let page = self.vector == vector::PF;
        second.is_contributory() && (page || self.is_contributory())
            || page && second.vector == vector::PF
    }
}

type Step<T = ()> = Result<T, Fault>;

/// What a case must end with.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The state.
    pub state: State,
    /// The world.
    pub memory: Memory,
    /// The stack frame of the last exception, which the driver does not compare.
    pub frame: std::ops::Range<u32>,
}

/// The processor shuts down; a case must not do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the processor shuts down")]
pub struct Shutdown;

/// A processor and the world.
pub(crate) struct Cpu {
    pub(crate) state: State,
    pub(crate) memory: Memory,
    pub(crate) seg: [Hidden; 6],
    pub(crate) ldt: Hidden,
    pub(crate) tr: Hidden,
    pub(crate) cpl: u8,
    /// An x87 exception is pending.
    pub(crate) pending_x87: bool,
    /// The registers of x87 and SSE, as FXSAVE shows them.
    units: [u8; units::SIZE],
    /// A task switch has happened: faults are the new task's.
    pub(crate) committed: bool,
}

impl Cpu {
    fn new(case: &Case) -> Cpu {
        let mut cpu = Cpu {
            state: case.state.clone(),
            memory: case.world(),
            seg: [Hidden::default(); 6],
            ldt: Hidden::default(),
            tr: Hidden::default(),
            cpl: case.mode.cpl(),
            pending_x87: matches!(
                case.preparation,
                Preparation::PendingX87 | Preparation::UnitsPending
            ),
            units: units::prepared(case.preparation == Preparation::UnitsPending),
            committed: false,
        };
        for seg in Seg::ALL {
            let selector = cpu.state[seg.field()] as u16;
            cpu.seg[seg as usize] = if case.mode.is_protected() {
                cpu.existing(selector)
            } else {
                Hidden::paragraph(selector)
            };
        }
        cpu.ldt = cpu.existing(cpu.state[Field::Ldtr] as u16);
        cpu.tr = cpu.existing(selector::TSS);
        cpu
    }

    /// The hidden part of a register that the driver loaded before the case.
    fn existing(&self, selector: u16) -> Hidden {
        if selector & 0xFFFC == 0 {
            return Hidden::default();
        }
        let address = super::world::descriptor_address(selector);
        Descriptor(self.memory.descriptor(address).0).hidden()
    }

    pub(crate) fn real(&self) -> bool {
        self.state[Field::Cr0] & 1 == 0
    }

    pub(crate) fn v86(&self) -> bool {
        !self.real() && self.flags(flag::VM)
    }

    pub(crate) fn flags(&self, bits: u32) -> bool {
        self.state[Field::Eflags] & bits == bits
    }

    pub(crate) fn set_flag(&mut self, bits: u32, value: bool) {
        if value {
            self.state[Field::Eflags] |= bits;
        } else {
            self.state[Field::Eflags] &= !bits;
        }
    }

    pub(crate) fn iopl(&self) -> u8 {
        ((self.state[Field::Eflags] >> 12) & 3) as u8
    }

    /// CPL 0 or #GP(0). Virtual-8086 mode is at CPL 3.
    pub(crate) fn require_cpl0(&self) -> Step {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(Fault::new(vector::GP))
        }
    }

    pub(crate) fn set_low(&mut self, field: Field, size: u32, value: u32) {
        let mask = mask(size);
        self.state[field] = self.state[field] & !mask | value & mask;
    }

    pub(crate) fn stack_mask(&self) -> u32 {
        if self.seg[Seg::Ss as usize].big {
            u32::MAX
        } else {
            0xFFFF
        }
    }

    /// The offset of the stack's top, `above` bytes up.
    pub(crate) fn stack_offset(&self, above: u32) -> u32 {
        self.state[Field::Esp].wrapping_add(above) & self.stack_mask()
    }

    pub(crate) fn move_stack(&mut self, by: u32) {
        let mask = self.stack_mask();
        let esp = self.state[Field::Esp];
        self.state[Field::Esp] = esp & !mask | esp.wrapping_add(by) & mask;
    }

    pub(crate) fn push(&mut self, size: u32, value: u32) -> Step {
        let offset = self.stack_offset(size.wrapping_neg());
        self.write_segment(Seg::Ss, offset, size, value)?;
        self.move_stack(size.wrapping_neg());
        Ok(())
    }

    pub(crate) fn pop(&mut self, size: u32) -> Step<u32> {
        let value = self.read_segment(Seg::Ss, self.stack_offset(0), size)?;
        self.move_stack(size);
        Ok(value)
    }
}

/// The bits of an operand of `size` bytes.
pub(crate) const fn mask(size: u32) -> u32 {
    if size == 4 {
        u32::MAX
    } else {
        (1 << (size * 8)) - 1
    }
}

/// What `case` must end with.
///
/// # Errors
///
/// [`Shutdown`].
pub fn expected(case: &Case) -> Result<Expected, Shutdown> {
    let mut cpu = Cpu::new(case);
    let start = cpu.state.clone();
    cpu.state[Field::Eip] = start[Field::Eip] + case.code.len() as u32;
    let outcome = cpu.execute(case.op);
    let mut fault = match outcome {
        // Wherever it went, UD2 is there, if it can be fetched.
        Ok(()) => cpu.next(),
        Err(fault) => {
            if !cpu.committed && !fault.trap {
                // As if the instruction had not started.
                cpu.state[Field::Eip] = start[Field::Eip];
            }
            fault
        }
    };
    loop {
        let found = cpu.state.clone();
        match cpu.exception(fault) {
            Ok(frame) => {
                if let Some(end) = cpu.end(&start, &found, fault, frame) {
                    return Ok(end);
                }
                fault = cpu.next();
            }
            Err(_) if fault.vector == vector::DF => return Err(Shutdown),
            Err(second) if fault.trap && !cpu.committed => {
                // ICEBP did not come to its end.
                cpu.state[Field::Eip] = start[Field::Eip];
                fault = second;
            }
            Err(second) if fault.doubles(second) => {
                fault = Fault::new(vector::DF);
            }
            Err(second) => fault = second,
        }
    }
}

impl Cpu {
    /// What the instruction at CS:EIP, UD2, raises.
    fn next(&self) -> Fault {
        let eip = self.state[Field::Eip];
        if eip > self.seg[Seg::Cs as usize].limit {
            Fault::new(vector::GP)
        } else {
            Fault::new(vector::UD)
        }
    }

    /// The end of the case if CS:EIP is at a handler of the driver.
    fn end(&self, start: &State, found: &State, fault: Fault, frame: u32) -> Option<Expected> {
        let vector = u32::from(fault.vector);
        let (eip, cs) = (self.state[Field::Eip], self.state[Field::Cs]);
        let driver = cs == u32::from(selector::DRIVER_CODE);
        let mut state = self.state.clone();
        let frame = if self.real() {
            if cs != 0 || eip != super::real::stub_address(vector) {
                return None;
            }
            let high = self.state[Field::Esp].wrapping_add(6) & 0xFFFF;
            high.wrapping_sub(6)..high
        } else if driver && eip == at::DOUBLE_FAULT {
            let end = at::STACK_DOUBLE_FAULT;
            // The handler reports what the case started with.
            let control = state.clone();
            state = start.clone();
            for field in &Field::ALL[Field::Cr0 as usize..] {
                state[*field] = control[*field];
            }
            state[Field::Vector] = vector;
            state[Field::Error] = fault.code.unwrap_or(0);
            return Some(Expected {
                state,
                memory: self.memory.clone(),
                frame: end - 4..end,
            });
        } else if driver && eip == at::STUBS + vector * at::STUB_SIZE {
            let esp = self.state[Field::Esp] & 0xFFFF;
            let own = if fault.code.is_some() { 12 } else { 16 };
            esp - own..esp + frame
        } else {
            return None;
        };
        for field in &Field::ALL[Field::Eip as usize..=Field::Edi as usize] {
            state[*field] = found[*field];
        }
        if self.real() {
            state[Field::Eflags] &= 0xFFFF;
        } else if !fault.trap {
            // Faults set RF in the image (Intel SDM vol. 3A, section 17.3.1.1).
            state[Field::Eflags] |= flag::RF;
        }
        state[Field::Vector] = vector;
        state[Field::Error] = fault.code.unwrap_or(0);
        Some(Expected {
            state,
            memory: self.memory.clone(),
            frame: frame.start & !3..(frame.end + 3) & !3,
        })
    }
}
