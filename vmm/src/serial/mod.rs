//! The far end of the guest's serial port: where its output goes, and what is looked for in it.

mod until;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use until::Until;

/// Where the guest's serial output goes, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialTarget {
    /// Standard input and output.
    Stdio,
    /// Nowhere; there is no input either.
    Null,
    /// Into a file, which is replaced; there is no input.
    File(PathBuf),
}

impl fmt::Display for SerialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SerialTarget::Stdio => f.write_str("stdio"),
            SerialTarget::Null => f.write_str("null"),
            SerialTarget::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Not a serial target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no place for the serial port; there are: stdio, null, file:PATH")]
pub struct UnknownTarget(String);

impl FromStr for SerialTarget {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(SerialTarget::Stdio),
            None if text == "null" => Ok(SerialTarget::Null),
            Some(("file", path)) if !path.is_empty() => Ok(SerialTarget::File(path.into())),
            _ => Err(UnknownTarget(text.to_owned())),
        }
    }
}

/// Bytes kept back at most before they are written.
const BUFFER: usize = 2048;
/// How long one look at a reader that does not read takes before the stop flag is looked at again.
const STALL_MS: u16 = 100;

/// The guest's serial output on its way out.
#[derive(Debug)]
pub struct SerialOutput {
    sink: Option<OwnedFd>,
    buffer: Vec<u8>,
    until: Option<Until>,
    failed: bool,
    error: Option<io::Error>,
    /// Set when the run is to end: a reader that does not read must not keep it.
    stop: Arc<AtomicBool>,
    /// See [`SerialOutput::attention`].
    attention: Arc<AtomicBool>,
}

impl SerialOutput {
    /// Output into a file descriptor, or nowhere. `stop` makes it give up on a reader that has
    /// stopped reading.
    pub fn new(sink: Option<OwnedFd>, until: Option<Until>, stop: Arc<AtomicBool>) -> SerialOutput {
        SerialOutput {
            sink,
            buffer: Vec::with_capacity(BUFFER),
            until,
            failed: false,
            error: None,
            stop,
            attention: Arc::default(),
        }
    }

    /// Opens what the command line names.
    pub fn open(
        target: &SerialTarget,
        until: Option<Until>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<SerialOutput> {
        let sink = match target {
            SerialTarget::Stdio => Some(io::stdout().as_fd().try_clone_to_owned()?),
            SerialTarget::Null => None,
            SerialTarget::File(path) => Some(File::create(path)?.into()),
        };
        Ok(SerialOutput::new(sink, until, stop))
    }

    /// Takes bytes from the guest.
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(until) = &mut self.until {
            until.push(bytes);
            if until.matched() {
                self.attention.store(true, Ordering::Relaxed);
            }
        }
        if self.sink.is_none() || self.failed {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER || bytes.contains(&b'\n') {
            self.flush();
        }
    }

    /// Writes what was kept back. An error ends the output for good; see [`SerialOutput::take_error`].
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if let Some(sink) = &self.sink
            && let Err(error) = write_all(sink.as_fd(), &self.buffer, &self.stop)
        {
            self.failed = true;
            self.error = Some(error);
            self.attention.store(true, Ordering::Relaxed);
        }
        self.buffer.clear();
    }

    /// The text that was looked for has come.
    pub fn matched(&self) -> bool {
        self.until.as_ref().is_some_and(Until::matched)
    }

    /// A flag that is set once the text has come, or the output cannot be written any more. Much
    /// cheaper to look at than the output itself.
    pub fn attention(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.attention)
    }

    /// Why the output cannot be written any more; told once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }
}

/// Writes everything, or as much as the reader takes before `stop` is set.
fn write_all(sink: BorrowedFd<'_>, mut bytes: &[u8], stop: &AtomicBool) -> io::Result<()> {
    while !bytes.is_empty() {
        let stopping = stop.load(Ordering::Relaxed);
        let patience = PollTimeout::from(if stopping { 0 } else { STALL_MS });
        let mut fds = [PollFd::new(sink, PollFlags::POLLOUT)];
        match poll(&mut fds, patience) {
            Ok(0) if stopping => return Ok(()),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        // A pipe that polls writable takes PIPE_BUF (4096) bytes without blocking.
        match nix::unistd::write(sink, bytes.get(..BUFFER).unwrap_or(bytes)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or(&[]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Drop for SerialOutput {
    fn drop(&mut self) {
        self.flush();
        if let Some(error) = self.error.take() {
            tracing::debug!(%error, fd = self.sink.as_ref().map(|fd| fd.as_raw_fd()), "serial output lost");
        }
    }
}

/// The output, shared by the serial port, which writes it, and the machine, which looks at it.
#[derive(Debug, Clone)]
pub struct SharedOutput(Arc<Mutex<SerialOutput>>);

impl SharedOutput {
    /// Shares an output.
    pub fn new(output: SerialOutput) -> SharedOutput {
        SharedOutput(Arc::new(Mutex::new(output)))
    }

    /// The output. Both users live on the vCPU's thread, so that nobody waits.
    pub fn lock(&self) -> MutexGuard<'_, SerialOutput> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for SharedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().push(bytes);
        Ok(bytes.len())
    }

    /// The machine flushes, when the guest pauses.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn output(sink: impl Into<OwnedFd>) -> SerialOutput {
        SerialOutput::new(Some(sink.into()), None, Arc::default())
    }

    #[test]
    fn targets_parse() {
        assert_eq!("stdio".parse(), Ok(SerialTarget::Stdio));
        assert_eq!("null".parse(), Ok(SerialTarget::Null));
        assert_eq!(
            "file:/tmp/a:b".parse(),
            Ok(SerialTarget::File("/tmp/a:b".into()))
        );
        for wrong in ["", "file:", "file", "pty", "stdio:"] {
            assert_eq!(
                wrong.parse::<SerialTarget>(),
                Err(UnknownTarget(wrong.into()))
            );
        }
    }

    #[test]
    fn a_line_goes_out_at_once_and_the_rest_at_a_flush() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut output = output(writer);
        output.push(b"boot\nlogin: ");
        let mut text = [0; 64];
        let count = reader.read(&mut text).expect("the line");
        assert_eq!(&text[..count], b"boot\nlogin: ");
        output.push(b"root");
        output.flush();
        let count = reader.read(&mut text).expect("the rest");
        assert_eq!(&text[..count], b"root");
    }

    #[test]
    fn a_closed_reader_is_an_error_and_not_a_signal() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let mut output = output(writer);
        output.push(b"nobody reads this\n");
        assert!(output.attention().load(Ordering::Relaxed));
        let error = output.take_error().expect("an error");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_reader_that_stalls_does_not_hold_up_a_stop() {
        let (_reader, writer) = io::pipe().expect("a pipe");
        let stop = Arc::new(AtomicBool::new(true));
        let mut output = SerialOutput::new(Some(writer.into()), None, stop);
        for _ in 0..100 {
            output.push(&[b'x'; 4096]);
        }
        assert!(!output.attention().load(Ordering::Relaxed));
    }

    #[test]
    fn text_is_found_where_output_goes_nowhere() {
        let mut output = SerialOutput::new(None, Until::new("login:"), Arc::default());
        output.push(b"debian log");
        assert!(!output.matched());
        output.push(b"in: ");
        assert!(output.matched());
    }
}
