//! The translator's side: a guest whose memory is the stage.
//!
//! In ring 3 the stage's pages are mapped by page tables in guest memory; the monitor of this guest is
//! nothing but an interrupt descriptor table whose handlers halt, one byte each, so that the address of
//! the HLT tells the vector and the ring-0 stack the rest. In the other worlds a HLT stands behind the
//! code.

use super::guest::{MONITOR, World, guest_memory, layout, load};
use crate::native::stage::{self, Access, PAGE, REGIONS};
use crate::native::{MachineState, Outcome, Trap};
use crate::open_bus::OpenBus;
use shadow_mmu::{Mmu, MmuConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use translator::state::reg;
use translator::{Exit, Kicker, RunLimits, Vcpu, VcpuConfig};

/// How long one case may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a case could not be run in the guest.
#[derive(Debug, thiserror::Error)]
pub enum TranslatedError {
    /// The shadow MMU or the vCPU could not be made.
    #[error("set-up of the guest: {0}")]
    SetUp(String),
    /// The vCPU left in a way that no case should cause.
    #[error("the vCPU left with: {0}")]
    Exit(String),
    /// It did not leave at all.
    #[error("the case did not end within {0:?}")]
    Hung(Duration),
    /// The vCPU halted somewhere else than in a handler.
    #[error("the vCPU halted at {0:#x}, which is no handler")]
    Lost(u32),
}

/// Kicks the vCPU twice a time-out for as long as it lives.
#[derive(Debug)]
struct Watchdog {
    stop: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(kicker: Kicker) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                std::thread::sleep(TIMEOUT / 2);
                kicker.kick();
            }
        });
        Watchdog { stop }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How a case is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// As a new unit.
    Unit,
    /// With [`Vcpu::step`], and then to its end.
    Step,
    /// Twice, so that the second run, which counts, finds what the translator made of the first.
    Again,
}

/// Runs cases as translated code.
#[derive(Debug)]
pub struct TranslatedRunner {
    world: World,
    lowest: u32,
    vcpu: Vcpu,
    mmu: Mmu,
    platform: OpenBus,
    /// The image of the data regions as the guest's memory has it.
    image: Vec<u8>,
    _watchdog: Watchdog,
}

impl TranslatedRunner {
    /// Builds a guest of one world. The stage's data is all zero, its code INT3; it has no region below
    /// `lowest`, see [`NativeRunner::lowest`](crate::native::NativeRunner::lowest).
    ///
    /// # Errors
    /// [`TranslatedError::SetUp`].
    pub fn new(world: World, lowest: u32) -> Result<Self, TranslatedError> {
        let set_up = |error: &dyn std::fmt::Display| TranslatedError::SetUp(error.to_string());
        let config = MmuConfig {
            ram_bytes: world.ram_bytes(),
            ..MmuConfig::default()
        };
        let mut mmu = Mmu::new(config).map_err(|e| set_up(&e))?;
        let mut vcpu = Vcpu::new(VcpuConfig {
            strict: true,
            cache_bytes: 16 << 20,
            ..VcpuConfig::default()
        })
        .map_err(|e| set_up(&e))?;
        for (address, bytes) in guest_memory(world, lowest) {
            mmu.write_phys(u64::from(address), &bytes)
                .map_err(|e| set_up(&e))?;
        }
        load(world, vcpu.state_mut(), &MachineState::new());
        vcpu.sync_paging(&mut mmu);
        Ok(TranslatedRunner {
            world,
            lowest,
            _watchdog: Watchdog::start(vcpu.kicker()),
            vcpu,
            mmu,
            platform: OpenBus::default(),
            image: vec![0; stage::data_len()],
        })
    }

    /// The world of its guest.
    pub fn world(&self) -> World {
        self.world
    }

    /// True where the guest has what the host has at a linear address: cases without paging must not go
    /// where it has not.
    pub fn has(&self, linear: u32) -> bool {
        self.world.has(linear) && (self.world != World::Unpaged || linear >= self.lowest)
    }

    /// The data regions as the last case left them.
    pub fn image(&self) -> &[u8] {
        &self.image
    }

    /// Runs `code` at `linear` from `start` and the data regions `image`.
    ///
    /// # Errors
    /// Every error but [`TranslatedError::SetUp`].
    pub fn run(
        &mut self,
        (linear, code): (u32, &[u8]),
        start: &MachineState,
        image: &[u8],
        manner: Manner,
    ) -> Result<Outcome, TranslatedError> {
        const HLT: u8 = 0xF4;
        let mut code = code.to_vec();
        if self.world != World::Ring3 {
            code.push(HLT);
        }
        self.write_linear(linear, &code)?;
        let turns = if manner == Manner::Again { 2 } else { 1 };
        let mut outcome = Err(TranslatedError::Hung(TIMEOUT));
        for _ in 0..turns {
            self.write_image(image)?;
            load(self.world, self.vcpu.state_mut(), start);
            let end = start.eip.wrapping_add(code.len() as u32);
            outcome = self.execute(manner == Manner::Step, end);
            self.read_image()?;
        }
        self.write_linear(linear, &vec![0xCC; code.len()])?;
        outcome
    }

    fn execute(&mut self, single_step: bool, end: u32) -> Result<Outcome, TranslatedError> {
        let mut kicks = 0;
        let mut exit = if single_step {
            self.vcpu.step(&mut self.mmu, &mut self.platform)
        } else {
            Exit::Budget
        };
        loop {
            match exit {
                Exit::Halted if self.world != World::Ring3 => return self.completed(end),
                Exit::Halted => return self.outcome(),
                Exit::Kicked if kicks > 3 => return Err(TranslatedError::Hung(TIMEOUT)),
                Exit::Kicked => kicks += 1,
                Exit::Budget | Exit::Decide => {}
                other => return Err(TranslatedError::Exit(format!("{other:?}"))),
            }
            let limits = RunLimits::default();
            exit = self.vcpu.run(&mut self.mmu, &mut self.platform, limits);
        }
    }

    /// Reads the registers behind a case in a world without exceptions. The host's case ends with INT3,
    /// which has the length of HLT.
    fn completed(&self, end: u32) -> Result<Outcome, TranslatedError> {
        let state = self.vcpu.state();
        if state.eip != end {
            return Err(TranslatedError::Lost(state.eip));
        }
        Ok(Outcome {
            state: MachineState {
                fx: state.fpu.0,
                gpr: state.gpr,
                eip: state.eip,
                eflags: state.eflags,
                selectors: state.seg.map(|segment| segment.selector),
            },
            trap: Trap {
                vector: Trap::BREAKPOINT,
                ..Trap::default()
            },
        })
    }

    /// Reads what the handler found.
    fn outcome(&self) -> Result<Outcome, TranslatedError> {
        let state = self.vcpu.state();
        // EIP is behind the HLT.
        let vector = state.eip.wrapping_sub(MONITOR + layout::HANDLERS + 1);
        if vector > 255 {
            return Err(TranslatedError::Lost(state.eip));
        }
        let mut frame = state.gpr[reg::ESP].wrapping_sub(MONITOR);
        let mut pop = || {
            let mut bytes = [0; 4];
            let read = self.mmu.read_phys(u64::from(frame), &mut bytes);
            frame = frame.wrapping_add(4);
            read.map(|()| u32::from_le_bytes(bytes))
                .map_err(|error| TranslatedError::Exit(error.to_string()))
        };
        let error = if Trap::pushes_error(vector) {
            pop()?
        } else {
            0
        };
        let (eip, cs, eflags, esp, ss) = (pop()?, pop()?, pop()?, pop()?, pop()?);
        let mut gpr = state.gpr;
        gpr[reg::ESP] = esp;
        let mut selectors = state.seg.map(|segment| segment.selector);
        selectors[1] = cs as u16;
        selectors[2] = ss as u16;
        Ok(Outcome {
            state: MachineState {
                fx: state.fpu.0,
                gpr,
                eip,
                eflags,
                selectors,
            },
            trap: Trap {
                vector,
                error,
                cr2: if vector == Trap::PAGE_FAULT {
                    state.cr2
                } else {
                    0
                },
            },
        })
    }

    /// Brings the data regions to `image`, page by page where they differ.
    fn write_image(&mut self, image: &[u8]) -> Result<(), TranslatedError> {
        let size = PAGE as usize;
        let pages = self.image.chunks_mut(size).zip(image.chunks(size));
        for (address, (old, new)) in data_pages(self.world).zip(pages) {
            if old != new {
                if let Some(address) = address {
                    self.mmu
                        .write_phys(address, new)
                        .map_err(|error| TranslatedError::Exit(error.to_string()))?;
                }
                old.copy_from_slice(new);
            }
        }
        Ok(())
    }

    fn read_image(&mut self) -> Result<(), TranslatedError> {
        let pages = self.image.chunks_mut(PAGE as usize);
        for (address, page) in data_pages(self.world).zip(pages) {
            if let Some(address) = address {
                self.mmu
                    .read_phys(address, page)
                    .map_err(|error| TranslatedError::Exit(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Writes code through the stage's mapping; every byte is in a region.
    fn write_linear(&mut self, linear: u32, bytes: &[u8]) -> Result<(), TranslatedError> {
        let address = self.physical(linear).ok_or(TranslatedError::Lost(linear))?;
        self.mmu
            .write_phys(address, bytes)
            .map_err(|error| TranslatedError::Exit(error.to_string()))
    }

    fn physical(&self, linear: u32) -> Option<u64> {
        let mut regions = REGIONS.iter();
        let region = regions.find(|region| (region.base..=region.last()).contains(&linear))?;
        Some(self.world.physical(region, linear))
    }

    /// Guest and host code of the unit at a linear address of the stage, as text.
    pub fn listing(&self, linear: u32) -> String {
        let address = self.physical(linear);
        let unit = address.and_then(|address| self.vcpu.unit_listing(address as u32));
        unit.unwrap_or_default()
    }
}

/// Guest-physical addresses of the pages of the data regions; `None` for those the world does not have.
fn data_pages(world: World) -> impl Iterator<Item = Option<u64>> {
    let data = REGIONS
        .iter()
        .filter(|region| region.access != Access::Code);
    data.flat_map(move |region| {
        (0..region.pages).map(move |page| {
            let linear = region.base + page * PAGE;
            world.has(linear).then(|| world.physical(region, linear))
        })
    })
}
