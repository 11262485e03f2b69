//! A program under test with its standard streams: typed text in, expected text out, a time limit.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Why a conversation with a program failed. The texts hold what the program said.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// It could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// What went wrong.
        source: io::Error,
    },
    /// It did not print what was expected in time.
    #[error(
        "no {text:?} within {limit:?}; standard output ends in\n{tail}\nstandard error:\n{stderr}"
    )]
    NotSeen {
        /// What was expected.
        text: String,
        /// The time limit.
        limit: Duration,
        /// The last lines it printed.
        tail: String,
        /// Its standard error.
        stderr: String,
    },
    /// It closed its standard output before printing what was expected.
    #[error("ended without {text:?}; standard output ends in\n{tail}\nstandard error:\n{stderr}")]
    Ended {
        /// What was expected.
        text: String,
        /// The last lines it printed.
        tail: String,
        /// Its standard error.
        stderr: String,
    },
    /// It did not end in time.
    #[error(
        "still running after {limit:?}; standard output ends in\n{tail}\nstandard error:\n{stderr}"
    )]
    StillRunning {
        /// The time limit.
        limit: Duration,
        /// The last lines it printed.
        tail: String,
        /// Its standard error.
        stderr: String,
    },
    /// Its standard input or the process itself failed.
    #[error("console: {0}")]
    Io(#[from] io::Error),
}

/// What a program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Finished {
    /// The exit status; `None` after a signal.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Bytes that a thread reads from a pipe.
#[derive(Debug, Default)]
struct Capture {
    state: Mutex<CaptureState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct CaptureState {
    bytes: Vec<u8>,
    closed: bool,
}

impl Capture {
    fn start(mut from: impl Read + Send + 'static) -> Arc<Self> {
        let capture = Arc::new(Self::default());
        let shared = Arc::clone(&capture);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = from.read(&mut buffer).unwrap_or(0);
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                state
                    .bytes
                    .extend_from_slice(buffer.get(..read).unwrap_or_default());
                state.closed = read == 0;
                shared.changed.notify_all();
                if state.closed {
                    return;
                }
            }
        });
        capture
    }

    fn text(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&state.bytes).into_owned()
    }

    /// Waits until the pipe is closed; a grandchild may keep it open.
    fn wait_closed(&self, limit: Duration) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(state, limit, |state| !state.closed),
        );
    }
}

/// A running program. It is killed when this value goes away.
#[derive(Debug)]
pub struct Console {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Capture>,
    stderr: Arc<Capture>,
    started: Instant,
    /// Standard output up to here has been matched by [`Console::expect`].
    seen: usize,
}

impl Console {
    /// Starts a program with pipes for its standard streams.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(mut command: Command) -> Result<Self, ConsoleError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| ConsoleError::Start { program, source })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(closed)?;
        let stderr = child.stderr.take().ok_or_else(closed)?;
        Ok(Self {
            stdin,
            stdout: Capture::start(stdout),
            stderr: Capture::start(stderr),
            child,
            started,
            seen: 0,
        })
    }

    /// Its process id, to send it a signal.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types `text`.
    ///
    /// # Errors
    ///
    /// When standard input is closed.
    pub fn send(&mut self, text: &str) -> Result<(), ConsoleError> {
        let stdin = self.stdin.as_mut().ok_or_else(closed)?;
        stdin.write_all(text.as_bytes())?;
        stdin.flush()?;
        Ok(())
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits until `text` is printed, after everything that was expected before, and returns what
    /// came in between.
    ///
    /// # Errors
    ///
    /// When that does not happen within `limit`, or the output ends.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<String, ConsoleError> {
        let deadline = Instant::now() + limit;
        let mut state = self
            .stdout
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = state.bytes.get(self.seen..).unwrap_or_default();
            if let Some(offset) = find(new, text.as_bytes()) {
                let before = String::from_utf8_lossy(new.get(..offset).unwrap_or_default());
                self.seen += offset + text.len();
                return Ok(before.into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let closed = state.closed;
                drop(state);
                let (tail, stderr) = (tail(&self.stdout.text()), self.stderr.text());
                let text = text.to_owned();
                return Err(if closed {
                    ConsoleError::Ended { text, tail, stderr }
                } else {
                    ConsoleError::NotSeen {
                        text,
                        limit,
                        tail,
                        stderr,
                    }
                });
            }
            state = self
                .stdout
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    ///
    /// When the process cannot be asked.
    pub fn running(&mut self) -> Result<bool, ConsoleError> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// Waits for the end. Standard input stays open until then.
    ///
    /// # Errors
    ///
    /// When the program is still running after `limit`, counted from now.
    pub fn finish(mut self, limit: Duration) -> Result<Finished, ConsoleError> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(ConsoleError::StillRunning {
                    limit,
                    tail: tail(&self.stdout.text()),
                    stderr: self.stderr.text(),
                });
            }
            thread::sleep(Duration::from_millis(5));
        };
        let elapsed = self.started.elapsed();
        for pipe in [&self.stdout, &self.stderr] {
            pipe.wait_closed(Duration::from_secs(5));
        }
        Ok(Finished {
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            elapsed,
        })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Both fail harmlessly when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program and waits for its end.
///
/// # Errors
///
/// When it cannot be started or does not end within `limit`.
pub fn run(command: Command, limit: Duration) -> Result<Finished, ConsoleError> {
    Console::start(command)?.finish(limit)
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len().max(1))
        .position(|window| window == needle)
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(40);
    lines.get(from..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_conversation() {
        let limit = Duration::from_secs(20);
        let script = "echo ready; read x; echo got $x; echo oops >&2; exit 3";
        let mut console = Console::start(shell(script)).unwrap();
        assert_eq!(console.expect("ready", limit).unwrap(), "");
        console.send("word\n").unwrap();
        assert_eq!(console.expect("word", limit).unwrap(), "\ngot ");
        let end = console.finish(limit).unwrap();
        assert_eq!((end.code(), end.stderr.as_str()), (Some(3), "oops\n"));
        assert_eq!(end.stdout, "ready\ngot word\n");
    }

    #[test]
    fn failures_say_what_was_printed() {
        let limit = Duration::from_millis(200);
        let mut ended = Console::start(shell("echo one")).unwrap();
        let error = ended.expect("two", Duration::from_secs(20)).unwrap_err();
        assert!(
            matches!(&error, ConsoleError::Ended { tail, .. } if tail == "one"),
            "{error}"
        );
        let mut silent = Console::start(shell("exec sleep 60")).unwrap();
        let error = silent.expect("two", limit).unwrap_err();
        assert!(matches!(error, ConsoleError::NotSeen { .. }), "{error}");
        let error = silent.finish(limit).unwrap_err();
        assert!(
            matches!(error, ConsoleError::StillRunning { .. }),
            "{error}"
        );
    }
}
