//! Port 80h: firmware shows its progress there, and Linux writes to it to pass about a
//! microsecond of time.

use crate::device::{AccessSize, PortDevice};
use crate::time::Nanos;

/// The port.
pub(super) const POST: u16 = 0x80;

/// The display: holds the byte that was written last.
#[derive(Debug, Default)]
pub(super) struct PostCode {
    pub(super) code: u8,
}

impl PostCode {
    pub(super) fn reset(&mut self) {
        self.code = 0;
    }
}

impl PortDevice for PostCode {
    fn port_read(&mut self, _port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        u32::from(self.code)
    }

    fn port_write(&mut self, _port: u16, _size: AccessSize, value: u32, _now: Nanos) {
        self.code = value as u8;
    }
}
