//! Runs the image in Ringshift, in QEMU's TCG and in Bochs.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::image;
use crate::{paths, programs};

/// What ends a report.
const END: &str = "END";

/// A machine that sends nothing for so long has stopped; for a host that is busy.
const SILENCE: Duration = Duration::from_secs(60);

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
    /// A file.
    #[error(transparent)]
    File(#[from] io::Error),
    /// An instruction of the image does not encode.
    #[error(transparent)]
    Code(#[from] iced_x86::IcedError),
    /// It does not build.
    #[error(transparent)]
    Build(#[from] programs::BuildError),
}

/// What a machine sent.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whole lines.
    pub text: String,
    /// It came to the end; otherwise it stopped in the case behind the last line.
    pub complete: bool,
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
    pub fn run(self, payload: &[u8]) -> Result<Report, RunError> {
        let scratch = Scratch::new(self)?;
        let directory = &scratch.0;
        let report = directory.join("report");
        let kernel = directory.join("kernel");
        if self != Machine::Bochs {
            fs::write(&kernel, image::kernel(payload))?;
        }
        let mut output = Stdio::null();
        let mut command = match self {
            Machine::Ringshift => {
                output = Stdio::from(fs::File::create(&report)?);
                let mut command = Command::new(programs::ringshift_path()?);
                command
                    .args(["run", "--policy", "translate", "--memory", "40M"])
                    .arg("--kernel")
                    .arg(kernel);
                command
            }
            Machine::Qemu => {
                let mut command = Command::new("qemu-system-i386");
                command
                    .args(["-accel", "tcg", "-cpu", "coreduo", "-m", "40M"])
                    .args(["-display", "none", "-monitor", "none", "-no-reboot"])
                    .args(["-nodefaults", "-serial", "file:report", "-kernel"])
                    .arg(kernel);
                command
            }
            Machine::Bochs => bochs(payload, directory)?,
        };
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()?;
        follow(Running(child), &report)
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

/// A child that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `report` has its end, the machine has ended, or nothing has come for a while.
fn follow(mut running: Running, report: &Path) -> Result<Report, RunError> {
    let mut size = 0;
    let mut heard = Instant::now();
    loop {
        let ended = running.0.try_wait()?.is_some();
        let now = fs::metadata(report).map_or(0, |data| data.len());
        if now != size {
            size = now;
            heard = Instant::now();
        }
        let silent = heard.elapsed() > SILENCE;
        if ended || silent || ends(report, size)? {
            // What comes before the first line may be anything.
            let mut text = String::from_utf8_lossy(&fs::read(report)?).into_owned();
            let complete = text.contains(END);
            text.truncate(text.rfind('\n').map_or(0, |newline| newline + 1));
            return Ok(Report { text, complete });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a report of `size` bytes has its end.
fn ends(report: &Path, size: u64) -> io::Result<bool> {
    if size < END.len() as u64 {
        return Ok(false);
    }
    let mut file = fs::File::open(report)?;
    let mut tail = String::new();
    file.seek(SeekFrom::Start(size.saturating_sub(16)))?;
    Ok(file.read_to_string(&mut tail).is_ok() && tail.contains(END))
}

/// The command that runs Bochs in `directory`.
fn bochs(payload: &[u8], directory: &Path) -> Result<Command, RunError> {
    let disk = image::disk(payload)?;
    let cylinders = image::cylinders(&disk);
    fs::write(directory.join("disk"), disk)?;
    let configuration = format!(
        "display_library: rfb, options=\"timeout=0\"\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         cpu: model=core_duo_t2400_yonah, count=1, ips=1000000, reset_on_triple_fault=0, ignore_bad_msrs=0\n\
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
    let mut command = Command::new("bochs");
    command.args(["-q", "-f", "bochsrc", "-rc", "commands"]);
    Ok(command)
}
