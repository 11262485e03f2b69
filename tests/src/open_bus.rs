//! The machine around a vCPU that is tested alone: nothing on any bus, no interrupt.

use translator::Platform;

/// A bus with nothing on it: reads find all lines high, writes go nowhere. Its time-stamp counter
/// goes on by one with each reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenBus {
    tsc: u64,
}

impl Platform for OpenBus {
    fn port_read(&mut self, _port: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
    }

    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) {}

    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xFF);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}

    fn interrupt_pending(&mut self) -> bool {
        false
    }

    fn acknowledge_interrupt(&mut self) -> u8 {
        0
    }

    fn attention(&mut self) -> bool {
        false
    }

    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
}
