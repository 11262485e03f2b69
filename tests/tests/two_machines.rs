//! Two machines in one process whose guest-physical pages hold different things at the same addresses,
//! code included. They run in turns and must not see each other.

use ringshift_tests::open_bus::OpenBus;
use shadow_mmu::{Mmu, MmuConfig};
use translator::state::{Segment, cr0, seg};
use translator::{CpuState, Exit, RunLimits, Vcpu, VcpuConfig};

const CODE: u32 = 0x1000;
const SUM: u32 = 0x2000;
const DATA: u32 = 0x3000;
const WORDS: u32 = 256;
/// Address of the count of the ROL, which each round changes: code that modifies itself.
const ROTATE: u32 = 0x1010;

/// Sums the data, rotating in between; adds the result to SUM; changes itself; halts.
const PROGRAM: [u8; 37] = [
    0xBE, 0x00, 0x30, 0x00, 0x00, // mov esi, DATA
    0xB9, 0x00, 0x01, 0x00, 0x00, // mov ecx, WORDS
    0x31, 0xC0, // xor eax, eax
    0x03, 0x06, // next: add eax, [esi]
    0xC1, 0xC0, 0x00, // rol eax, count
    0x83, 0xC6, 0x04, // add esi, 4
    0xE2, 0xF6, // loop next
    0x01, 0x05, 0x00, 0x20, 0x00, 0x00, // add [SUM], eax
    0xFE, 0x05, 0x10, 0x10, 0x00, 0x00, // inc byte [ROTATE]
    0xF4, // hlt
    0xEB, 0xDB, // jmp start
];

/// A machine, and what its program must compute.
struct Machine {
    vcpu: Vcpu,
    mmu: Mmu,
    data: Vec<u32>,
    rotate: u8,
    sum: u32,
}

impl Machine {
    fn new(seed: u32, rotate: u8) -> Self {
        let mut mmu = Mmu::new(MmuConfig {
            ram_bytes: 1 << 20,
            ..MmuConfig::default()
        })
        .expect("guest memory");
        let data: Vec<u32> = (0..WORDS)
            .map(|i| (i + 1).wrapping_mul(seed).rotate_left(i % 32))
            .collect();
        let mut program = PROGRAM;
        program[(ROTATE - CODE) as usize] = rotate;
        let bytes: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
        mmu.write_phys(u64::from(CODE), &program).expect("RAM");
        mmu.write_phys(u64::from(DATA), &bytes).expect("RAM");
        let mut vcpu = Vcpu::new(VcpuConfig {
            strict: true,
            cache_bytes: 4 << 20,
            ..VcpuConfig::default()
        })
        .expect("a vCPU");
        let mut state = CpuState::reset(0);
        state.cr0 = cr0::PE | cr0::ET | cr0::NE;
        state.seg = [Segment::flat(0x10, false, 0); 6];
        state.seg[seg::CS] = Segment::flat(0x08, true, 0);
        state.eip = CODE;
        *vcpu.state_mut() = state;
        vcpu.sync_paging(&mut mmu);
        Machine {
            vcpu,
            mmu,
            data,
            rotate,
            sum: 0,
        }
    }

    /// The same round on the host.
    fn expect_round(&mut self) {
        let round = self.data.iter().fold(0u32, |sum, word| {
            sum.wrapping_add(*word).rotate_left(u32::from(self.rotate))
        });
        self.sum = self.sum.wrapping_add(round);
        self.rotate = self.rotate.wrapping_add(1);
    }

    fn run_round(&mut self) {
        loop {
            let limits = RunLimits::default();
            match self
                .vcpu
                .run(&mut self.mmu, &mut OpenBus::default(), limits)
            {
                Exit::Halted => return,
                Exit::Kicked | Exit::Budget | Exit::Decide => {}
                other => panic!("the guest left with {other:?}"),
            }
        }
    }

    fn word(&self, address: u32) -> u32 {
        let mut bytes = [0; 4];
        self.mmu
            .read_phys(u64::from(address), &mut bytes)
            .expect("RAM");
        u32::from_le_bytes(bytes)
    }

    fn check(&self) {
        assert_eq!(self.word(SUM), self.sum);
        assert_eq!(self.word(ROTATE) as u8, self.rotate);
        for (address, word) in (DATA..).step_by(4).zip(&self.data) {
            assert_eq!(self.word(address), *word);
        }
    }
}

#[test]
fn two_machines_in_turns() {
    let mut machines = [Machine::new(0x9E37_79B9, 5), Machine::new(0x85EB_CA6B, 11)];
    for _ in 0..100 {
        for machine in &mut machines {
            machine.run_round();
            machine.expect_round();
        }
        machines.iter().for_each(Machine::check);
    }
    assert_ne!(machines[0].sum, machines[1].sum);
}

#[test]
fn two_machines_instruction_by_instruction() {
    let mut machines = [Machine::new(0x9E37_79B9, 5), Machine::new(0x85EB_CA6B, 11)];
    for _ in 0..3 {
        let mut halted = [false; 2];
        while halted != [true; 2] {
            for (machine, halted) in machines.iter_mut().zip(&mut halted) {
                if !*halted {
                    match machine.vcpu.step(&mut machine.mmu, &mut OpenBus::default()) {
                        Exit::Halted => *halted = true,
                        Exit::Kicked | Exit::Budget | Exit::Decide => {}
                        other => panic!("the guest left with {other:?}"),
                    }
                }
            }
        }
        machines.iter_mut().for_each(Machine::expect_round);
        machines.iter().for_each(Machine::check);
    }
}
