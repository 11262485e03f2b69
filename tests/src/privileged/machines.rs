//! Runs the image in Ringshift, in QEMU's TCG and in Bochs.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::case::Case;
use super::image;
use crate::console::{Console, ConsoleError};
use crate::{paths, programs};

/// What ends a report.
const END: &str = "END";

/// The instructions that QEMU and Bochs run.
const CROSS_CHECKED: &[&str] = &["CLI", "STI", "PUSHF", "POPF"];

/// Bochs's ROM images.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// A machine that runs the cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Machine {
    /// This project.
    Ringshift,
    /// `qemu-system-i386 -accel tcg`.
    Qemu,
    /// Bochs.
    Bochs,
}

/// Why a machine has no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A program.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A file.
    #[error(transparent)]
    File(#[from] io::Error),
    /// An instruction of the image does not encode.
    #[error(transparent)]
    Code(#[from] iced_x86::IcedError),
    /// It does not build.
    #[error(transparent)]
    Build(#[from] programs::BuildError),
    /// No end in time.
    #[error("no end of the report within {limit:?}; it ends in {tail:?}")]
    NoEnd {
        /// The time limit.
        limit: Duration,
        /// Its last characters.
        tail: String,
    },
}

impl Machine {
    /// All.
    pub const ALL: [Machine; 3] = [Machine::Ringshift, Machine::Qemu, Machine::Bochs];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Machine::Ringshift => "Ringshift",
            Machine::Qemu => "QEMU",
            Machine::Bochs => "Bochs",
        }
    }

    /// Whether it runs a case. QEMU and Bochs run those of the instructions whose differences have
    /// been explained so far.
    #[must_use]
    pub fn checks(self, case: &Case) -> bool {
        match self {
            Machine::Ringshift => true,
            Machine::Qemu | Machine::Bochs => CROSS_CHECKED.contains(&case.instruction),
        }
    }

    /// Whether it can be run here; says so on standard error if not.
    #[must_use]
    pub fn installed(self) -> bool {
        match self {
            Machine::Ringshift => true,
            Machine::Qemu => programs::installed("qemu-system-i386"),
            Machine::Bochs => programs::installed("bochs") && rom_images(),
        }
    }

    /// Boots `payload` and returns what it sent on the serial port.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub fn run(self, payload: &[u8], limit: Duration) -> Result<String, RunError> {
        let scratch = Scratch::new(self)?;
        let directory = &scratch.0;
        match self {
            Machine::Ringshift => {
                let kernel = directory.join("kernel");
                fs::write(&kernel, image::kernel(payload))?;
                let mut command = Command::new(programs::ringshift_path()?);
                command
                    .args(["run", "--policy", "translate", "--memory", "40M"])
                    .arg("--kernel")
                    .arg(kernel);
                talk(command, limit)
            }
            Machine::Qemu => {
                let kernel = directory.join("kernel");
                fs::write(&kernel, image::kernel(payload))?;
                let mut command = Command::new("qemu-system-i386");
                command
                    .args(["-accel", "tcg", "-cpu", "coreduo", "-m", "40M"])
                    .args(["-display", "none", "-monitor", "none", "-no-reboot"])
                    .args(["-nodefaults", "-serial", "stdio", "-kernel"])
                    .arg(kernel);
                talk(command, limit)
            }
            Machine::Bochs => bochs(payload, directory, limit),
        }
    }
}

/// Whether Bochs has its ROM images; says so on standard error if not.
fn rom_images() -> bool {
    let missing = [BIOS, VGA_BIOS]
        .into_iter()
        .find(|rom| !Path::new(rom).exists());
    if let Some(rom) = missing {
        // Not through `eprintln`, whose output is lost when the test passes.
        let _ = writeln!(io::stderr(), "SKIPPED: {rom} is not there");
    }
    missing.is_none()
}

/// A directory of the machine's own, which goes away with this value. Each process has one, so
/// that tests can run at once.
struct Scratch(PathBuf);

impl Scratch {
    fn new(machine: Machine) -> io::Result<Scratch> {
        let name = format!("privileged-{}-{}", machine.name(), std::process::id());
        let directory = paths::profile_dir()?.join(name);
        fs::create_dir_all(&directory)?;
        Ok(Scratch(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn talk(command: Command, limit: Duration) -> Result<String, RunError> {
    let mut console = Console::start(command)?;
    Ok(console.expect(END, limit)?)
}

/// A child that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bochs(payload: &[u8], directory: &Path, limit: Duration) -> Result<String, RunError> {
    let disk = image::disk(payload)?;
    let cylinders = image::cylinders(&disk);
    fs::write(directory.join("disk"), disk)?;
    let configuration = format!(
        "display_library: rfb, options=\"timeout=0\"\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         cpu: model=core_duo_t2400_yonah, count=1, ips=1000000, reset_on_triple_fault=0\n\
         memory: guest=64, host=64\n\
         ata0-master: type=disk, path=disk, mode=flat, cylinders={cylinders}, heads=16, spt=63\n\
         boot: disk\n\
         clock: sync=none\n\
         com1: enabled=1, mode=file, dev=report\n\
         sound: driver=dummy\n\
         panic: action=fatal\n\
         error: action=ignore\n\
         info: action=ignore\n\
         debug: action=ignore\n\
         log: log\n"
    );
    fs::write(directory.join("bochsrc"), configuration)?;
    // Debian's has its debugger built in, which waits for a command.
    fs::write(directory.join("commands"), "continue\n")?;
    let report = directory.join("report");
    if report.exists() {
        fs::remove_file(&report)?;
    }
    let child = Command::new("bochs")
        .args(["-q", "-f", "bochsrc", "-rc", "commands"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut running = Running(child);
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(&report).unwrap_or_default();
        if text.contains(END) {
            return Ok(text);
        }
        let ended = running.0.try_wait()?.is_some();
        if ended || started.elapsed() > limit {
            let tail = text.chars().rev().take(200).collect::<Vec<_>>();
            return Err(RunError::NoEnd {
                limit,
                tail: tail.into_iter().rev().collect(),
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
}
