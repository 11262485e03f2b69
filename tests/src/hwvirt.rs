//! A real KVM without hardware for it: Debian's amd64 kernel with `kvm` and `kvm-amd` under QEMU's
//! TCG with SVM, and host programs that run inside.

mod pulse;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::console::{Console, ConsoleError, Finished};
use crate::guests::{self, Guest, GuestError};
use crate::initrd::Initrd;
use crate::programs;
use pulse::{End, Pulse, Report};

/// How many machines may stop.
const MACHINES: u32 = 3;

/// A file of the host to have inside, in `/payload/`.
#[derive(Clone, Debug)]
pub enum Payload {
    /// An executable under its own name, with its libraries.
    Program(PathBuf),
    /// Any file, under the name given.
    File(String, PathBuf),
}

/// One command to run inside.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name in the results; letters, digits, `-` and `_`.
    pub name: String,
    /// A shell command line.
    pub command: String,
}

/// What a [`Step`] left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepResult {
    /// Its name.
    pub name: String,
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Why the machine or its results are not there.
#[derive(Debug, thiserror::Error)]
pub enum HwVirtError {
    /// It could not be put together.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// It could not be run.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// It did not end in time.
    #[error("the machine did not end: {state}\nthe console said\n{console}")]
    NotEnded {
        /// Its processor and its programs.
        state: String,
        /// The console.
        console: String,
    },
    /// It ran, and did not print what it should.
    #[error("{what}; the console said\n{console}")]
    Unexpected {
        /// What is wrong.
        what: String,
        /// The console.
        console: String,
    },
}

/// Runs `steps` in a machine with a real KVM and returns their results in order.
///
/// `nested_paging` is the `npt` parameter of `kvm-amd`: without it KVM shadows the page tables that
/// the programs inside give it.
///
/// # Errors
///
/// When the machine cannot be built, lives on past `limit`, stops itself again and again, or has no `/dev/kvm`.
pub fn run(
    nested_paging: bool,
    payloads: &[Payload],
    steps: &[Step],
    limit: Duration,
) -> Result<Vec<StepResult>, HwVirtError> {
    // On a busy host the kernel's check of the timer fails now and then, and it panics.
    let append = if nested_paging {
        "console=ttyS0 no_timer_check panic=-1 RINGSHIFT_NPT=1"
    } else {
        "console=ttyS0 no_timer_check panic=-1 RINGSHIFT_NPT=0"
    };
    // Tests run at once, each with a RAM disk of its own.
    let thread = std::thread::current().id();
    let name = format!("hwvirt-{}-{thread:?}", std::process::id());
    let guest = guests::debian_amd64(&name, &["kvm-amd"], |initrd| {
        initrd.file("init", 0o755, include_bytes!("../hwvirt/init.sh"));
        initrd.file("steps.sh", 0o755, script(steps).as_bytes());
        for payload in payloads {
            match payload {
                Payload::Program(path) => add_program(initrd, path)?,
                Payload::File(name, path) => {
                    initrd.file(&format!("payload/{name}"), 0o644, &guests::read(path)?);
                }
            }
        }
        Ok(())
    })?;
    let guest = Guest { append, ..guest };
    let end = until_it_lives(&guest, limit);
    let _ = std::fs::remove_file(&guest.initrd);
    parse(&end?, steps)
}

/// Runs the machine. One that stopped itself, its kernel included, says nothing about the programs inside: that is told on standard error,
/// and there is another.
fn until_it_lives(guest: &Guest, limit: Duration) -> Result<Finished, HwVirtError> {
    let mut left = MACHINES;
    loop {
        let pulse = Pulse::beside(&guest.initrd);
        let mut command = programs::qemu_run(guest);
        pulse.attach(&mut command);
        let console = Console::start(command)?;
        left -= 1;
        match pulse.watch(console, limit)? {
            End::Finished(finished) => return Ok(finished),
            End::Stopped(report) if left > 0 => {
                // Not through `eprintln`, whose output is lost when the test passes.
                let _ = writeln!(
                    std::io::stderr(),
                    "the machine with a KVM stopped, and there is another: {}",
                    report.state
                );
            }
            End::Stopped(Report { state, console }) | End::Late(Report { state, console }) => {
                return Err(HwVirtError::NotEnded { state, console });
            }
        }
    }
}

/// The shell script that runs the steps; `step` is a function of the init script.
fn script(steps: &[Step]) -> String {
    steps
        .iter()
        .map(|step| {
            let quoted = step.command.replace('\'', r"'\''");
            format!("step {} '{quoted}'\n", step.name)
        })
        .collect()
}

/// Puts a program and the libraries that the dynamic linker would load into the RAM disk.
fn add_program(initrd: &mut Initrd, program: &Path) -> Result<(), GuestError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    initrd.file(&format!("payload/{name}"), 0o755, &guests::read(program)?);
    let error = |reason: String| GuestError::Libraries {
        program: program.to_path_buf(),
        reason,
    };
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| error(source.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = String::from_utf8_lossy(&output.stderr);
    if format!("{text}{messages}").contains("not a dynamic executable")
        || text.contains("statically linked")
    {
        return Ok(());
    }
    if !output.status.success() || text.contains("not found") {
        return Err(error(format!("{text}{messages}")));
    }
    for library in libraries(&text) {
        let path = library.trim_start_matches('/');
        initrd.file(path, 0o755, &guests::read(Path::new(library))?);
    }
    Ok(())
}

/// The paths in the output of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x..)` and
/// `/lib64/ld-linux-x86-64.so.2 (0x..)`.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines().filter_map(|line| {
        line.split_whitespace()
            .take_while(|word| !word.starts_with('('))
            .last()
            .filter(|word| word.starts_with('/'))
    })
}

fn parse(finished: &Finished, steps: &[Step]) -> Result<Vec<StepResult>, HwVirtError> {
    let console = finished.stdout.replace('\r', "");
    let unexpected = |what: String| HwVirtError::Unexpected {
        what,
        console: format!("{console}\n{}", finished.stderr),
    };
    if !console.contains("@@ kvm ready") {
        return Err(unexpected("there is no /dev/kvm inside".to_owned()));
    }
    steps
        .iter()
        .map(|step| {
            parse_step(&console, &step.name)
                .ok_or_else(|| unexpected(format!("no result of step {}", step.name)))
        })
        .collect()
}

/// Finds the result of one step between its marker lines.
fn parse_step(console: &str, name: &str) -> Option<StepResult> {
    let (_, rest) = console.split_once(&format!("@@ begin {name}\n"))?;
    let (stdout, rest) = rest.split_once("\n@@ stderr\n")?;
    let (stderr, rest) = rest.split_once(&format!("\n@@ end {name} "))?;
    let status = rest.lines().next()?.trim().parse().ok()?;
    Some(StepResult {
        name: name.to_owned(),
        status,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_between_kernel_messages() {
        let console = "noise\n@@ begin one\na\nb\n\n@@ stderr\n\n@@ end one 0\n[ 1.0] noise\n\
                       @@ begin two\n\n@@ stderr\nbad\n\n@@ end two 7\n";
        let one = parse_step(console, "one").unwrap();
        assert_eq!(
            (one.status, one.stdout.as_str(), one.stderr.as_str()),
            (0, "a\nb\n", "")
        );
        let two = parse_step(console, "two").unwrap();
        assert_eq!(
            (two.status, two.stdout.as_str(), two.stderr.as_str()),
            (7, "", "bad\n")
        );
        assert_eq!(parse_step(console, "three"), None);
    }

    #[test]
    fn ldd_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<&str> = libraries(text).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libgcc_s.so.1",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn commands_are_quoted() {
        let step = Step {
            name: "x".to_owned(),
            command: "echo 'a b'".to_owned(),
        };
        assert_eq!(script(&[step]), "step x 'echo '\\''a b'\\'''\n");
    }
}
