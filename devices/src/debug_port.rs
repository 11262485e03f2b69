//! Port 402h, where firmware writes its log: a line of text becomes a line in the monitor's log,
//! target `firmware`.

use tracing::debug;

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};

/// The port.
pub const DEBUG_PORT: u16 = 0x402;
/// What the port reads as: a firmware finds out that somebody listens.
pub const LISTENING: u8 = 0xe9;
/// Bytes after which a line is passed on without its end.
const MAX_LINE: usize = 240;

/// The port, with the line that is being written.
#[derive(Debug, Default)]
pub struct DebugPort {
    line: Vec<u8>,
}

impl DebugPort {
    /// Passes on what has been written since the last line end.
    pub fn reset(&mut self) {
        self.end_line();
    }

    fn end_line(&mut self) {
        if !self.line.is_empty() {
            // What the guest writes goes to a terminal: no control characters.
            let text: String = String::from_utf8_lossy(&self.line)
                .chars()
                .map(|c| if c.is_control() { '.' } else { c })
                .collect();
            debug!(target: "firmware", "{text}");
            self.line.clear();
        }
    }
}

impl PortDevice for DebugPort {
    fn port_read(&mut self, _port: u16, _size: AccessSize, _now: Nanos) -> u32 {
        u32::from(LISTENING)
    }

    fn port_write(&mut self, _port: u16, _size: AccessSize, value: u32, _now: Nanos) {
        match value as u8 {
            b'\n' => self.end_line(),
            b'\r' => {}
            byte => {
                self.line.push(byte);
                if self.line.len() >= MAX_LINE {
                    self.end_line();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_a_line_feed_or_when_they_are_too_long() {
        let mut port = DebugPort::default();
        let mut write = |text: &[u8]| {
            for byte in text {
                port.port_write(DEBUG_PORT, AccessSize::Byte, (*byte).into(), Nanos::ZERO);
            }
            port.line.len()
        };
        assert_eq!(write(b"SeaBIOS\r"), 7);
        assert_eq!(write(b"\n"), 0);
        assert_eq!(write(&[b'x'; MAX_LINE + 3]), 3);
        assert_eq!(write(b"\n"), 0);
        let read = port.port_read(DEBUG_PORT, AccessSize::Byte, Nanos::ZERO);
        assert_eq!(read, u32::from(LISTENING));
    }
}
