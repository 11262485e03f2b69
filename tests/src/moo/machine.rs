//! A machine in real mode that runs recorded instructions.

use super::{Case, Register, State};
use crate::open_bus::OpenBus;
use shadow_mmu::{Mmu, MmuConfig, MmuError, RangeKind};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use translator::state::{CpuState, Segment, cr0, eflags, reg, seg};
use translator::{Exit, RunLimits, Vcpu, VcpuConfig, VcpuError};

/// Memory of the machine that the recordings were made on: all that 24 address lines reach.
const MEMORY: u64 = 16 << 20;
/// Real mode reaches no further: FFFFh:FFFFh and the rest of a page.
const REACHED: usize = 0x11_0000;
/// What the upper halves of the general registers hold: 16-bit code must not change or use them.
const UPPER: u32 = 0x5A5A_0000;
/// FLAGS bits that exist in real mode on the 80286; IOPL and NT are not visible there.
const FLAGS: u16 = 0x0FFF;
/// How often the watchdog looks.
const PERIOD: Duration = Duration::from_millis(50);
/// Periods after which an instruction counts as endless.
const PATIENCE: u32 = 4;

/// Most steps that an instruction and its HLT take: a repeated one advances by many iterations in
/// each.
const STEPS: u32 = 200;

/// How a case is run; each way has host code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As guests run: the instruction and the HLT behind it make up a unit.
    Run,
    /// One instruction at a time.
    Step,
    /// As `Run`, with all memory that the case touches traced, so that each write to it is carried
    /// out by the monitor.
    Traced,
    /// In virtual-8086 mode with IOPL 3. HLT raises an exception there, for which there is no
    /// interrupt table, so that the processor shuts down in front of it.
    Virtual8086,
}

impl Manner {
    /// All of them.
    pub const ALL: [Manner; 4] = [
        Manner::Run,
        Manner::Step,
        Manner::Traced,
        Manner::Virtual8086,
    ];
}

/// Where the general registers of a recording are in `CpuState::gpr`.
const GENERAL: [(Register, usize); 8] = [
    (Register::Ax, reg::EAX),
    (Register::Bx, reg::EBX),
    (Register::Cx, reg::ECX),
    (Register::Dx, reg::EDX),
    (Register::Sp, reg::ESP),
    (Register::Bp, reg::EBP),
    (Register::Si, reg::ESI),
    (Register::Di, reg::EDI),
];

const SEGMENTS: [(Register, usize); 4] = [
    (Register::Cs, seg::CS),
    (Register::Ss, seg::SS),
    (Register::Ds, seg::DS),
    (Register::Es, seg::ES),
];

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] MmuError),
    /// Its processor.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
}

/// How an outcome differs from the recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The run ended in another way than at a HLT.
    Ended(String),
    /// A register.
    Register {
        /// Which.
        register: Register,
        /// By the recording.
        expected: u32,
        /// What it holds.
        found: u32,
    },
    /// A byte of memory.
    Memory {
        /// Guest-physical address.
        address: u32,
        /// By the recording.
        expected: u8,
        /// What it holds.
        found: u8,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Ended(how) => write!(f, "ended by {how}"),
            Difference::Register {
                register,
                expected,
                found,
            } => write!(f, "{register:?} {found:04x} for {expected:04x}"),
            Difference::Memory {
                address,
                expected,
                found,
            } => write!(f, "[{address:05x}] {found:02x} for {expected:02x}"),
        }
    }
}

/// A vCPU and 16 MiB of memory, all zero between cases.
pub struct Machine {
    mmu: Mmu,
    vcpu: Vcpu,
    done: Arc<AtomicBool>,
    watchdog: Option<JoinHandle<()>>,
}

impl Machine {
    /// A machine.
    ///
    /// # Errors
    ///
    /// When the host has no memory for it.
    pub fn new() -> Result<Machine, MachineError> {
        let mut mmu = Mmu::new(MmuConfig {
            ram_bytes: MEMORY,
            ..MmuConfig::default()
        })?;
        mmu.set_range(0xA_0000, 0x6_0000, RangeKind::Ram)?;
        let vcpu = Vcpu::new(VcpuConfig::default())?;
        let done = Arc::new(AtomicBool::new(false));
        let (kicker, stop) = (vcpu.kicker(), done.clone());
        let watchdog = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                thread::park_timeout(PERIOD);
                kicker.kick();
            }
        });
        Ok(Machine {
            mmu,
            vcpu,
            done,
            watchdog: Some(watchdog),
        })
    }

    /// Runs `case` up to the HLT and says what differs from the recording. Flags outside
    /// `defined_flags` are not compared, neither in the register nor where an exception has pushed
    /// them. With `everywhere`, all other memory is searched for stray writes as well.
    pub fn run(
        &mut self,
        case: &Case,
        manner: Manner,
        defined_flags: u16,
        everywhere: bool,
    ) -> Vec<Difference> {
        self.write(&case.initial.memory);
        if manner == Manner::Traced {
            for &(address, _) in &case.expected.memory {
                self.mmu.trace_code(address >> 12);
            }
        }
        *self.vcpu.state_mut() = Self::initial_state(case);
        let end = if manner == Manner::Virtual8086 {
            Self::enter_virtual_8086(self.vcpu.state_mut());
            Exit::Shutdown
        } else {
            Exit::Halted
        };
        self.vcpu.sync_paging(&mut self.mmu);
        let exit = match manner {
            Manner::Step => self.step_until_halted(),
            Manner::Run | Manner::Traced | Manner::Virtual8086 => self.until_halted(),
        };
        let mut differences = Vec::new();
        if exit != end {
            differences.push(Difference::Ended(exit.to_string()));
        }
        if exit == Exit::Shutdown {
            // As if the HLT had been executed.
            let eip = &mut self.vcpu.state_mut().eip;
            *eip = eip.wrapping_add(1);
        }
        self.compare_registers(case, defined_flags & FLAGS, &mut differences);
        self.compare_memory(case, defined_flags & FLAGS, &mut differences);
        if everywhere {
            for (address, found) in self.stray() {
                differences.push(Difference::Memory {
                    address,
                    expected: 0,
                    found,
                });
            }
        }
        differences
    }

    /// Host code for the instruction that ran last, for reports.
    #[must_use]
    pub fn listing(&self, case: &Case) -> String {
        let linear = |register| u32::from(case.initial.get(register).unwrap_or_default());
        let address = (linear(Register::Cs) << 4) + linear(Register::Ip);
        self.vcpu.unit_listing(address).unwrap_or_default()
    }

    /// Bytes of memory that are not zero, and cleared by this: what a case has written where the
    /// processor did not.
    pub fn stray(&mut self) -> Vec<(u32, u8)> {
        let mut memory = vec![0; REACHED];
        if self.mmu.read_phys(0, &mut memory).is_err() {
            return Vec::new();
        }
        let dirty = (0u32..).zip(memory).filter(|&(_, byte)| byte != 0);
        let dirty: Vec<(u32, u8)> = dirty.collect();
        for &(address, _) in &dirty {
            self.write(&[(address, 0)]);
        }
        dirty
    }

    fn initial_state(case: &Case) -> CpuState {
        let get = |register| case.initial.get(register).unwrap_or_default();
        let mut cpu = CpuState::reset(0);
        for (register, index) in GENERAL {
            cpu.gpr[index] = UPPER | u32::from(get(register));
        }
        for (register, index) in SEGMENTS {
            cpu.seg[index] = Segment::real(get(register));
        }
        cpu.eip = get(Register::Ip).into();
        cpu.eflags = u32::from(get(Register::Flags) & FLAGS | 2);
        cpu.idtr.limit = 0x3FF;
        cpu
    }

    fn enter_virtual_8086(cpu: &mut CpuState) {
        cpu.cr0 |= cr0::PE;
        cpu.eflags |= eflags::VM | eflags::IOPL;
        cpu.cpl = 3;
        cpu.idtr.limit = 0;
        for segment in &mut cpu.seg {
            segment.rights = segment.rights.with_dpl(3);
        }
    }

    fn until_halted(&mut self) -> Exit {
        let mut periods = 0;
        loop {
            let exit = self
                .vcpu
                .run(&mut self.mmu, &mut OpenBus::default(), RunLimits::default());
            if exit != Exit::Kicked || periods == PATIENCE {
                return exit;
            }
            periods += 1;
        }
    }

    fn step_until_halted(&mut self) -> Exit {
        for _ in 0..STEPS {
            let exit = self.vcpu.step(&mut self.mmu, &mut OpenBus::default());
            if exit != Exit::Budget {
                return exit;
            }
        }
        Exit::Budget
    }

    fn compare_registers(&self, case: &Case, flags: u16, differences: &mut Vec<Difference>) {
        let cpu = self.vcpu.state();
        let mut check = |register, found: u32, mask: u32, upper: u32| {
            let Some(expected) = case.expected.get(register) else {
                return;
            };
            let expected = u32::from(expected) & mask | upper;
            if found & mask != expected {
                differences.push(Difference::Register {
                    register,
                    expected,
                    found: found & mask,
                });
            }
        };
        for (register, index) in GENERAL {
            check(register, cpu.gpr[index], u32::MAX, UPPER);
        }
        for (register, index) in SEGMENTS {
            check(register, cpu.seg[index].selector.into(), u32::MAX, 0);
            check(register, cpu.seg[index].base >> 4, u32::MAX, 0);
        }
        // A HLT in the last byte of the segment: EIP is 32 bits wide now and stays behind the limit,
        // where only the next instruction would raise #GP.
        let behind = cpu.eip == 0x1_0000 && case.expected.get(Register::Ip) == Some(0);
        check(Register::Ip, if behind { 0 } else { cpu.eip }, u32::MAX, 0);
        check(Register::Flags, cpu.eflags, flags.into(), 0);
    }

    fn compare_memory(&mut self, case: &Case, flags: u16, differences: &mut Vec<Difference>) {
        let pushed = case.exception.map(|_| pushed_flags(&case.expected));
        for &(address, expected) in &case.expected.memory {
            let mut found = [0];
            let read = self.mmu.read_phys(address.into(), &mut found);
            let mask = match pushed {
                Some(at) if address == at => flags as u8,
                Some(at) if address == at.wrapping_add(1) => (flags >> 8) as u8,
                _ => u8::MAX,
            };
            if read.is_err() || (found[0] ^ expected) & mask != 0 {
                differences.push(Difference::Memory {
                    address,
                    expected,
                    found: found[0],
                });
            }
        }
        let clear = |&(address, _): &(u32, u8)| (address, 0);
        let touched: Vec<(u32, u8)> = case.expected.memory.iter().map(clear).collect();
        self.write(&touched);
    }

    /// Writes bytes; neighbours in one go.
    fn write(&mut self, memory: &[(u32, u8)]) {
        let mut rest = memory;
        while let Some(&(start, _)) = rest.first() {
            let run = (start..)
                .zip(rest)
                .take_while(|&(address, &(at, _))| address == at)
                .count();
            let (run, after) = rest.split_at(run);
            let bytes: Vec<u8> = run.iter().map(|&(_, value)| value).collect();
            // All addresses of 24 bits are memory; an address beyond shows as a difference.
            let _ = self.mmu.write_phys(start.into(), &bytes);
            rest = after;
        }
    }
}

/// Guest-physical address of the FLAGS that an exception has pushed: above CS and IP.
fn pushed_flags(state: &State) -> u32 {
    let get = |register| state.get(register).unwrap_or_default();
    (u32::from(get(Register::Ss)) << 4) + u32::from(get(Register::Sp).wrapping_add(4))
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.thread().unpark();
            let _ = watchdog.join();
        }
    }
}
