//! How long Debian's 686 kernel takes from start to `init`: Ringshift (everything translated) and
//! QEMU TCG in turn, on the same kernel, initrd, command line, memory and processor model.
//!
//! `cargo run --release -p ringshift-tests --example bench-boot [-- RUNS]` (default 5). Wall time of
//! the whole program until the marker is on the serial port; medians and the ratio of each pair, as
//! machines drift.

use ringshift_tests::console::Console;
use ringshift_tests::{guests, programs};
use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

/// What the kernel prints in front of starting `init`.
const MARKER: &str = "Run /init as init process";
/// The processor model of both; they mean the same by the name.
const CPU: &str = "coreduo";
const LIMIT: Duration = Duration::from_secs(120);

fn time(command: Command) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let mut console = Console::start(command)?;
    console.expect(MARKER, LIMIT)?;
    Ok(start.elapsed().as_secs_f64())
}

fn summary(name: &str, values: &mut [f64], unit: &str) {
    values.sort_by(f64::total_cmp);
    if let (Some(least), Some(most)) = (values.first(), values.last()) {
        let median = values[values.len() / 2];
        println!("{name:<22} median {median:7.3} {unit}  ({least:.3} to {most:.3})");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runs = match std::env::args().nth(1) {
        Some(text) => text.parse::<usize>()?.max(1),
        None => 5,
    };
    let guest = guests::debian_686(guests::Session::Scripted)?;
    let (mut ours, mut qemu, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=runs {
        let mut command = programs::ringshift_run(&guest)?;
        command.args(["--policy", "translate", "--cpu", CPU]);
        let mine = time(command)?;
        let mut command = programs::qemu_run(&guest);
        command.args(["-cpu", CPU]);
        let theirs = time(command)?;
        if run == 0 {
            continue; // warms the page cache
        }
        println!(
            "run {run}: Ringshift {mine:.3} s, QEMU {theirs:.3} s, ratio {:.3}",
            mine / theirs
        );
        ours.push(mine);
        qemu.push(theirs);
        ratios.push(mine / theirs);
    }
    summary("Ringshift", &mut ours, "s");
    summary("QEMU TCG", &mut qemu, "s");
    summary("ratio, pair by pair", &mut ratios, " ");
    Ok(())
}
