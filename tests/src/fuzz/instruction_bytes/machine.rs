//! A vCPU, its memory, and a bus that remembers.

use super::guest::{Guest, RAM};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use shadow_mmu::{Mmu, MmuConfig, PAGE_SIZE, Privilege, RangeKind};
use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use translator::state::{eflags, seg};
use translator::{Exit, Kicker, Platform, RunLimits, Vcpu, VcpuConfig};

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Halted,
    Shutdown,
    /// It did not, in the instructions or the time that it had.
    Budget,
}

const PAGE: usize = PAGE_SIZE as usize;
/// The least memory that a machine can have, in bytes.
const LEAST: u64 = 1 << 20;
/// How long a program that does not end may run.
const WHILE: Duration = Duration::from_millis(5);
/// How often a program that is known to end may be kicked before it does.
const KICKS: u32 = 4000;

/// One access to a device. Reads of memory are not among them: code is fetched as well, and how often
/// that happens is the translator's business.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Access {
    PortRead(u16, u8),
    PortWrite(u16, u8, u32),
    MemoryWrite(u64, Vec<u8>),
    Acknowledge,
}

/// Devices whose answers depend on the access and on how many there were.
#[derive(Debug, Default)]
struct Bus {
    log: Vec<Access>,
    accesses: u64,
    pending: bool,
    tsc: u64,
}

impl Bus {
    /// Accesses that are remembered; the others are counted.
    const LOG: usize = 64;

    fn note(&mut self, access: Access) {
        self.accesses += 1;
        if self.log.len() < Self::LOG {
            self.log.push(access);
        }
    }
}

impl Platform for Bus {
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.note(Access::PortRead(port, size));
        (u32::from(port) ^ self.accesses as u32).wrapping_mul(0x0101_0301)
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.note(Access::PortWrite(port, size, value));
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(gpa..) {
            *byte = (at * 7) as u8;
        }
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.note(Access::MemoryWrite(gpa, data.to_vec()));
    }
    fn interrupt_pending(&mut self) -> bool {
        self.pending
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        self.note(Access::Acknowledge);
        self.pending = false;
        0x28
    }
    fn attention(&mut self) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
}

/// A machine for one input.
#[derive(Debug)]
pub(super) struct Machine {
    vcpu: Vcpu,
    mmu: Mmu,
    bus: Bus,
}

impl Machine {
    pub(super) fn new(guest: &Guest, memory: &[u8]) -> Machine {
        let mut mmu = Mmu::new(MmuConfig {
            ram_bytes: LEAST,
            max_spaces: 8,
            mapping_budget: 2000,
            ..MmuConfig::default()
        })
        .expect("memory for a guest");
        // The rest is slow to compare.
        mmu.set_range(RAM as u64, LEAST - RAM as u64, RangeKind::Device)
            .expect("whole pages");
        let vcpu = Vcpu::new(VcpuConfig {
            cache_bytes: 1 << 20,
            model: guest.model(),
            ..VcpuConfig::default()
        })
        .expect("a vCPU");
        let mut machine = Machine {
            vcpu,
            mmu,
            bus: Bus::default(),
        };
        machine.restore(guest, memory);
        machine
    }

    /// Brings memory and registers to the start; what the translator has made stays.
    pub(super) fn restore(&mut self, guest: &Guest, memory: &[u8]) {
        self.mmu.set_a20(true);
        let now = self.ram();
        let pages = memory.chunks(PAGE).zip(now.chunks(PAGE));
        for ((new, old), address) in pages.zip((0u64..).step_by(PAGE)) {
            if new != old {
                self.mmu
                    .write_phys(address, new)
                    .expect("an address in RAM");
            }
        }
        guest.load(self.vcpu.state_mut(), memory);
        self.vcpu.sync_paging(&mut self.mmu);
        // As a processor that has just got there: nothing is cached.
        self.mmu.load_cr3(self.vcpu.state().cr3);
        self.bus = Bus {
            pending: guest.interrupt_pending(),
            ..Bus::default()
        };
    }

    /// Goes on one instruction at a time. A program that reads the time or stores the FPU's environment ends the
    /// comparison: the host's FXSAVE, which separates single instructions, may keep FIP, FDP and FOP or not.
    pub(super) fn step(&mut self, budget: u32) -> End {
        let trace = std::env::var_os("RINGSHIFT_TRACE").is_some();
        let mut page = None;
        for _ in 0..budget {
            if trace {
                let cpu = self.vcpu.state();
                let (cs, eip) = (cpu.seg[seg::CS].selector, cpu.eip);
                eprintln!("{cs:04x}:{eip:08x} {:08x?} {:08x}", cpu.gpr, cpu.eflags);
            }
            if let Some(end) = self.take_interrupt() {
                return end;
            }
            if self.differs_each_time() || self.fetches_by_tlb(&mut page) {
                return End::Budget;
            }
            if let Some(end) = ended(self.vcpu.step(&mut self.mmu, &mut self.bus)) {
                return end;
            }
        }
        End::Budget
    }

    /// The tables do not let the next instruction be fetched, but they did the one before it, in the same
    /// page. Both the fault and going on are right then: a processor has a TLB.
    fn fetches_by_tlb(&self, page: &mut Option<u32>) -> bool {
        let cpu = self.vcpu.state();
        let linear = cpu.linear_eip();
        let last = page.replace(linear >> 12);
        let privilege = if cpu.cpl == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        last == *page
            && self
                .mmu
                .probe(linear, shadow_mmu::Access::execute(privilege))
                .is_err()
    }

    /// Goes on until the program ends.
    pub(super) fn run(&mut self) -> End {
        let _watch = Watch::start(self.vcpu.kicker());
        let mut kicks = 0;
        loop {
            let exit = self
                .vcpu
                .run(&mut self.mmu, &mut self.bus, RunLimits::default());
            match exit {
                Exit::Kicked if kicks > KICKS => return End::Budget,
                Exit::Kicked => kicks += 1,
                Exit::InterruptReady => {
                    if let Some(end) = self.take_interrupt() {
                        return end;
                    }
                }
                exit => {
                    if let Some(end) = ended(exit) {
                        return end;
                    }
                }
            }
        }
    }

    /// Goes on for a short time.
    pub(super) fn run_for_a_while(&mut self) {
        let _watch = Watch::start(self.vcpu.kicker());
        while let Exit::InterruptReady =
            self.vcpu
                .run(&mut self.mmu, &mut self.bus, RunLimits::default())
        {
            if self.take_interrupt().is_some() {
                return;
            }
        }
    }

    fn take_interrupt(&mut self) -> Option<End> {
        if !self.bus.pending || !self.vcpu.state().accepts_interrupts() {
            return None;
        }
        match self.vcpu.take_interrupt(&mut self.mmu, &mut self.bus) {
            Exit::Decide => None,
            exit => ended(exit),
        }
    }

    /// What is not as in `other`; empty if they agree.
    pub(super) fn differences(&self, other: &Machine) -> String {
        let mut text = String::new();
        let (mut a, mut b) = (self.vcpu.state().clone(), other.vcpu.state().clone());
        for state in [&mut a, &mut b] {
            // FOP, FIP and FDP of the host, which ran another form of the instruction; what the guest sees of
            // them is in memory.
            state.fpu.0[6..24].fill(0);
            // Set between two iterations of a string instruction, where a step ends. A shutdown keeps it.
            state.eflags &= !eflags::RF;
        }
        for at in (0..512).filter(|at| a.fpu.0[*at] != b.fpu.0[*at]) {
            let (x, y) = (a.fpu.0[at], b.fpu.0[at]);
            let _ = writeln!(text, "FXSAVE byte {at}: {x:02x} / {y:02x}");
        }
        // 512 lines of it help nobody.
        (a.fpu.0, b.fpu.0) = ([0; 512], [0; 512]);
        if a != b {
            let (a, b) = (format!("{a:#x?}"), format!("{b:#x?}"));
            for (x, y) in a.lines().zip(b.lines()).filter(|(x, y)| x != y) {
                let _ = writeln!(text, "{} / {}", x.trim(), y.trim());
            }
        }
        if (self.bus.accesses, &self.bus.log) != (other.bus.accesses, &other.bus.log) {
            let _ = writeln!(text, "{:x?} / {:x?}", self.bus.log, other.bus.log);
        }
        let (a, b) = (self.ram(), other.ram());
        if a != b {
            let differing = (0..RAM).filter(|at| a[*at] != b[*at]);
            for at in differing.take(32) {
                let _ = writeln!(text, "[{at:x}]: {:02x} / {:02x}", a[at], b[at]);
            }
        }
        text
    }

    /// The next instruction is RDTSC, or one of FNSTENV, FNSAVE and FXSAVE. All views of RAM begin at multiples of 4 MiB.
    fn differs_each_time(&self) -> bool {
        let cpu = self.vcpu.state();
        let at = u64::from(cpu.linear_eip() & 0x3F_FFFF);
        let mut bytes = [0; 15];
        let read = self.mmu.read_phys(at, &mut bytes).is_ok();
        let big = !cpu.real_or_v86() && cpu.seg[seg::CS].is_big();
        let bits = if big { 32 } else { 16 };
        let mut decoder = Decoder::new(bits, &bytes, DecoderOptions::NONE);
        let mnemonics = [
            Mnemonic::Rdtsc,
            Mnemonic::Fnstenv,
            Mnemonic::Fnsave,
            Mnemonic::Fxsave,
        ];
        read && mnemonics.contains(&decoder.decode().mnemonic())
    }

    /// All of RAM.
    fn ram(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM];
        self.mmu
            .read_phys(0, &mut bytes)
            .expect("the addresses of RAM");
        bytes
    }

    /// Compares guest tables, shadow tables and windows.
    pub(super) fn audit(&self) {
        if let Err(error) = self.mmu.audit() {
            panic!("{error}");
        }
    }
}

/// What an exit means for a program: nothing, or that it has ended.
fn ended(exit: Exit) -> Option<End> {
    match exit {
        Exit::Budget | Exit::Decide | Exit::Kicked => None,
        Exit::Halted => Some(End::Halted),
        Exit::Shutdown => Some(End::Shutdown),
        other => panic!("the vCPU left with: {other}"),
    }
}

/// Kicks a vCPU again and again for as long as it lives.
struct Watch {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Watch {
    fn start(kicker: Kicker) -> Watch {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let seen = Arc::clone(&shared);
        std::thread::spawn(move || {
            let (over, changed) = &*seen;
            let mut guard = over.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                let waited = changed.wait_timeout(guard, WHILE);
                let (next, result) = waited.unwrap_or_else(PoisonError::into_inner);
                guard = next;
                if result.timed_out() {
                    kicker.kick();
                }
            }
        });
        Watch { shared }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (over, changed) = &*self.shared;
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}
