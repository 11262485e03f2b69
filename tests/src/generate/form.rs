//! What there is to test: the forms of the instructions of a processor.

use super::operand::{Bank, Operand};
use crate::native::stage::Environment;
use iced_x86::{Code, CpuidFeature, EncodingKind, MemorySize, Mnemonic};
use std::fmt;

/// A processor, as a set of iced's features.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    /// Its name in reports.
    pub name: &'static str,
    /// The features that it has.
    pub features: &'static [CpuidFeature],
}

/// The processor that the translator claims to be by default, without MONITOR and MWAIT, which it does not announce.
pub const CORE_DUO: Processor = Processor {
    name: "Core Duo",
    features: &[
        CpuidFeature::INTEL8086,
        CpuidFeature::INTEL186,
        CpuidFeature::INTEL286,
        CpuidFeature::INTEL386,
        CpuidFeature::INTEL486,
        CpuidFeature::FPU,
        CpuidFeature::FPU287,
        CpuidFeature::FPU387,
        CpuidFeature::CLFSH,
        CpuidFeature::CMOV,
        CpuidFeature::CPUID,
        CpuidFeature::CX8,
        CpuidFeature::FXSR,
        CpuidFeature::MMX,
        CpuidFeature::MSR,
        CpuidFeature::MULTIBYTENOP,
        CpuidFeature::PAUSE,
        CpuidFeature::RDPMC,
        CpuidFeature::SEP,
        CpuidFeature::SMM,
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::TSC,
    ],
};

impl Processor {
    /// True for an instruction that the processor has in 16- or 32-bit code. Codes that iced decodes
    /// only on request are other processors' meanings of the same bytes.
    pub fn has(&self, code: Code) -> bool {
        let info = code.op_code();
        info.is_instruction()
            && (info.mode16() || info.mode32())
            && info.decoder_option() == 0
            && code.encoding() == EncodingKind::Legacy
            && code
                .cpuid_features()
                .iter()
                .all(|f| self.features.contains(f))
            && !is_second_name(code)
    }
}

/// True for names that iced never gives to any bytes: WAIT with another instruction (FSTENV, FSAVE, ...),
/// whose halves have their own codes; UD0 without operands; and the memory forms of 0F 0D, which are
/// prefetch instructions.
fn is_second_name(code: Code) -> bool {
    code.op_code().fwait()
        || matches!(
            code,
            Code::Ud0 | Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D
        )
}

/// How the memory operand of a form is addressed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// `[base]`
    Base,
    /// `[base+disp8]`
    BaseDisp8,
    /// `[base+disp32]`
    BaseDisp32,
    /// `[index*scale+disp32]`
    Index,
    /// `[base+index*scale]`
    BaseIndex,
    /// `[base+index*scale+disp8]`
    BaseIndexDisp8,
    /// `[base+index*scale+disp32]`
    BaseIndexDisp32,
    /// `[disp32]`
    Absolute,
    /// `[esp+disp]`
    Stack,
    /// `[ebp+disp]`
    Frame,
    /// `[bx]`, `[si]`, `[di]`
    Base16,
    /// The same with a displacement.
    Base16Disp,
    /// `[bx+si]`, `[bx+di]`, `[bp+si]`, `[bp+di]`
    Pair16,
    /// The same with a displacement.
    Pair16Disp,
    /// `[bp+disp]`
    Frame16,
    /// `[disp16]`
    Absolute16,
    /// Implied by the instruction: strings, XLAT, MASKMOVQ; 32-bit addresses.
    Implied,
    /// The same with 16-bit addresses.
    Implied16,
}

impl Address {
    /// Every way to write a memory operand.
    pub(super) const EXPLICIT: [Address; 16] = [
        Address::Base,
        Address::BaseDisp8,
        Address::BaseDisp32,
        Address::Index,
        Address::BaseIndex,
        Address::BaseIndexDisp8,
        Address::BaseIndexDisp32,
        Address::Absolute,
        Address::Stack,
        Address::Frame,
        Address::Base16,
        Address::Base16Disp,
        Address::Pair16,
        Address::Pair16Disp,
        Address::Frame16,
        Address::Absolute16,
    ];

    /// Width of the address in bits.
    pub fn bits(self) -> u32 {
        match self {
            Address::Base16
            | Address::Base16Disp
            | Address::Pair16
            | Address::Pair16Disp
            | Address::Frame16
            | Address::Absolute16
            | Address::Implied16 => 16,
            _ => 32,
        }
    }

    /// True for the forms to test in an environment: all of its own address size, and samples of the
    /// other one, which differs only by the address-size prefix.
    fn belongs_to(self, environment: Environment) -> bool {
        let sample = match environment {
            Environment::Flat32 => [Address::Base16, Address::Pair16Disp, Address::Absolute16],
            Environment::Segmented16 => {
                [Address::BaseDisp8, Address::BaseIndexDisp32, Address::Stack]
            }
        };
        self.bits() == environment.bitness() || sample.contains(&self)
    }
}

/// A prefix that changes what an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Prefix {
    /// None (segment overrides are chosen at random).
    None,
    /// LOCK.
    Lock,
    /// REP or REPE.
    Rep,
    /// REPNE.
    Repne,
}

/// One thing to test.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Form {
    /// The instruction.
    pub code: Code,
    /// Where it runs.
    pub environment: Environment,
    /// Its memory operand, if it has one.
    pub address: Option<Address>,
    /// Its prefix.
    pub prefix: Prefix,
}

impl Form {
    /// True for instructions that work with selectors or with flags that only ring 0 can change: they do
    /// something else at another privilege level or in real mode.
    pub fn depends_on_mode(&self) -> bool {
        let info = self.code.op_code();
        let operands = info.op_kinds().iter().map(|kind| Operand::of(*kind));
        let names_selector = operands.into_iter().any(|operand| match operand {
            Operand::Register(Bank::Segment) => true,
            Operand::Fixed(register) => register.is_segment_register(),
            _ => false,
        });
        let pointer = matches!(
            info.memory_size(),
            MemorySize::SegPtr16 | MemorySize::SegPtr32
        );
        names_selector
            || pointer
            || matches!(
                self.code.mnemonic(),
                Mnemonic::Popf
                    | Mnemonic::Popfd
                    | Mnemonic::Lar
                    | Mnemonic::Lsl
                    | Mnemonic::Verr
                    | Mnemonic::Verw
                    | Mnemonic::Arpl
            )
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.code, self.environment)?;
        if let Some(address) = self.address {
            write!(f, "/{address:?}")?;
        }
        if self.prefix != Prefix::None {
            write!(f, "/{:?}", self.prefix)?;
        }
        Ok(())
    }
}

/// Every form of the processor, in the order of iced's tables.
pub fn forms(processor: &Processor) -> Vec<Form> {
    let codes = Code::values().filter(|code| processor.has(*code));
    codes.flat_map(forms_of).collect()
}

fn forms_of(code: Code) -> Vec<Form> {
    let info = code.op_code();
    let mut forms = Vec::new();
    for environment in Environment::ALL {
        if !info.is_available_in_mode(environment.bitness()) {
            continue;
        }
        let plain = |address| Form {
            code,
            environment,
            address,
            prefix: Prefix::None,
        };
        let addresses = addresses_of(code, environment);
        forms.extend(addresses.iter().copied().map(plain));
        // A memory operand makes LOCK legal; two addresses are enough for a prefix.
        if info.can_use_lock_prefix() {
            let memory = addresses.iter().filter(|address| address.is_some());
            forms.extend(memory.take(2).map(|address| Form {
                prefix: Prefix::Lock,
                ..plain(*address)
            }));
        }
        for (possible, prefix) in [
            (info.can_use_rep_prefix(), Prefix::Rep),
            (info.can_use_repne_prefix(), Prefix::Repne),
        ] {
            let repeats = possible && addresses.contains(&Some(Address::Implied));
            forms.extend(addresses.iter().filter(|_| repeats).map(|address| Form {
                prefix,
                ..plain(*address)
            }));
        }
    }
    forms
}

/// The addresses that a code can have; `None` stands for the form without memory operand.
fn addresses_of(code: Code, environment: Environment) -> Vec<Option<Address>> {
    let kinds = code.op_code().op_kinds();
    let operands: Vec<Operand> = kinds.iter().map(|kind| Operand::of(*kind)).collect();
    if operands.iter().any(|o| o.is_implied_memory()) {
        return vec![Some(Address::Implied), Some(Address::Implied16)];
    }
    if operands.contains(&Operand::MemoryOffset) {
        return vec![Some(Address::Absolute), Some(Address::Absolute16)];
    }
    let mut addresses = Vec::new();
    if !operands.contains(&Operand::Memory) {
        addresses.push(None);
    }
    if operands.iter().any(|o| o.may_be_memory()) {
        let own = Address::EXPLICIT
            .iter()
            .filter(|a| a.belongs_to(environment));
        addresses.extend(own.copied().map(Some));
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_cover_both_environments_and_every_address() {
        let forms = forms(&CORE_DUO);
        let of = |code: Code| forms.iter().filter(move |form| form.code == code);
        for address in Address::EXPLICIT {
            let found = of(Code::Add_rm32_r32).filter(|form| form.address == Some(address));
            assert!(found.count() >= 1, "{address:?}");
        }
        assert!(of(Code::Add_rm32_r32).any(|form| form.address.is_none()));
        assert!(of(Code::Add_rm32_r32).any(|form| form.prefix == Prefix::Lock));
        assert!(of(Code::Cmpsb_m8_m8).any(|form| form.prefix == Prefix::Repne));
        assert!(of(Code::Lea_r32_m).all(|form| form.address.is_some()));
        for code in [Code::Addpd_xmm_xmmm128, Code::Lddqu_xmm_m128, Code::Pause] {
            assert!(of(code).count() > 0, "{code:?}");
        }
        assert_eq!(of(Code::Pshufb_xmm_xmmm128).count(), 0);
        assert_eq!(of(Code::Add_rm64_r64).count(), 0);
    }
}
