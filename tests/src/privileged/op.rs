//! What the instruction of a case does, as the model of the manual sees it. The bytes are made
//! beside it by [`super::cases`].

use super::Field;

/// A segment register, in encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the registers
pub enum Seg {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

impl Seg {
    /// All, in encoding order.
    pub const ALL: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];

    /// The selector's field.
    #[must_use]
    pub const fn field(self) -> Field {
        match self {
            Seg::Es => Field::Es,
            Seg::Cs => Field::Cs,
            Seg::Ss => Field::Ss,
            Seg::Ds => Field::Ds,
            Seg::Fs => Field::Fs,
            Seg::Gs => Field::Gs,
        }
    }
}

/// How a transfer names its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// JMP.
    Jump,
    /// CALL.
    Call,
}

/// Instructions of the x87, MMX and SSE units, by what they ask of CR0 and CR4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// An x87 instruction that reports pending exceptions (FLD1).
    X87,
    /// An x87 instruction that does not (FNSTSW AX, FNCLEX).
    X87NoWait,
    /// WAIT.
    Wait,
    /// MMX.
    Mmx,
    /// What FXSAVE and FXRSTOR ask for.
    Fxsave,
    /// SSE.
    Sse,
}

/// An instruction. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the instructions
pub enum Op {
    /// Only for CPL 0, and without an effect that can be seen: INVD, WBINVD, INVLPG, HLT.
    Privileged,
    /// No effect: CPUID (whose results are not compared).
    Nothing,
    /// Not an instruction of the processor, or not in this form.
    Undefined,
    /// Not recognized in real and virtual-8086 mode; else as the inner one.
    Cli,
    Sti,
    Pushf {
        size: u32,
    },
    Popf {
        size: u32,
    },
    Iret {
        size: u32,
    },
    /// IN and OUT; memory operands of INS and OUTS are at ES:EDI and DS:ESI.
    In {
        port: u16,
        size: u32,
    },
    Out {
        port: u16,
        size: u32,
    },
    Ins {
        size: u32,
    },
    Outs {
        size: u32,
    },
    /// REP INS and REP OUTS.
    RepIns {
        size: u32,
    },
    RepOuts {
        size: u32,
    },
    /// LGDT and LIDT of the operand at DS:`offset`.
    LoadTable {
        gdt: bool,
        offset: u32,
        wide: bool,
    },
    StoreTable {
        gdt: bool,
        offset: u32,
    },
    /// LLDT, LTR, LMSW of AX.
    Lldt,
    Ltr,
    Lmsw,
    /// SLDT, STR, SMSW to EAX or AX.
    Sldt {
        size: u32,
    },
    Str {
        size: u32,
    },
    Smsw {
        size: u32,
    },
    /// SLDT, STR and SMSW of LDTR, TR and CR0 to DS:`offset`: 16 bits whatever the operand size.
    StoreWord {
        field: Field,
        offset: u32,
    },
    /// LMSW of the word at DS:`offset`.
    LmswMemory {
        offset: u32,
    },
    Clts,
    /// MOV between EAX and a control register.
    ReadCr(u8),
    WriteCr(u8),
    ReadDr(u8),
    WriteDr(u8),
    /// Of the register in ECX. `exists` by the processor's model.
    Rdmsr,
    Wrmsr,
    Rdtsc,
    Rdpmc,
    Sysenter,
    Sysexit,
    /// Of the selector in ECX, to EAX.
    Lar {
        size: u32,
    },
    Lsl {
        size: u32,
    },
    Verr,
    Verw,
    /// ARPL AX, CX.
    Arpl,
    Int(u8),
    Int3,
    Into,
    /// EAX against the bounds at DS:`offset`.
    Bound {
        offset: u32,
        size: u32,
    },
    /// F1.
    Icebp,
    /// MOV of AX to a segment register.
    MovSeg(Seg),
    PopSeg {
        seg: Seg,
        size: u32,
    },
    /// LES and others: to EAX from DS:`offset`.
    LoadFar {
        seg: Seg,
        offset: u32,
        size: u32,
    },
    /// With the pointer in the instruction.
    FarTo {
        how: Far,
        selector: u16,
        offset: u32,
        size: u32,
    },
    RetFar {
        size: u32,
        release: u16,
    },
    /// A load to EAX or a store of EAX, with a segment and an offset of its address size.
    Access {
        seg: Seg,
        offset: u32,
        size: u32,
        write: bool,
    },
    /// PUSH EAX or AX.
    Push {
        size: u32,
    },
    /// POP EAX or AX.
    Pop {
        size: u32,
    },
    Unit(Unit),
    /// FXSAVE to DS:`offset`.
    FxSave {
        offset: u32,
    },
    /// FXRSTOR from DS:`offset`, and FXSAVE to the same place behind it, which shows what was loaded.
    FxRestore {
        offset: u32,
    },
}
