//! The machine around the vCPU: the devices with a clock, the helper thread, and the serial port's
//! two ends. Implements the port that both engines reach it through.

mod control;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use devices::fdc::Medium;
use devices::memory::{GuestMemory, NoMemory};
use devices::{AccessSize, Chipset, ChipsetEvent, Nanos, NmiSource, ResetKind, VideoWindow};
use shadow_mmu::Mmu;
use translator::Platform;

use crate::clock::{Clock, host_tsc};
use crate::control::{Request, Typing};
use crate::disk::{FloppyError, FloppyImage};
use crate::exits::Requests;
use crate::helper::{Event, Helper, StopReason};
use crate::nmi::NmiButton;
use crate::serial::SharedOutput;

/// Devices, clock, helper, serial port.
#[derive(Debug)]
pub struct Board {
    chipset: Chipset,
    clock: Clock,
    helper: Helper,
    output: SharedOutput,
    /// The output has something to tell: see [`SerialOutput::attention`].
    ///
    /// [`SerialOutput::attention`]: crate::serial::SerialOutput::attention
    output_attention: Arc<AtomicBool>,
    /// Input that the serial port had no room for yet.
    input: VecDeque<u8>,
    /// What devices and people asked for since the run loop looked last.
    power_off: bool,
    reset: Option<ResetKind>,
    a20: Option<bool>,
    pam: bool,
    transfer: bool,
    video: bool,
    nmi: bool,
    stop: Option<StopReason>,
    /// What people want of the machine.
    requests: VecDeque<Request>,
    /// Since when the machine stands still.
    paused: Option<Instant>,
    typing: Typing,
    mouse_buttons: u8,
    /// Where the guest has RAM in place of the display adapter's memory.
    video_ram: Option<VideoWindow>,
}

impl Board {
    /// Puts the parts together.
    pub(crate) fn new(
        chipset: Chipset,
        clock: Clock,
        helper: Helper,
        output: SharedOutput,
    ) -> Board {
        let output_attention = output.lock().attention();
        Board {
            chipset,
            clock,
            helper,
            output,
            output_attention,
            input: VecDeque::new(),
            power_off: false,
            reset: None,
            a20: None,
            pam: false,
            transfer: false,
            video: false,
            nmi: false,
            stop: None,
            requests: VecDeque::new(),
            paused: None,
            typing: Typing::default(),
            mouse_buttons: 0,
            video_ram: None,
        }
    }

    /// The devices.
    pub fn chipset(&self) -> &Chipset {
        &self.chipset
    }

    /// Machine time.
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Does what is due: timers, input, events from outside. Writes the output that was kept back,
    /// so that a prompt without a line end is seen.
    pub fn catch_up(&mut self) {
        self.take_events();
        self.feed();
        let now = self.clock.now();
        // Before the timers: on a busy host the release of a key comes late, and the key would repeat.
        self.type_on(now);
        self.chipset.advance(now);
        self.arm(now);
        self.output.lock().flush();
    }

    /// Sleeps until the vCPU has a reason to wake up from HLT, or the machine to stop. Without
    /// `interrupts` an interrupt is no reason.
    pub fn sleep(&mut self, interrupts: bool) {
        self.catch_up();
        loop {
            let interrupt = interrupts && self.chipset.intr();
            let outside = self.stop.is_some() || !self.requests.is_empty();
            if interrupt || self.attention() || self.nmi || outside {
                return;
            }
            let now = self.clock.now();
            // This thread waits for the deadline itself.
            self.helper.arm(None, now);
            if let Some(event) = self.helper.wait(self.deadline(), now) {
                self.take(event);
            }
            self.catch_up();
        }
    }

    /// What the machine wants from the run loop; each request is told once.
    pub fn take_requests(&mut self) -> Requests {
        // The kick that ended the run came with an event, and will not come again.
        self.take_events();
        self.collect_events();
        let mut output = self.output.lock();
        Requests {
            power_off: std::mem::take(&mut self.power_off),
            reset: std::mem::take(&mut self.reset),
            matched: output.matched(),
            output_error: output.take_error(),
            stop: self.stop,
        }
    }

    /// The new state of the A20 gate, if it has changed.
    pub fn take_a20(&mut self) -> Option<bool> {
        self.collect_events();
        self.a20.take()
    }

    /// Whether shadow RAM has changed; each change is told once.
    pub fn take_pam(&mut self) -> bool {
        self.collect_events();
        std::mem::take(&mut self.pam)
    }

    /// Whether a device waits for memory; each wish is told once.
    pub fn take_transfer(&mut self) -> bool {
        self.collect_events();
        std::mem::take(&mut self.transfer)
    }

    /// Whether video memory has moved; each change is told once.
    pub fn take_video(&mut self) -> bool {
        self.collect_events();
        std::mem::take(&mut self.video)
    }

    /// Where the guest has RAM in place of the display adapter's memory from now on.
    pub(crate) fn set_video_ram(&mut self, window: Option<VideoWindow>) {
        self.video_ram = window;
    }

    /// The devices, to change.
    pub(crate) fn chipset_mut(&mut self) -> &mut Chipset {
        &mut self.chipset
    }

    /// Lends memory to the devices that wait for it.
    pub fn transfer(&mut self, mmu: &mut Mmu) {
        self.chipset.transfer(&mut Bus(mmu));
        let now = self.clock.now();
        self.settle(now);
    }

    /// Whether there was an edge of the NMI wire; each is told once.
    pub fn take_nmi(&mut self) -> bool {
        self.collect_events();
        std::mem::take(&mut self.nmi)
    }

    /// The NMI button.
    pub fn nmi_button(&self) -> NmiButton {
        self.helper.nmi_button()
    }

    /// Something on the board asks for an NMI.
    pub fn nmi_source(&mut self, source: NmiSource) {
        self.chipset.nmi_source(source);
    }

    /// Takes the disk out of floppy drive `drive`, and puts `disk` in.
    ///
    /// # Errors
    /// The drive is not there, or not made for the disk; nothing is changed then.
    pub fn change_floppy(
        &mut self,
        drive: usize,
        disk: Option<FloppyImage>,
    ) -> Result<(), FloppyError> {
        let kind = self
            .chipset
            .floppy_drive(drive)
            .ok_or(FloppyError::NoDrive(drive))?;
        let disk = match disk {
            Some(disk) if !kind.accepts(disk.format()) => {
                let format = disk.format();
                return Err(FloppyError::WrongDrive { drive, format });
            }
            Some(disk) => Some(Box::new(disk) as Box<dyn Medium>),
            None => None,
        };
        self.chipset.change_floppy(drive, disk);
        Ok(())
    }

    /// The RESET# wire. Typed input that has not arrived yet stays.
    pub fn reset(&mut self) {
        self.chipset.reset(self.clock.now());
    }

    /// The processor is reset, and nothing else.
    pub fn processor_reset(&mut self) {
        self.chipset.processor_reset();
    }

    /// Writes what was kept back.
    pub fn flush_output(&mut self) {
        self.output.lock().flush();
    }

    fn collect_events(&mut self) {
        if !self.chipset.has_events() {
            return;
        }
        for event in self.chipset.take_events() {
            match event {
                ChipsetEvent::PowerOff => self.power_off = true,
                // A reset of the system includes one of the processor.
                ChipsetEvent::Reset(ResetKind::Processor) => {
                    self.reset.get_or_insert(ResetKind::Processor);
                }
                ChipsetEvent::Reset(ResetKind::System) => self.reset = Some(ResetKind::System),
                ChipsetEvent::Pam => self.pam = true,
                ChipsetEvent::Dma => self.transfer = true,
                ChipsetEvent::Video => self.video = true,
                ChipsetEvent::A20(open) => self.a20 = Some(open),
                ChipsetEvent::Nmi => self.nmi = true,
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.helper.poll() {
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Input(bytes) => self.input.extend(bytes),
            Event::Stop(reason) => {
                self.stop.get_or_insert(reason);
            }
            Event::Nmi => self.nmi = true,
            Event::Request(request) => self.requests.push_back(*request),
        }
    }

    /// Gives the serial port as much input as it has room for.
    fn feed(&mut self) {
        while !self.input.is_empty() {
            let (front, _) = self.input.as_slices();
            match self.chipset.serial_input(front) {
                0 => return,
                taken => drop(self.input.drain(..taken)),
            }
        }
    }

    /// The time to tell device memory. Reading the clock costs as much as the access itself.
    fn mmio_time(&mut self) -> Nanos {
        if self.chipset.mmio_is_timeless() {
            Nanos::ZERO
        } else {
            self.access_time()
        }
    }

    fn after_mmio(&mut self, now: Nanos) {
        if !self.chipset.mmio_is_timeless() {
            self.settle(now);
        }
    }

    /// After an access: it may have moved the next timer, or made room for input.
    fn settle(&mut self, now: Nanos) {
        self.arm(now);
        if !self.input.is_empty() {
            self.feed();
        }
    }
}

/// Guest-physical memory as devices see it.
struct Bus<'a>(&'a mut Mmu);

impl GuestMemory for Bus<'_> {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        let read = self.0.read_phys(address, data);
        read.map_err(|error| NoMemory { address: error.gpa })
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        let written = self.0.write_phys(address, data);
        written.map_err(|error| NoMemory { address: error.gpa })
    }
}

/// Splits `length` bytes at `address` into naturally aligned accesses of at most 4 bytes: offset
/// and size of each.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (usize, AccessSize)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let at = address.wrapping_add(offset as u64);
        let size = [AccessSize::Dword, AccessSize::Word, AccessSize::Byte]
            .into_iter()
            .find(|size| {
                let bytes = usize::from(size.bytes());
                offset + bytes <= length && at.is_multiple_of(bytes as u64)
            })?;
        let start = offset;
        offset += usize::from(size.bytes());
        Some((start, size))
    })
}

impl Platform for Board {
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let size = AccessSize::from_bytes(usize::from(size)).unwrap_or(AccessSize::Byte);
        let now = self.access_time();
        let value = self.chipset.port_read(port, size, now);
        self.settle(now);
        value
    }

    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        let size = AccessSize::from_bytes(usize::from(size)).unwrap_or(AccessSize::Byte);
        let now = self.access_time();
        self.chipset
            .port_write(port, size, value & size.ones(), now);
        self.settle(now);
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let now = self.mmio_time();
        for (offset, size) in pieces(gpa, data.len()) {
            let value = self
                .chipset
                .mmio_read(gpa.wrapping_add(offset as u64), size, now);
            let bytes = usize::from(size.bytes());
            if let (Some(target), Some(source)) = (
                data.get_mut(offset..offset + bytes),
                value.to_le_bytes().get(..bytes),
            ) {
                target.copy_from_slice(source);
            }
        }
        self.after_mmio(now);
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let now = self.mmio_time();
        for (offset, size) in pieces(gpa, data.len()) {
            let bytes = data
                .get(offset..offset + usize::from(size.bytes()))
                .unwrap_or(&[]);
            let value = bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u32::from(*byte));
            self.chipset
                .mmio_write(gpa.wrapping_add(offset as u64), size, value, now);
        }
        self.after_mmio(now);
    }

    fn mmio_write_elements(&mut self, gpa: u64, element: usize, data: &[u8]) {
        let size = AccessSize::from_bytes(element).unwrap_or(AccessSize::Byte);
        let now = self.mmio_time();
        self.chipset.mmio_write_span(gpa, size, data, now);
        self.after_mmio(now);
    }

    fn mmio_read_elements(&mut self, gpa: u64, element: usize, data: &mut [u8]) {
        let size = AccessSize::from_bytes(element).unwrap_or(AccessSize::Byte);
        let now = self.mmio_time();
        self.chipset.mmio_read_span(gpa, size, data, now);
        self.after_mmio(now);
    }

    fn mmio_copy_elements(&mut self, from: u64, to: u64, element: usize, count: usize) {
        let size = AccessSize::from_bytes(element).unwrap_or(AccessSize::Byte);
        let now = self.mmio_time();
        self.chipset.mmio_copy_span(from, to, size, count, now);
        self.after_mmio(now);
    }

    fn stand_in(&mut self, gpa: u64, len: usize) -> Option<u64> {
        let window = self.video_ram.as_ref()?;
        self.chipset.video_stand_in(window, gpa, len as u64)
    }

    fn interrupt_pending(&mut self) -> bool {
        self.chipset.intr()
    }

    fn acknowledge_interrupt(&mut self) -> u8 {
        let now = self.clock.now();
        let vector = self.chipset.acknowledge_interrupt(now);
        self.arm(now);
        vector
    }

    fn set_ferr(&mut self, asserted: bool) {
        self.chipset.set_ferr(asserted);
    }

    fn ignne(&mut self) -> bool {
        self.chipset.ignne()
    }

    fn attention(&mut self) -> bool {
        self.chipset.has_events() || self.output_attention.load(Ordering::Relaxed)
    }

    fn tsc(&mut self) -> u64 {
        host_tsc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_accesses_are_split_into_aligned_ones() {
        let split = |address, length| {
            pieces(address, length)
                .map(|(offset, size)| (offset, size.bytes()))
                .collect::<Vec<_>>()
        };
        assert_eq!(split(0xA_0000, 4), [(0, 4)]);
        assert_eq!(split(0xA_0001, 4), [(0, 1), (1, 2), (3, 1)]);
        assert_eq!(split(0xA_0002, 8), [(0, 2), (2, 4), (6, 2)]);
        assert_eq!(split(0xA_0000, 3), [(0, 2), (2, 1)]);
        assert_eq!(split(0xA_0000, 0), []);
        for address in 0..8u64 {
            for length in 0..=64 {
                let all = split(address, length);
                let covered: usize = all.iter().map(|(_, bytes)| usize::from(*bytes)).sum();
                assert_eq!(covered, length);
            }
        }
    }
}
