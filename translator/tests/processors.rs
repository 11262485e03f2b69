//! Every instruction of iced's tables on every processor model: it runs, or it is #UD, as the table below says.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{ORIGIN, Ports, encode};
use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};
use shadow_mmu::{Mmu, MmuConfig};
use translator::state::{FxState, Segment, TableRegister, cr4, reg, seg};
use translator::system::CpuModel;
use translator::{CpuState, Exit, Vcpu, VcpuConfig};

/// The first model that has a feature; `None`: no model has it.
///
/// Written from the processors' manuals and not from the code under test.
fn since(feature: CpuidFeature) -> Option<CpuModel> {
    use CpuModel as M;
    use CpuidFeature as F;
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 => Some(M::I486),
        F::FPU | F::FPU287 | F::FPU387 | F::CPUID | F::PAUSE => Some(M::I486),
        F::TSC | F::MSR | F::CX8 | F::MMX | F::RDPMC => Some(M::Pentium),
        F::CMOV | F::SEP | F::FXSR | F::SSE | F::MULTIBYTENOP => Some(M::Pentium3),
        F::SSE2 | F::SSE3 | F::CLFSH => Some(M::CoreDuo),
        _ => None,
    }
}

fn rank(model: CpuModel) -> usize {
    CpuModel::ALL.iter().position(|&m| m == model).unwrap()
}

/// True when `model` runs the bytes that iced's newest processors call `code`.
fn runs(model: CpuModel, code: Code) -> bool {
    let first = match code.mnemonic() {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => None,
        // A prefix that had no meaning yet, in front of BSF, BSR and WBINVD.
        Mnemonic::Tzcnt | Mnemonic::Lzcnt | Mnemonic::Wbnoinvd => Some(CpuModel::I486),
        // 0F 18 to 0F 1F were all hints.
        Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchit0
        | Mnemonic::Prefetchit1
        | Mnemonic::Cldemote
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64
        | Mnemonic::Rdsspd => Some(CpuModel::Pentium3),
        _ if matches!(
            code,
            Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D
        ) =>
        {
            None
        }
        _ => code
            .cpuid_features()
            .iter()
            .map(|&feature| since(feature))
            .max_by_key(|first| first.map_or(usize::MAX, rank))
            .flatten(),
    };
    first.is_some_and(|first| rank(model) >= rank(first))
}

const IDT: u32 = 0x2000;
const GDT: u32 = 0x1800;
const HANDLERS: u32 = 0x8000;
const BUFFER: u32 = 0x20_0000;

struct Machine {
    mmu: Mmu,
    vcpu: Vcpu,
    ports: Ports,
    model: CpuModel,
}

impl Machine {
    fn new(model: CpuModel) -> Machine {
        let mut mmu = Mmu::new(MmuConfig {
            ram_bytes: 4 << 20,
            ..MmuConfig::default()
        })
        .unwrap();
        let vcpu = Vcpu::new(VcpuConfig {
            strict: true,
            model,
            ..VcpuConfig::default()
        })
        .unwrap();
        for (number, entry) in [0, 0x00CF_9B00_0000_FFFFu64, 0x00CF_9300_0000_FFFF]
            .into_iter()
            .enumerate()
        {
            mmu.write_phys(u64::from(GDT) + 8 * number as u64, &entry.to_le_bytes())
                .unwrap();
        }
        for vector in 0..256 {
            let handler = HANDLERS + vector * 16;
            let gate = u64::from(handler & 0xFFFF) | 8 << 16 | 0x8E << 40;
            mmu.write_phys(u64::from(IDT + vector * 8), &gate.to_le_bytes())
                .unwrap();
        }
        Machine {
            mmu,
            vcpu,
            ports: Ports::default(),
            model,
        }
    }

    /// Runs one instruction at CPL 0; true unless it is #UD.
    fn runs(&mut self, bytes: &[u8], cr4: u32) -> bool {
        let mut code = bytes.to_vec();
        code.resize(16, 0xF4);
        self.mmu.write_phys(u64::from(ORIGIN), &code).unwrap();
        let mut cpu = CpuState::reset(self.model.signature());
        cpu.cr0 = 0x21; // PE, NE
        cpu.cr4 = cr4 & self.model.cr4_bits();
        cpu.seg = [Segment::flat(0x10, false, 0); 6];
        cpu.seg[seg::CS] = Segment::flat(8, true, 0);
        cpu.gdtr = TableRegister {
            base: GDT,
            limit: 23,
        };
        cpu.idtr = TableRegister {
            base: IDT,
            limit: 0x7FF,
        };
        cpu.eip = ORIGIN;
        cpu.gpr = [0; 8];
        cpu.gpr[reg::ESP] = 0x7000;
        cpu.gpr[reg::EBX] = BUFFER;
        cpu.fpu = FxState::initial();
        *self.vcpu.state_mut() = cpu;
        self.vcpu.sync_paging(&mut self.mmu);
        let exit = self.vcpu.step(&mut self.mmu, &mut self.ports);
        if let Exit::Untranslated { what, .. } = exit {
            panic!("{} {bytes:02x?}: {what}", self.model);
        }
        self.vcpu.state().eip != HANDLERS + 6 * 16
    }
}

/// The opcodes that 16- and 32-bit code can have, with the bytes of each form that can be encoded.
fn opcodes() -> impl Iterator<Item = (Code, Vec<u8>)> {
    Code::values()
        .filter(|code| {
            let op = code.op_code();
            // Codes that the decoder gives on request only are other makers' meanings of the bytes.
            op.is_instruction()
                && (op.mode16() || op.mode32())
                && op.decoder_option() == 0
                && !op.fwait()
                && *code != Code::Popw_CS // 0F, the first byte of all that came after the 8086
        })
        .flat_map(|code| {
            let forms = [true, false].map(|memory| encode::encode(code, ORIGIN, memory));
            let [memory, register] = forms;
            let register = register.filter(|bytes| Some(bytes) != memory.as_ref());
            memory.into_iter().chain(register).map(move |b| (code, b))
        })
}

#[test]
fn every_instruction_runs_or_is_undefined_on_every_model() {
    let mut tested = BTreeSet::new();
    let mut count = BTreeMap::new();
    for model in CpuModel::ALL {
        let mut machine = Machine::new(model);
        for (code, bytes) in opcodes() {
            let expected = runs(model, code);
            let ran = machine.runs(&bytes, cr4::OSFXSR | cr4::OSXMMEXCPT);
            assert_eq!(ran, expected, "{model}: {code:?} {bytes:02x?}");
            tested.extend(code.cpuid_features().iter().map(|&f| f as u32));
            *count.entry(code.encoding() as u32).or_insert(0) += 1;
        }
    }
    // Nothing slipped through the encoder: each feature that 32-bit code can have is there.
    let missing: Vec<CpuidFeature> = Code::values()
        .filter(|code| {
            let op = code.op_code();
            op.is_instruction() && (op.mode16() || op.mode32()) && op.decoder_option() == 0
        })
        .flat_map(|code| code.cpuid_features().iter().copied())
        .filter(|&feature| feature != CpuidFeature::INTEL8086_ONLY)
        .filter(|&feature| !tested.contains(&(feature as u32)))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    for kind in [
        EncodingKind::Legacy,
        EncodingKind::VEX,
        EncodingKind::EVEX,
        EncodingKind::XOP,
        EncodingKind::D3NOW,
    ] {
        assert!(count[&(kind as u32)] > 50, "{kind:?}");
    }
}

#[test]
fn xmm_registers_need_cr4_osfxsr() {
    let mut machine = Machine::new(CpuModel::CoreDuo);
    let mut undefined = 0;
    for (code, bytes) in opcodes().filter(|&(code, _)| runs(CpuModel::CoreDuo, code)) {
        let op = code.op_code();
        let xmm = op.op_kinds().iter().any(|kind| {
            let name = format!("{kind:?}");
            name.starts_with("xmm")
        });
        let mxcsr = matches!(code, Code::Ldmxcsr_m32 | Code::Stmxcsr_m32);
        assert_eq!(machine.runs(&bytes, 0), !(xmm || mxcsr), "{code:?}");
        undefined += usize::from(xmm || mxcsr);
    }
    assert!(undefined > 150, "{undefined}");
}

/// What a program sees of a prefix that a later processor gives a meaning, and the host is one.
#[test]
fn prefixes_of_later_processors_mean_nothing() {
    let mut machine = Machine::new(CpuModel::CoreDuo);
    // rep bsf ecx, eax with EAX = 0 leaves ECX alone on every processor; TZCNT would set it to 32. rep bsr of 1 is 0;
    // LZCNT would be 31.
    for (bytes, source, expected) in [
        ([0xF3, 0x0F, 0xBC, 0xC8], 0, 0x55),
        ([0xF3, 0x0F, 0xBD, 0xC8], 1, 0),
        ([0xF3, 0x0F, 0xBD, 0xC8], 0x8000_0000, 31),
    ] {
        machine.runs(&[0x90], 0);
        machine.mmu.write_phys(u64::from(ORIGIN), &bytes).unwrap();
        let cpu = machine.vcpu.state_mut();
        cpu.eip = ORIGIN;
        cpu.gpr[reg::EAX] = source;
        cpu.gpr[reg::ECX] = 0x55;
        machine.vcpu.step(&mut machine.mmu, &mut machine.ports);
        assert_eq!(machine.vcpu.state().gpr[reg::ECX], expected, "{bytes:02x?}");
    }
}

/// LES, LDS and BOUND of a register, and POP with an opcode extension, are complete with two bytes: what follows is not
/// fetched, where a processor with AVX would read on.
#[test]
fn undefined_starts_of_vex_are_not_read_on() {
    for bytes in [[0xC4, 0xE2], [0xC5, 0xF8], [0x62, 0xF1], [0x8F, 0xE8]] {
        let mut machine = Machine::new(CpuModel::CoreDuo);
        machine.runs(&[0x90], 0);
        let last = 0x9_FFFE; // device memory follows
        machine.mmu.write_phys(last, &bytes).unwrap();
        let devices = 0xA_0000..0xC_0000;
        machine
            .mmu
            .set_range(
                devices.start,
                devices.end - devices.start,
                shadow_mmu::RangeKind::Device,
            )
            .unwrap();
        machine.vcpu.state_mut().eip = last as u32;
        machine.vcpu.step(&mut machine.mmu, &mut machine.ports);
        assert_eq!(machine.vcpu.state().eip, HANDLERS + 6 * 16, "{bytes:02x?}");
        assert_eq!(machine.ports.largest_read, 0, "{bytes:02x?}");
    }
}
