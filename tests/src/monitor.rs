//! Machines with screens, driven through the monitor console at their standard streams: Ringshift's,
//! and QEMU's as a peer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::console::{Console, ConsoleError, Finished};
use crate::programs::{self, BuildError};

/// How often the screen is looked at.
const INTERVAL: Duration = Duration::from_millis(20);
/// An answer takes no longer.
const ANSWER: Duration = Duration::from_secs(60);
/// Where a VGA has its text, and how much there is in 25 lines.
const TEXT: (u32, usize) = (0xb_8000, 4000);

/// Why a machine could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// No program.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// It did not answer.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// It answered something else.
    #[error("the answer to {command:?} is {answer:?}")]
    Answer {
        /// What was asked.
        command: String,
        /// What came.
        answer: String,
    },
    /// The screen did not come to show it in time, or to show it no more.
    #[error("{} {text:?} after {limit:?}; the screen shows\n{screen}", if *shown { "no" } else { "still" })]
    Waited {
        /// The text.
        text: String,
        /// Whether it was to come, or to go.
        shown: bool,
        /// For how long.
        limit: Duration,
        /// What is there.
        screen: String,
    },
    /// No file for the text.
    #[error("cannot use the build directory: {0}")]
    File(#[from] std::io::Error),
}

/// A machine with a text screen and a keyboard.
pub trait Machine {
    /// The text on the screen, line by line.
    ///
    /// # Errors
    ///
    /// The machine does not answer.
    fn screen(&mut self) -> Result<String, MonitorError>;

    /// Types lower-case letters, digits, spaces, periods and line ends.
    ///
    /// # Errors
    ///
    /// The machine does not answer.
    fn type_text(&mut self, text: &str) -> Result<(), MonitorError>;

    /// Waits until the screen shows `text`.
    ///
    /// # Errors
    ///
    /// It does not within `limit`, or the machine does not answer.
    fn wait_for(&mut self, text: &str, limit: Duration) -> Result<(), MonitorError> {
        self.wait(text, true, limit)
    }

    /// Waits until a text is on the screen no more.
    ///
    /// # Errors
    ///
    /// As those of [`Self::wait_for`].
    fn wait_gone(&mut self, text: &str, limit: Duration) -> Result<(), MonitorError> {
        self.wait(text, false, limit)
    }

    /// Waits until a text is on the screen, or is not.
    ///
    /// # Errors
    ///
    /// As those of [`Self::wait_for`].
    fn wait(&mut self, text: &str, shown: bool, limit: Duration) -> Result<(), MonitorError> {
        let start = Instant::now();
        loop {
            let screen = self.screen()?;
            if screen.contains(text) == shown {
                return Ok(());
            }
            if start.elapsed() >= limit {
                return Err(MonitorError::Waited {
                    text: text.to_owned(),
                    shown,
                    limit,
                    screen,
                });
            }
            thread::sleep(INTERVAL);
        }
    }
}

/// `ringshift run --monitor stdio`.
#[derive(Debug)]
pub struct Ringshift {
    console: Console,
    asked: u32,
}

impl Ringshift {
    /// Boots an image with everything translated.
    ///
    /// # Errors
    ///
    /// The program does not build or start.
    pub fn start(image: &str, memory: &str) -> Result<Self, MonitorError> {
        let mut command = programs::ringshift()?;
        command
            .args(["run", image, "--memory", memory, "--policy", "translate"])
            .args(["--monitor", "stdio"]);
        let console = Console::start(command)?;
        Ok(Self { console, asked: 0 })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.console.id()
    }

    /// Carries out a command of the monitor.
    ///
    /// # Errors
    ///
    /// The monitor does not answer, or with an error.
    pub fn ask(&mut self, command: &str) -> Result<Value, MonitorError> {
        self.asked += 1;
        let request = json!({ "command": command, "id": self.asked });
        self.console.send(&format!("{request}\n"))?;
        // What is before the first answer is the prompt.
        let id = format!("\"id\":{},", self.asked);
        let before = self.console.expect(&id, ANSWER)?;
        let rest = self.console.expect("\n", ANSWER)?;
        let line = format!("{before}{id}{rest}");
        let json = line.find('{').and_then(|start| line.get(start..));
        let answer: Option<Value> = json.and_then(|json| serde_json::from_str(json).ok());
        match answer {
            Some(mut answer) if answer["ok"] == true => Ok(answer["result"].take()),
            _ => Err(MonitorError::Answer {
                command: command.to_owned(),
                answer: line,
            }),
        }
    }

    /// Ends the run.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn quit(mut self) -> Result<Finished, MonitorError> {
        self.console.send("{\"command\":\"quit\"}\n")?;
        Ok(self.console.finish(ANSWER)?)
    }
}

impl Machine for Ringshift {
    fn screen(&mut self) -> Result<String, MonitorError> {
        // Before the video BIOS has set a mode, and in graphics modes, there is no text.
        let text = match self.ask("text") {
            Ok(text) => text,
            Err(MonitorError::Answer { .. }) => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let rows = text["rows"].as_array().into_iter().flatten();
        let rows: Vec<&str> = rows.filter_map(Value::as_str).collect();
        Ok(rows.join("\n"))
    }

    fn type_text(&mut self, text: &str) -> Result<(), MonitorError> {
        let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
        self.ask(&format!("type \"{escaped}\"")).map(|_| ())
    }
}

/// QEMU without hardware virtualization.
#[derive(Debug)]
pub struct Qemu {
    console: Console,
    memory: PathBuf,
}

impl Qemu {
    /// Boots an image; what is written to it is dropped. `dump` is a file for the screen's memory.
    ///
    /// # Errors
    ///
    /// QEMU does not start.
    pub fn start(image: &Path, memory: &str, dump: &Path) -> Result<Self, MonitorError> {
        let mut command = Command::new("qemu-system-i386");
        command
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
            .args(["-cpu", "coreduo", "-m", memory, "-vga", "std"])
            .args(["-display", "none", "-monitor", "stdio", "-snapshot"])
            .args(["-boot", "a", "-drive"])
            .arg(format!("if=floppy,format=raw,file={}", image.display()));
        let mut console = Console::start(command)?;
        console.expect(PROMPT, ANSWER)?;
        Ok(Self {
            console,
            memory: dump.to_owned(),
        })
    }

    fn command(&mut self, command: &str) -> Result<(), MonitorError> {
        self.console.send(&format!("{command}\n"))?;
        // The line is echoed; then comes the next prompt.
        self.console.expect("\n", ANSWER)?;
        self.console.expect(PROMPT, ANSWER)?;
        Ok(())
    }
}

const PROMPT: &str = "(qemu) ";

impl Machine for Qemu {
    fn screen(&mut self) -> Result<String, MonitorError> {
        let (address, bytes) = TEXT;
        let path = self.memory.display().to_string();
        self.command(&format!("pmemsave {address:#x} {bytes} \"{path}\""))?;
        let memory = fs::read(&self.memory)?;
        let rows: Vec<String> = memory
            .chunks(160)
            .map(|row| {
                row.iter()
                    .step_by(2)
                    .map(|byte| char::from(*byte))
                    .collect()
            })
            .collect();
        Ok(rows.join("\n"))
    }

    fn type_text(&mut self, text: &str) -> Result<(), MonitorError> {
        for character in text.chars() {
            let key = match character {
                '\n' => "ret".to_owned(),
                ' ' => "spc".to_owned(),
                '.' => "dot".to_owned(),
                other => other.to_string(),
            };
            self.command(&format!("sendkey {key} 20"))?;
            thread::sleep(Duration::from_millis(60));
        }
        Ok(())
    }
}
