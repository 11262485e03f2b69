//! Whether the machine with a real KVM still lives, and what it was about when it did not end.
//!
//! A process inside writes to the second serial line every few seconds. Where that ceases, the machine's
//! kernel or its clock has stopped: more than a hang of a program inside.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::console::{Console, ConsoleError, Finished};

/// The process inside writes every 10 s of the machine's time; it has one processor, and that may be
/// one among many here.
pub(super) const SILENCE: Duration = Duration::from_secs(240);

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// States of the processor to show, and the time between them.
const SAMPLES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(25);

/// How a machine ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself.
    Finished(Finished),
    /// It stopped, and so did its pulse.
    Stopped(Report),
    /// The time is over, and it still lives.
    Late(Report),
}

/// What there was to see of a machine that did not end.
#[derive(Debug)]
pub(super) struct Report {
    /// Its processor and what its programs were about.
    pub(super) state: String,
    /// Its console.
    pub(super) console: String,
}

/// Where a machine's pulse and its monitor are.
#[derive(Debug)]
pub(super) struct Pulse {
    serial: PathBuf,
    monitor: PathBuf,
}

impl Pulse {
    /// Files named as `image`, which is of this machine only.
    pub(super) fn beside(image: &Path) -> Self {
        // The path of a socket has 107 characters at most: not below wherever the project lies.
        let name = image.file_name().unwrap_or_default();
        Self {
            serial: image.with_extension("pulse"),
            monitor: std::env::temp_dir().join(name).with_extension("monitor"),
        }
    }

    /// More of QEMU's command line: the second serial line and the monitor.
    pub(super) fn attach(&self, command: &mut Command) {
        let option = |kind: &str, path: &Path, more: &str| {
            // A comma ends a value, and is doubled within one.
            let path = path.to_string_lossy().replace(',', ",,");
            format!("{kind}{path}{more}")
        };
        command
            .args(["-serial", &option("file:", &self.serial, "")])
            .args([
                "-monitor",
                &option("unix:", &self.monitor, ",server=on,wait=off"),
            ]);
    }

    /// Waits for the end of the machine.
    ///
    /// # Errors
    ///
    /// Its process or its pipes fail.
    pub(super) fn watch(&self, mut console: Console, limit: Duration) -> Result<End, ConsoleError> {
        let start = Instant::now();
        let (mut beats, mut last) = (0, start);
        while console.running()? {
            let len = fs::metadata(&self.serial).map_or(0, |file| file.len());
            if len != beats {
                (beats, last) = (len, Instant::now());
            }
            let silence = last.elapsed();
            if silence >= SILENCE || start.elapsed() >= limit {
                let state = format!(
                    "{} s after the start, {} s after its last pulse; {}{}",
                    start.elapsed().as_secs(),
                    silence.as_secs(),
                    self.processor()
                        .unwrap_or_else(|error| format!("no monitor: {error}\n")),
                    self.last_beats()
                );
                let report = Report {
                    state,
                    console: console.printed(),
                };
                return Ok(if silence >= SILENCE {
                    End::Stopped(report)
                } else {
                    End::Late(report)
                });
            }
            thread::sleep(INTERVAL);
        }
        console.finish(Duration::ZERO).map(End::Finished)
    }

    /// What the processor does: the states that QEMU's monitor shows one after the other.
    fn processor(&self) -> io::Result<String> {
        let mut monitor = UnixStream::connect(&self.monitor)?;
        monitor.set_read_timeout(Some(Duration::from_secs(10)))?;
        answer(&mut monitor)?;
        let mut text = String::from("the processor:\n");
        for _ in 0..SAMPLES {
            monitor.write_all(b"info registers\n")?;
            let state = answer(&mut monitor)?;
            for line in state.lines() {
                if ["RIP=", "RSP", "CS =", "CR0="]
                    .iter()
                    .any(|name| line.contains(name))
                {
                    let _ = writeln!(text, "  {}", line.trim());
                }
            }
            thread::sleep(BETWEEN);
        }
        Ok(text)
    }

    /// The end of what the process inside wrote.
    fn last_beats(&self) -> String {
        let bytes = fs::read(&self.serial).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let from = text
            .rmatch_indices("@@ pulse")
            .nth(1)
            .map_or(0, |(at, _)| at);
        format!("its last pulses:\n{}", text.get(from..).unwrap_or_default())
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.serial);
        let _ = fs::remove_file(&self.monitor);
    }
}

/// What the monitor says until it is ready for a command.
fn answer(monitor: &mut UnixStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.ends_with(b"(qemu) ") {
        match monitor.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(script: &str) -> (PathBuf, End) {
        let name = format!("pulse-{}-{}", std::process::id(), script.len());
        let pulse = Pulse::beside(&std::env::temp_dir().join(name));
        let serial = pulse.serial.clone();
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PULSE", &serial);
        let console = Console::start(command).unwrap();
        (
            serial,
            pulse.watch(console, Duration::from_secs(2)).unwrap(),
        )
    }

    #[test]
    fn a_machine_that_ends_is_read_to_its_end() {
        let (_, end) = watch("echo one; echo two >&2");
        let End::Finished(end) = end else {
            panic!("{end:?}");
        };
        assert_eq!(
            (end.stdout.as_str(), end.stderr.as_str()),
            ("one\n", "two\n")
        );
    }

    #[test]
    fn one_that_does_not_says_what_it_was_about() {
        let script = r#"
            for beat in 1 2 3; do echo "@@ pulse $beat"; done >"$PULSE"
            echo here
            exec sleep 60"#;
        let (serial, end) = watch(script);
        let End::Late(Report { state, console }) = end else {
            panic!("{end:?}");
        };
        assert_eq!(console, "here\n");
        assert!(state.contains("no monitor"), "{state}");
        assert!(
            state.ends_with("its last pulses:\n@@ pulse 2\n@@ pulse 3\n"),
            "{state}"
        );
        assert!(!serial.exists(), "{}", serial.display());
    }
}
