//! The chipset: all devices of the board, wired up, behind one interface.
//!
//! Everything happens in calls from outside, on the caller's thread, and takes the time as an
//! argument. The run loop of a machine looks like this:
//!
//! 1. [`Chipset::port_read`] and the like for what the guest does;
//! 2. [`Chipset::take_events`] if [`Chipset::has_events`];
//! 3. [`Chipset::advance`] when [`Chipset::next_event`] has come;
//! 4. [`Chipset::intr`] and, when the processor takes the interrupt,
//!    [`Chipset::acknowledge_interrupt`].

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::a20::A20Gate;
use crate::bus::{BusCounters, BusError, DeviceId, MmioBus, PortBus};
use crate::debug_port::DebugPort;
use crate::device::{AccessSize, Device};
use crate::dma::{Dma, DmaState};
use crate::event::{ChipsetEvent, EventSink, Signal};
use crate::fdc::{self, DriveKind, Fdc, FdcState};
use crate::fpu_error::{FpuError, FpuErrorState};
use crate::fw_cfg::{FwCfg, FwCfgItems, FwCfgState};
use crate::i8042::{I8042, I8042State};
use crate::line::Line;
use crate::memory::GuestMemory;
use crate::pci::isa_bridge::IsaBridge;
use crate::pci::power_management::PowerManagement;
use crate::pci::{PciDevice, PciError, PciHost, PciState, spec::Bdf};
use crate::pic::{Pic, PicState};
use crate::pit::{NmiSource, Pit, PitState};
use crate::pm::{Pm, PmState, spec::PM_BASE, spec::SCI_IRQ};
use crate::port92::{Port92, Port92State};
use crate::rtc::{Rtc, RtcState};
use crate::serial::{Serial, SerialState, Sink, spec::COM1};
use crate::time::{Nanos, WallClock};
use crate::vga::pci::VgaBars;
use crate::vga::{Vga, VgaConfig, VgaState};

mod devices;
mod mmio;
mod outside;
mod post;
#[cfg(test)]
mod tests;
mod video;

use devices::{AddedDevice, Devices, FIRST_ADDED, is_timed};

use std::ops::RangeInclusive;
use std::sync::Arc;

/// Requests that one call serves at most.
const DMA_ROUNDS: usize = 32;

/// What a chipset is built from.
pub struct ChipsetConfig {
    /// The calendar time at machine time zero.
    pub wall_clock: WallClock,
    /// Bytes of RAM, for the firmware's fields in CMOS.
    pub memory_size: u64,
    /// Where the guest's output on COM1 goes.
    pub com1: Sink,
    /// What a firmware is told, if one runs. Without firmware the board is as firmware would leave
    /// it.
    pub firmware: Option<FwCfgItems>,
    /// The floppy drives, A: and B:.
    pub floppy_drives: [Option<DriveKind>; fdc::DRIVES],
    /// The display adapter, if there is one.
    pub vga: Option<VgaConfig>,
}

impl ChipsetConfig {
    /// A configuration with a calendar that starts in 1970 and output that goes nowhere.
    pub fn new() -> Self {
        Self {
            wall_clock: WallClock::default(),
            memory_size: 0,
            com1: Box::new(std::io::sink()),
            firmware: None,
            floppy_drives: [None; fdc::DRIVES],
            vga: None,
        }
    }
}

impl Default for ChipsetConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ChipsetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChipsetConfig")
            .field("wall_clock", &self.wall_clock)
            .field("memory_size", &self.memory_size)
            .finish_non_exhaustive()
    }
}

/// Ranges that a device added from outside claims.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Ports, with the widest access the device takes.
    pub ports: Vec<(RangeInclusive<u16>, AccessSize)>,
    /// Guest-physical addresses, with the widest access the device takes.
    pub memory: Vec<(RangeInclusive<u64>, AccessSize)>,
}

/// Volatile state of all devices of the board, for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipsetState {
    now: Nanos,
    a20: bool,
    pic: PicState,
    pit: PitState,
    rtc: RtcState,
    i8042: I8042State,
    com1: SerialState,
    port92: Port92State,
    fpu_error: FpuErrorState,
    pci: PciState,
    pm: PmState,
    fw_cfg: Option<FwCfgState>,
    dma: DmaState,
    fdc: FdcState,
    vga: Option<VgaState>,
}

/// What went over the buses and the interrupt wires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChipsetCounters {
    /// Port accesses.
    pub ports: BusCounters,
    /// Memory-mapped accesses.
    pub mmio: BusCounters,
    /// Acknowledged interrupts by IRQ.
    pub interrupts: [u64; 16],
    /// Interrupts that were acknowledged and had gone away.
    pub spurious: u64,
    /// Bytes of serial output that the sink did not take.
    pub serial_lost: u64,
}

/// The chipset.
#[derive(Debug)]
pub struct Chipset {
    ports: PortBus,
    mmio: MmioBus,
    devices: Devices,
    // Wiring.
    a20_gate: A20Gate,
    events: EventSink,
    // Volatile.
    /// The latest time seen: time does not go backwards here.
    now: Nanos,
    /// When a device is due next; [`Nanos::MAX`] for never.
    deadline: Nanos,
    /// Level of A20 that was reported last.
    a20: bool,
    /// Level of the NMI wire.
    nmi: bool,
    /// Where the power management registers are.
    pm_base: Option<u16>,
    /// PAM registers that were reported last.
    pam: [u8; 7],
    /// Where the display adapter's PCI function has its memory.
    vga_bars: Arc<VgaBars>,
    /// Where its memory is on the bus: frame buffer and ROM.
    vga_mapped: [Option<u64>; 2],
}

impl Chipset {
    /// A board with its devices after power-on.
    ///
    /// # Errors
    ///
    /// [`BusError`] if two devices of the board claim the same port.
    pub fn new(config: ChipsetConfig) -> Result<Self, BusError> {
        let mut ports = PortBus::new();
        Devices::register(&mut ports)?;
        if config.firmware.is_some() {
            Devices::register_for_firmware(&mut ports)?;
        }
        // A firmware puts the power management registers where it wants them.
        let pm_preset = config.firmware.is_none().then_some(PM_BASE);
        let pic = Pic::new();
        let a20_gate = A20Gate::new();
        let events = EventSink::new();
        let mut rtc = Rtc::new(pic.line(8), config.wall_clock);
        rtc.set_memory_size(config.memory_size);
        rtc.set_floppy_drives(config.floppy_drives);
        let dma = Dma::new();
        let dreq = dma.dreq_line(fdc::spec::DMA_CHANNEL);
        let devices = Devices {
            pit: Pit::new(pic.line(0)),
            rtc,
            i8042: I8042::new(pic.line(1), pic.line(12), a20_gate.clone(), events.clone()),
            com1: Serial::new(COM1, pic.line(4), config.com1),
            port92: Port92::new(a20_gate.clone(), events.clone()),
            fpu_error: FpuError::new(pic.line(13)),
            post: post::PostCode::default(),
            pci: PciHost::new(IsaBridge::new(&pic), PowerManagement::new(pm_preset)),
            pm: Pm::new(pic.line(SCI_IRQ), events.clone()),
            fw_cfg: config
                .firmware
                .map(|items| FwCfg::new(items, events.clone())),
            debug: DebugPort::default(),
            dma,
            fdc: Fdc::new(pic.line(fdc::spec::IRQ), dreq, config.floppy_drives),
            vga: None,
            added: Vec::new(),
            pic,
        };
        let mut chipset = Self {
            ports,
            mmio: MmioBus::new(),
            devices,
            a20: a20_gate.is_open(),
            a20_gate,
            events,
            now: Nanos::ZERO,
            deadline: Nanos::MAX,
            nmi: false,
            pm_base: None,
            pam: [0; 7],
            vga_bars: VgaBars::new(),
            vga_mapped: [None; 2],
        };
        if let Some(vga) = config.vga {
            chipset.add_vga(vga)?;
        }
        chipset.rewire();
        Ok(chipset)
    }

    /// Reads `size` at `port`.
    #[inline]
    pub fn port_read(&mut self, port: u16, size: AccessSize, now: Nanos) -> u32 {
        let now = self.tick(now);
        let value = self.ports.read(&mut self.devices, port, size, now);
        if is_timed(self.ports.owner(port), port, size, false) {
            self.schedule();
        }
        value
    }

    /// Writes the low `size` of `value` at `port`.
    #[inline]
    pub fn port_write(&mut self, port: u16, size: AccessSize, value: u32, now: Nanos) {
        let now = self.tick(now);
        self.ports.write(&mut self.devices, port, size, value, now);
        if is_timed(self.ports.owner(port), port, size, true) {
            self.schedule();
        }
        if self.devices.pit.is_irq0_in_service() {
            self.follow_irq0();
        }
    }

    /// The INTR wire to the processor.
    #[inline]
    pub fn intr(&mut self) -> bool {
        if self.devices.pci.interrupts_changed() {
            self.devices.pci.drive_interrupts();
        }
        self.devices.pic.output()
    }

    /// The processor takes an interrupt: the vector. To be called only while [`Self::intr`] is
    /// true; otherwise the vector is that of a spurious interrupt.
    pub fn acknowledge_interrupt(&mut self, now: Nanos) -> u8 {
        self.now = self.now.max(now);
        let before = self.devices.pic.acknowledged().first().copied();
        let vector = self.devices.pic.acknowledge();
        if self.devices.pic.acknowledged().first().copied() != before {
            self.devices.pit.irq0_acknowledged(self.now);
            self.follow_irq0();
        }
        vector
    }

    /// Lets timers that are due fire. Calling it too often or too late is harmless (see
    /// [`crate::pit`] for what being late means).
    pub fn advance(&mut self, now: Nanos) {
        self.tick(now);
    }

    /// When [`Self::advance`] has something to do next. A halted machine sleeps until then.
    #[inline]
    pub fn next_event(&self) -> Option<Nanos> {
        (self.deadline != Nanos::MAX).then_some(self.deadline)
    }

    /// Whether [`Self::take_events`] would return something. Cheap.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.events.is_raised() || self.a20() != self.a20
    }

    /// What the machine has to act on since the last call: A20 first, then power-off and resets.
    pub fn take_events(&mut self) -> Vec<ChipsetEvent> {
        let mut events = Vec::new();
        let level = self.a20();
        if level != self.a20 {
            self.a20 = level;
            events.push(ChipsetEvent::A20(level));
        }
        events.extend(self.events.take());
        events
    }

    /// The A20 gate: open (true) if the keyboard controller or port 92h, whichever was last, opened
    /// it.
    #[inline]
    pub fn a20(&self) -> bool {
        self.a20_gate.is_open()
    }

    /// The registers PAM0 to PAM6 of the host bridge, for
    /// [`pam_ranges`](crate::pci::host_bridge::pam_ranges).
    pub fn pam(&self) -> [u8; 7] {
        self.devices.pci.host_bridge().pam()
    }

    /// Lends guest memory to the devices that wait for it. Writes to it are the guest's as much as
    /// those of its processor.
    pub fn transfer(&mut self, memory: &mut dyn GuestMemory) {
        if let Some(fw_cfg) = &mut self.devices.fw_cfg {
            fw_cfg.transfer(memory);
        }
        // Each device asks once, and then needs time.
        for _ in 0..DMA_ROUNDS {
            if !self.devices.serve_dma(memory, self.now) {
                break;
            }
        }
        // A request that cannot be served would ask for memory for ever.
        self.reschedule();
    }

    /// The processor is reset, and nothing else: the board opens the A20 gate, so that the
    /// processor finds the firmware at its reset vector.
    pub fn processor_reset(&mut self) {
        self.a20_gate.set(true);
    }

    /// The FERR# wire of the processor: an unmasked floating-point error with CR0.NE = 0.
    pub fn set_ferr(&mut self, asserted: bool) {
        self.devices.fpu_error.set_ferr(asserted);
    }

    /// The IGNNE# wire to the processor.
    pub fn ignne(&self) -> bool {
        self.devices.fpu_error.ignne()
    }

    /// Something on the board asks for an NMI: ports 61h and 70h decide whether the processor gets
    /// it, as [`ChipsetEvent::Nmi`].
    pub fn nmi_source(&mut self, source: NmiSource) {
        self.devices.pit.nmi_source(source);
        self.drive_nmi();
    }

    /// Whether port 70h keeps NMI from the processor.
    pub fn nmi_disabled(&self) -> bool {
        self.devices.rtc.nmi_disabled()
    }

    /// The byte that was written to port 80h last.
    pub fn post_code(&self) -> u8 {
        self.devices.post.code
    }

    /// Writes a byte of CMOS RAM, as the firmware's set-up would.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        self.devices.rtc.set_ram(index, value);
    }

    /// A wire to input IRQ `irq` of the interrupt controllers, for a device added from outside.
    pub fn irq_line(&self, irq: u8) -> Line {
        self.devices.pic.line(irq)
    }

    /// Adds a device with the ranges it claims.
    ///
    /// # Errors
    ///
    /// [`BusError`] if a range is taken or there are too many devices; nothing is added then.
    pub fn add_device(
        &mut self,
        device: Box<dyn Device>,
        claims: &Claims,
    ) -> Result<DeviceId, BusError> {
        let index = u8::try_from(self.devices.added.len()).ok();
        let id = index
            .and_then(|index| index.checked_add(FIRST_ADDED))
            .map(DeviceId)
            .ok_or(BusError::TooManyDevices)?;
        if let Err(error) = self.claim(id, claims) {
            for (range, _) in &claims.ports {
                self.ports.unregister(range.clone(), id);
            }
            for (range, _) in &claims.memory {
                self.mmio.unregister(*range.start(), id);
            }
            return Err(error);
        }
        self.devices.added.push(AddedDevice(device));
        self.schedule();
        Ok(id)
    }

    /// Adds a PCI function.
    ///
    /// # Errors
    ///
    /// [`PciError`] if its place is taken.
    pub fn add_pci(&mut self, at: Bdf, function: Box<dyn PciDevice>) -> Result<(), PciError> {
        self.devices.pci.add(at, function)
    }

    /// Guest-physical ranges that belong to devices: the memory map leaves them out.
    pub fn mmio_ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.mmio.ranges()
    }

    /// Resets the whole board, as RESET# does. Events that are pending are dropped; a change of
    /// A20 is reported.
    pub fn reset(&mut self, now: Nanos) {
        let now = self.tick(now);
        self.devices.reset(now);
        self.a20_gate.set(true);
        self.events.take().for_each(drop);
        self.schedule();
    }

    /// What went over the buses.
    pub fn counters(&self) -> ChipsetCounters {
        ChipsetCounters {
            ports: self.ports.counters(),
            mmio: self.mmio.counters(),
            interrupts: *self.devices.pic.acknowledged(),
            spurious: self.devices.pic.spurious(),
            serial_lost: self.devices.com1.lost(),
        }
    }

    /// The state of the board's devices, for a snapshot.
    pub fn state(&mut self) -> ChipsetState {
        // Edges that are still on the wires belong to the interrupt controllers.
        self.devices.pic.output();
        ChipsetState {
            now: self.now,
            a20: self.a20(),
            pic: self.devices.pic.state().clone(),
            pit: self.devices.pit.state().clone(),
            rtc: self.devices.rtc.state().clone(),
            i8042: self.devices.i8042.state().clone(),
            com1: self.devices.com1.state(),
            port92: self.devices.port92.state().clone(),
            fpu_error: self.devices.fpu_error.state().clone(),
            pci: self.devices.pci.state(),
            pm: self.devices.pm.state().clone(),
            fw_cfg: self.devices.fw_cfg.as_ref().map(|d| d.state().clone()),
            dma: self.devices.dma.state().clone(),
            fdc: self.devices.fdc.state().clone(),
            vga: self.devices.vga.as_ref().map(Vga::state),
        }
    }

    /// Goes back to a saved state. Machine time goes on from the time of the snapshot.
    pub fn restore(&mut self, state: ChipsetState) {
        self.now = state.now;
        self.a20_gate.set(state.a20);
        self.devices.pit.restore(state.pit);
        self.devices.rtc.restore(state.rtc);
        self.devices.i8042.restore(state.i8042);
        self.devices.com1.restore(&state.com1);
        self.devices.port92.restore(state.port92);
        self.devices.fpu_error.restore(state.fpu_error);
        self.devices.pci.restore(state.pci);
        self.devices.pm.restore(state.pm);
        if let (Some(fw_cfg), Some(state)) = (&mut self.devices.fw_cfg, state.fw_cfg) {
            fw_cfg.restore(state);
        }
        if let (Some(vga), Some(state)) = (&mut self.devices.vga, state.vga) {
            vga.restore(state);
        }
        self.devices.dma.restore(state.dma);
        self.devices.fdc.restore(state.fdc);
        // An edge that was on its way is not repeated.
        self.nmi = self.devices.pit.wants_nmi() && !self.devices.rtc.nmi_disabled();
        // Last: its inputs are the levels that the others drive.
        self.devices.pic.restore(state.pic);
        self.schedule();
    }

    fn claim(&mut self, id: DeviceId, claims: &Claims) -> Result<(), BusError> {
        for (range, width) in &claims.ports {
            self.ports.register(range.clone(), *width, id)?;
        }
        for (range, width) in &claims.memory {
            self.mmio.register(range.clone(), *width, id)?;
        }
        Ok(())
    }

    /// Time has come to `now`: never backwards, and nothing that is due is left.
    #[inline]
    fn tick(&mut self, now: Nanos) -> Nanos {
        self.now = self.now.max(now);
        if self.now >= self.deadline {
            self.fire();
        }
        self.now
    }

    #[cold]
    fn fire(&mut self) {
        self.devices.advance(self.now);
        self.schedule();
    }

    /// Tells the timer when the guest has handled a tick.
    fn follow_irq0(&mut self) {
        if self.devices.pic.is_open(0) {
            self.devices.pit.irq0_handled(self.now);
            self.schedule();
        }
    }

    /// The NMI wire follows its sources; the processor looks at its rising edge.
    fn drive_nmi(&mut self) {
        let level = self.devices.pit.wants_nmi() && !self.devices.rtc.nmi_disabled();
        if level && !self.nmi {
            self.events.signal(Signal::Nmi);
        }
        self.nmi = level;
    }

    /// Registers of the board's PCI functions have changed: what they control follows.
    fn rewire(&mut self) {
        let pm_base = self.devices.pci.power_management().base();
        if pm_base != self.pm_base {
            let moved = self.devices.move_pm(&mut self.ports, self.pm_base, pm_base);
            self.pm_base = pm_base;
            if let Err(error) = moved {
                // Two devices at one port: here the one that was there first keeps it.
                self.pm_base = None;
                warn!(%error, "the power management registers cannot be there");
            }
        }
        let pam = self.pam();
        if pam != self.pam {
            self.pam = pam;
            self.events.signal(Signal::Pam);
        }
    }

    /// After an access that may have moved a timer, one of the ports behind the NMI wire, or what a
    /// DMA transfer depends on.
    fn schedule(&mut self) {
        self.reschedule();
        if self.devices.dma.next_channel().is_some() {
            self.events.signal(Signal::Dma);
        }
    }

    fn reschedule(&mut self) {
        self.drive_nmi();
        if self.devices.pci.take_written() {
            self.rewire();
        }
        self.follow_video();
        self.deadline = self.devices.next_event().unwrap_or(Nanos::MAX);
    }
}
