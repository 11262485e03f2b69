//! Help for the tests of this crate.

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};

/// A small generator of reproducible pseudo-random numbers (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A time near `now`: mostly a little later, sometimes much later or earlier.
    pub(crate) fn time_near(&mut self, now: Nanos) -> Nanos {
        match self.below(64) {
            0 => Nanos(0),
            3..=8 => Nanos(now.0.saturating_sub(self.below(2_000_000_000))),
            9..=16 => now.after(self.below(5_000_000_000)),
            _ => now.after(self.below(20_000)),
        }
    }
}

/// Random reads and writes of `ports`, with time going forwards and backwards; `check` runs
/// after each.
pub(crate) fn fuzz_ports<D: PortDevice>(
    seed: u64,
    device: &mut D,
    ports: &[u16],
    width: AccessSize,
    mut check: impl FnMut(&mut D, Nanos),
) {
    let mut random = Random::new(seed);
    let mut now = Nanos::ZERO;
    for round in 0..50_000 {
        // Devices that have seen the end of time stand still, so that comes last.
        let at = match random.below(8) {
            0 if round > 48_000 => Nanos(random.next()),
            1 if round > 48_000 => Nanos::MAX,
            _ => random.time_near(now),
        };
        now = at.min(Nanos::from_secs(1_000_000));
        let size = match random.below(3) {
            0 => AccessSize::Byte,
            1 => AccessSize::Word,
            _ => AccessSize::Dword,
        }
        .min(width);
        let port = ports[random.below(ports.len() as u64) as usize] & !u16::from(size.bytes() - 1);
        if random.below(2) == 0 {
            device.port_read(port, size, at);
        } else {
            let value = random.next() as u32 & size.ones();
            device.port_write(port, size, value, at);
        }
        check(device, at);
    }
}
