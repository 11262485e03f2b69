//! Exceptions and interrupts as values, and how two of them combine.

use shadow_mmu::PageFault;

/// Vectors of the exceptions (Intel SDM vol. 3A, table 6-1).
#[allow(missing_docs)] // the names are the SDM's mnemonics
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// Bits of the error code that names a selector (Intel SDM vol. 3A, section 6.13).
pub(super) mod code {
    /// EXT: the event was not the program's own doing.
    pub(crate) const EXT: u32 = 1 << 0;
    /// IDT: the index is one of a gate in the IDT.
    pub(crate) const IDT: u32 = 1 << 1;
}

/// Where an event comes from: what decides the pushed EIP, RF, the EXT bit and the privilege check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A fault: EIP is that of the instruction, which runs again after the handler.
    Fault,
    /// A trap: EIP is already that of the next instruction.
    Trap,
    /// INT n, INT3 or INTO: the gate's DPL is checked.
    Software {
        /// Offset of the instruction after it.
        next_eip: u32,
    },
    /// INT1 (F1h): as [`EventKind::Software`], but the gate's DPL is not checked and EXT is set (Intel SDM vol.
    /// 2A, "INT n/INTO/INT3/INT1", in editions from 2018 on).
    Icebp {
        /// Offset of the instruction after it.
        next_eip: u32,
    },
    /// From the interrupt wire.
    External,
    /// From the NMI wire.
    Nmi,
}

/// An exception or interrupt, to be delivered through the IDT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Index into the IDT.
    pub vector: u8,
    /// The error code to push, if this vector has one. Never pushed in real mode.
    pub error_code: Option<u32>,
    /// #PF: the new CR2.
    pub cr2: Option<u32>,
    /// #DB: the bits to set in DR6.
    pub dr6: u32,
    /// Where it comes from.
    pub kind: EventKind,
}

/// How an exception combines with a second one (Intel SDM vol. 3A, table 6-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
}

/// What follows when delivering one event raises another (Intel SDM vol. 3A, table 6-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combined {
    /// Deliver the second one.
    Serial,
    /// Deliver a double fault.
    DoubleFault,
    /// Shut down.
    Shutdown,
}

impl Exception {
    /// A fault without an error code.
    pub const fn fault(vector: u8) -> Exception {
        Exception {
            vector,
            error_code: None,
            cr2: None,
            dr6: 0,
            kind: EventKind::Fault,
        }
    }

    /// A fault with an error code.
    pub const fn fault_with_code(vector: u8, error_code: u32) -> Exception {
        Exception {
            error_code: Some(error_code),
            ..Exception::fault(vector)
        }
    }

    /// #UD.
    pub const fn invalid_opcode() -> Exception {
        Exception::fault(vector::UD)
    }

    /// #GP(0).
    pub const fn general_protection() -> Exception {
        Exception::fault_with_code(vector::GP, 0)
    }

    /// #SS(0).
    pub const fn stack_fault() -> Exception {
        Exception::fault_with_code(vector::SS, 0)
    }

    /// A fault whose error code names `selector` (its RPL is left out).
    pub(super) const fn selector(vector: u8, selector: u16) -> Exception {
        Exception::fault_with_code(vector, selector as u32 & 0xFFFC)
    }

    /// #DB as a trap (single step, data breakpoint, TSS T bit); `dr6` has the bits to set in DR6.
    pub const fn debug_trap(dr6: u32) -> Exception {
        Exception {
            dr6,
            kind: EventKind::Trap,
            ..Exception::fault(vector::DB)
        }
    }

    /// #DB as a fault (instruction breakpoint, general detect).
    pub const fn debug_fault(dr6: u32) -> Exception {
        Exception {
            dr6,
            ..Exception::fault(vector::DB)
        }
    }

    /// An interrupt from the wire.
    pub const fn external(vector: u8) -> Exception {
        Exception {
            kind: EventKind::External,
            ..Exception::fault(vector)
        }
    }

    /// A non-maskable interrupt.
    pub const fn nmi() -> Exception {
        Exception {
            kind: EventKind::Nmi,
            ..Exception::fault(vector::NMI)
        }
    }

    /// INT n, INT3 or INTO.
    pub const fn software(vector: u8, next_eip: u32) -> Exception {
        Exception {
            kind: EventKind::Software { next_eip },
            ..Exception::fault(vector)
        }
    }

    /// The event does not come from an INT n, INT3 or INTO.
    pub(super) const fn is_external_to_program(&self) -> bool {
        !matches!(self.kind, EventKind::Software { .. })
    }

    fn class(&self) -> Class {
        match (self.kind, self.vector) {
            (EventKind::Fault, vector::DE | vector::TS..=vector::GP) => Class::Contributory,
            (EventKind::Fault, vector::PF) => Class::PageFault,
            _ => Class::Benign,
        }
    }

    /// The outcome when delivery of `self` raises `second`.
    pub(super) fn combine(&self, second: &Exception) -> Combined {
        if self.vector == vector::DF && self.kind == EventKind::Fault {
            return Combined::Shutdown;
        }
        match (self.class(), second.class()) {
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => Combined::DoubleFault,
            _ => Combined::Serial,
        }
    }
}

impl From<PageFault> for Exception {
    fn from(fault: PageFault) -> Exception {
        Exception {
            cr2: Some(fault.linear),
            ..Exception::fault_with_code(vector::PF, fault.code.bits())
        }
    }
}

/// The processor has shut down: an exception was raised while a double fault was being delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("triple fault: the processor shut down")]
pub struct Shutdown;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_those_of_table_6_5() {
        let pf = Exception::fault_with_code(vector::PF, 0);
        let gp = Exception::general_protection();
        let ud = Exception::invalid_opcode();
        let de = Exception::fault(vector::DE);
        let df = Exception::fault_with_code(vector::DF, 0);
        let int13 = Exception::software(13, 0);
        let irq14 = Exception::external(14);
        for (first, second, expected) in [
            (ud, gp, Combined::Serial),
            (ud, pf, Combined::Serial),
            (gp, gp, Combined::DoubleFault),
            (de, gp, Combined::DoubleFault),
            (gp, pf, Combined::Serial),
            (gp, ud, Combined::Serial),
            (pf, pf, Combined::DoubleFault),
            (pf, gp, Combined::DoubleFault),
            (pf, ud, Combined::Serial),
            (df, gp, Combined::Shutdown),
            (df, pf, Combined::Shutdown),
            (int13, gp, Combined::Serial),
            (irq14, pf, Combined::Serial),
        ] {
            assert_eq!(first.combine(&second), expected, "{first:?} {second:?}");
        }
    }
}
