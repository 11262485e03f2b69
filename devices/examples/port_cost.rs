//! What an access to the ports of the chipset costs, in nanoseconds.
//!
//! `cargo run --release -p devices --example port_cost`

use std::hint::black_box;
use std::time::Instant;

use devices::{AccessSize, Chipset, ChipsetConfig, Nanos};

const ROUNDS: u64 = 2_000_000;

fn measure(chipset: &mut Chipset, name: &str, mut access: impl FnMut(&mut Chipset, Nanos)) {
    let start = Instant::now();
    for round in 0..ROUNDS {
        access(chipset, Nanos(round * 400));
    }
    let nanos = start.elapsed().as_nanos() as f64 / ROUNDS as f64;
    println!("{name:32} {nanos:6.1} ns");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let byte = AccessSize::Byte;
    type Access<'a> = (&'a str, Box<dyn FnMut(&mut Chipset, Nanos)>);
    let read = move |port: u16| {
        move |c: &mut Chipset, now| {
            black_box(c.port_read(port, byte, now));
        }
    };
    let write =
        move |port: u16, value| move |c: &mut Chipset, now| c.port_write(port, byte, value, now);
    let accesses: Vec<Access<'_>> = vec![
        ("61h read (TSC calibration)", Box::new(read(0x61))),
        ("40h read", Box::new(read(0x40))),
        ("80h write (delay)", Box::new(write(0x80, 0))),
        ("21h read (IMR)", Box::new(read(0x21))),
        ("20h write (EOI)", Box::new(write(0x20, 0x20))),
        ("64h read (8042 status)", Box::new(read(0x64))),
        ("71h read (CMOS)", Box::new(read(0x71))),
        ("3FDh read (LSR)", Box::new(read(0x3fd))),
        ("3F8h write (THR, null sink)", Box::new(write(0x3f8, 0x41))),
        ("1F7h read (nobody)", Box::new(read(0x1f7))),
        (
            "608h read (ACPI timer)",
            Box::new(|c, now| {
                black_box(c.port_read(0x608, AccessSize::Dword, now));
            }),
        ),
        (
            "INTR",
            Box::new(|c, _| {
                black_box(c.intr());
            }),
        ),
    ];
    for (name, access) in accesses {
        let mut chipset = Chipset::new(ChipsetConfig::new())?;
        // Counter 0 runs at 100 Hz, as it does under an operating system.
        for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e), (0x61, 1)] {
            chipset.port_write(port, byte, value, Nanos::ZERO);
        }
        measure(&mut chipset, name, access);
    }
    Ok(())
}
