//! The board's outside: keys, mouse, disks, the other end of the serial port, buttons and lamps.

use crate::fdc::{DriveKind, Medium};
use crate::serial::spec::Msr;
use crate::time::Nanos;

use super::Chipset;

impl Chipset {
    /// Takes the disk out of floppy drive `drive` (0 or 1), and puts `disk` in. Returns the old
    /// one.
    pub fn change_floppy(
        &mut self,
        drive: usize,
        disk: Option<Box<dyn Medium>>,
    ) -> Option<Box<dyn Medium>> {
        self.devices.fdc.change(drive, disk)
    }

    /// The kind of floppy drive `drive`, if there is one.
    pub fn floppy_drive(&self, drive: usize) -> Option<DriveKind> {
        self.devices.fdc.drive_kind(drive)
    }

    /// Whether there is a disk in floppy drive `drive`.
    pub fn has_floppy(&self, drive: usize) -> bool {
        self.devices.fdc.has_disk(drive)
    }

    /// How many bytes [`Self::serial_input`] would take now.
    pub fn can_accept_serial_input(&self) -> usize {
        self.devices.com1.can_accept_input()
    }

    /// The lines that the other end of the serial port's cable drives.
    pub fn set_modem_lines(&mut self, lines: Msr) {
        self.devices.com1.set_modem_lines(lines);
    }

    /// Bytes typed at the other end of COM1. Returns how many were taken.
    pub fn serial_input(&mut self, bytes: &[u8]) -> usize {
        self.devices.com1.enqueue_input(bytes)
    }

    /// Keys moved, told as scan codes of set 2. False if they were dropped.
    ///
    /// They go before what is due: where nobody called for longer than the delay of the typematic, a
    /// key that is released now does not repeat.
    pub fn keyboard_input(&mut self, scan_codes: &[u8], now: Nanos) -> bool {
        let now = self.now.max(now);
        let taken = self.devices.i8042.keys(scan_codes, now);
        self.tick(now);
        self.schedule();
        taken
    }

    /// The mouse moved right by `dx` and up by `dy`, its wheel turned towards the user by `dz`;
    /// `buttons` are bit 0 left, bit 1 right, bit 2 middle.
    pub fn mouse_input(&mut self, dx: i32, dy: i32, dz: i32, buttons: u8, now: Nanos) {
        let now = self.tick(now);
        self.devices.i8042.mouse(dx, dy, dz, buttons, now);
        self.schedule();
    }

    /// The keyboard's indicators: bit 0 scroll lock, bit 1 number lock, bit 2 caps lock.
    pub fn keyboard_leds(&self) -> u8 {
        self.devices.i8042.leds()
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&mut self) {
        self.devices.pm.press_power_button();
        self.schedule();
    }
}
