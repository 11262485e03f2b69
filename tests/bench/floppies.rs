//! The same floppy disks in Ringshift (everything translated) and in QEMU TCG, in turn: how long from
//! the start to the prompt, and how long a command takes.
//!
//! `cargo run --release -p ringshift-tests --example bench-floppies [-- --help]`
//!
//! Both have SeaBIOS, 16 MB and the same processor model, and are watched through their monitor consoles
//! every 20 ms. Ringshift's drive turns as a real one does, and QEMU's is as quick as the host: what
//! reads much from the disk says more about that than about the processor.
//!
//! `-- IMAGE TEXT` measures an image of yours, from the start to a text on the screen.

use std::error::Error;
use std::num::{NonZero, ParseIntError};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ringshift_tests::monitor::{Machine, MonitorError, Qemu, Ringshift};
use ringshift_tests::{paths, programs, scripted};

const MEMORY: &str = "16";
const LIMIT: Duration = Duration::from_secs(300);

/// A disk: what its screen shows when it has started, and a command with what that shows in the end.
struct Disk {
    name: &'static str,
    file: &'static str,
    started: &'static str,
    command: Option<(&'static str, &'static str)>,
}

const DISKS: [Disk; 4] = [
    Disk {
        name: "freedos-pi",
        file: "freedos-720k.img",
        started: "A:\\>",
        // Its last digits.
        command: Some(("pi", "2823608963208068222468012248")),
    },
    Disk {
        name: "freedos-dir",
        file: "freedos-720k.img",
        started: "A:\\>",
        command: Some(("dir", "bytes free")),
    },
    Disk {
        name: "freedos-1440k",
        file: "freedos-1440k.img",
        started: "A:\\>",
        command: None,
    },
    Disk {
        name: "mikeos",
        file: "mikeos.img",
        started: "Thanks for trying out MikeOS!",
        command: None,
    },
];

/// Seconds to the start, and of the command.
type Times = (f64, Option<f64>);

fn measure(
    start: impl FnOnce() -> Result<Box<dyn Machine>, MonitorError>,
    started: &str,
    command: Option<(&str, &str)>,
) -> Result<Times, MonitorError> {
    let begin = Instant::now();
    let mut machine = start()?;
    machine.wait_for(started, LIMIT)?;
    let boot = begin.elapsed().as_secs_f64();
    let Some((command, end)) = command else {
        return Ok((boot, None));
    };
    machine.type_text(command)?;
    machine.wait_for(&format!("{}{command}", "\\>"), LIMIT)?;
    let begin = Instant::now();
    machine.type_text("\n")?;
    machine.wait_for(end, LIMIT)?;
    Ok((boot, Some(begin.elapsed().as_secs_f64())))
}

fn compare(
    name: &str,
    image: &Path,
    started: &str,
    command: Option<(&str, &str)>,
    runs: usize,
) -> Result<(), Box<dyn Error>> {
    // A copy: an image that somebody else uses may be locked.
    let place = |what: &str| -> std::io::Result<PathBuf> {
        let name = format!("bench-floppies-{}.{what}", std::process::id());
        Ok(paths::guests_dir()?.join(name))
    };
    let (copy, dump) = (place("img")?, place("text")?);
    std::fs::write(&copy, std::fs::read(image)?)?;
    let image = copy.as_path();
    let snapshot = scripted::snapshot(image);
    let (mut boots, mut commands) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let ours = || Ok(Box::new(Ringshift::start(&snapshot, MEMORY)?) as Box<dyn Machine>);
        let theirs = || Ok(Box::new(Qemu::start(image, MEMORY, &dump)?) as Box<dyn Machine>);
        let ours = measure(ours, started, command)?;
        let theirs = measure(theirs, started, command)?;
        boots.push((ours.0, theirs.0));
        commands.extend(ours.1.zip(theirs.1));
    }
    for file in [&copy, &dump] {
        let _ = std::fs::remove_file(file);
    }
    show(name, "start", boots);
    if let Some((command, _)) = command {
        show(name, command, commands);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn show(name: &str, what: &str, times: Vec<(f64, f64)>) {
    let ours = median(times.iter().map(|time| time.0).collect());
    let theirs = median(times.iter().map(|time| time.1).collect());
    let ratio = median(times.iter().map(|(ours, theirs)| ours / theirs).collect());
    println!("{name:<16} {what:<8} {ours:>8.2} s {theirs:>8.2} s {ratio:>8.2}");
}

/// The same floppy disks in Ringshift (everything translated) and in QEMU TCG, in turn.
#[derive(Parser)]
#[command(name = "bench-floppies")]
struct Options {
    /// Pairs of runs; medians are shown
    #[arg(long, value_name = "N", default_value = "3", value_parser = number)]
    runs: NonZero<usize>,

    /// Names of disks (all if there is none), or an image and the text that its screen shows in the end
    #[arg(value_name = "NAME|IMAGE TEXT")]
    names: Vec<String>,
}

fn number(text: &str) -> Result<NonZero<usize>, ParseIntError> {
    text.parse()
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Options { runs, names } = Options::parse();
    let runs = runs.get();
    if !programs::installed("qemu-system-i386") {
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "{:<16} {:<8} {:>10} {:>10} {:>8}",
        "disk", "what", "Ringshift", "QEMU TCG", "ratio"
    );
    if let [image, text] = names.as_slice()
        && Path::new(image).exists()
    {
        compare("image", Path::new(image), text, None, runs)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(name) = names
        .iter()
        .find(|name| DISKS.iter().all(|disk| disk.name != **name))
    {
        let known = DISKS.map(|disk| disk.name).join(", ");
        return Err(format!("no disk {name:?}: {known}, or IMAGE TEXT").into());
    }
    for disk in DISKS {
        if !names.is_empty() && !names.iter().any(|name| name == disk.name) {
            continue;
        }
        let image: Option<PathBuf> = paths::shared(&format!("guests/{}", disk.file));
        if let Some(image) = image {
            compare(disk.name, &image, disk.started, disk.command, runs)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
