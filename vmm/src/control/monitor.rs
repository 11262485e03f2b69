//! The monitor console: commands from a terminal or a Unix socket, in plain words or as JSON.
//!
//! A line that begins with `{` is JSON: `{"command": "sendkey", "arguments": ["ret"], "id": 1}`, or
//! the whole line of words as `command`. Its answer is one line, `{"ok": true, "result": ..., "id":
//! 1}` or `{"ok": false, "error": "...", "id": 1}`.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Deserialize;
use serde_json::{Value, json};

use super::command::Command;
use super::{Gone, Remote, Reply};

/// Where commands come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorTarget {
    /// Standard input and output.
    Stdio,
    /// A Unix socket at this path.
    Unix(PathBuf),
}

/// Not a place for the monitor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no place for the monitor; there are: stdio, unix:PATH")]
pub struct UnknownTarget(String);

impl FromStr for MonitorTarget {
    type Err = UnknownTarget;

    fn from_str(text: &str) -> Result<Self, UnknownTarget> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(MonitorTarget::Stdio),
            Some(("unix", path)) if !path.is_empty() => Ok(MonitorTarget::Unix(path.into())),
            _ => Err(UnknownTarget(text.to_owned())),
        }
    }
}

impl fmt::Display for MonitorTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MonitorTarget::Stdio => f.write_str("stdio"),
            MonitorTarget::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Longest line of a client.
const LINE_LIMIT: u64 = 64 << 10;
/// What people see before they type.
const PROMPT: &str = "(ringshift) ";

/// A monitor console that takes commands. Dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct Monitor {
    /// Listens for as long as it is here.
    _socket: Option<Socket>,
}

#[derive(Debug)]
struct Socket {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Opens what the command line names.
    ///
    /// # Errors
    /// The socket cannot be made, or another machine listens on it; the host has no thread.
    pub fn start(target: &MonitorTarget, remote: Remote) -> io::Result<Monitor> {
        let socket = match target {
            MonitorTarget::Stdio => {
                // Ends with the process: nothing ends a read of standard input.
                std::thread::Builder::new()
                    .name("monitor".to_owned())
                    .spawn(move || {
                        let _ = talk(io::stdin(), io::stdout(), &remote);
                    })?;
                None
            }
            MonitorTarget::Unix(path) => Some(Socket::listen(path, remote)?),
        };
        Ok(Monitor { _socket: socket })
    }
}

impl Socket {
    fn listen(path: &Path, remote: Remote) -> io::Result<Socket> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                take_over(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (stop, connections) = (Arc::clone(&stop), Arc::clone(&connections));
            std::thread::Builder::new()
                .name("monitor".to_owned())
                .spawn(move || accept(&listener, &remote, &stop, &connections))?
        };
        Ok(Socket {
            path: path.to_owned(),
            stop,
            connections,
            thread: Some(thread),
        })
    }
}

/// Removes a socket that nobody listens on: its machine was killed.
fn take_over(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
    if !is_socket {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file of this name",
        ));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another machine listens on it",
        ));
    }
    std::fs::remove_file(path)
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread up.
        let _ = UnixStream::connect(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let connections = self.connections.lock();
        for connection in connections.unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(
    listener: &UnixListener,
    remote: &Remote,
    stop: &AtomicBool,
    connections: &Mutex<Vec<UnixStream>>,
) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let (Ok(kept), Ok(reader)) = (stream.try_clone(), stream.try_clone()) else {
            continue;
        };
        let mut open = connections.lock().unwrap_or_else(PoisonError::into_inner);
        // Connections that are closed have no peer any more.
        open.retain(|connection| connection.peer_addr().is_ok());
        open.push(kept);
        drop(open);
        let remote = remote.clone();
        let started = std::thread::Builder::new()
            .name("monitor client".to_owned())
            .spawn(move || {
                let _ = talk(reader, &stream, &remote);
                let _ = stream.shutdown(Shutdown::Both);
            });
        if let Err(error) = started {
            tracing::warn!(%error, "a monitor client cannot be served");
        }
    }
}

/// Serves one client until it or the machine is gone.
fn talk(input: impl Read, mut output: impl Write, remote: &Remote) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut prompt = true;
    loop {
        if prompt {
            output.write_all(PROMPT.as_bytes())?;
            output.flush()?;
        }
        let mut line = Vec::new();
        (&mut input).take(LINE_LIMIT).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if !line.ends_with(b"\n") && line.len() as u64 == LINE_LIMIT {
            return output.write_all(b"error: the line is too long\n");
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        let (answer, gone) = if line.starts_with('{') {
            // Who speaks JSON wants no prompts.
            prompt = false;
            json_line(line, remote)
        } else {
            plain_line(line, remote)
        };
        output.write_all(answer.as_bytes())?;
        output.flush()?;
        if gone {
            return Ok(());
        }
    }
}

/// The answer to a line of words, and whether the machine is gone.
fn plain_line(line: &str, remote: &Remote) -> (String, bool) {
    if line.is_empty() {
        return (String::new(), false);
    }
    let command = match Command::parse(line) {
        Ok(command) => command,
        Err(error) => return (format!("error: {error}\n"), false),
    };
    match remote.ask(command) {
        Ok(Ok(reply)) => (reply.text, false),
        Ok(Err(error)) => (format!("error: {error}\n"), false),
        Err(Gone) => (format!("{Gone}\n"), true),
    }
}

/// A request in JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRequest {
    command: String,
    arguments: Option<Vec<Value>>,
    #[serde(default)]
    id: Value,
}

fn json_line(line: &str, remote: &Remote) -> (String, bool) {
    let (id, result, gone) = match serde_json::from_str::<JsonRequest>(line) {
        Err(error) => (Value::Null, Err(error.to_string()), false),
        Ok(request) => {
            let (result, gone) = match json_command(&request) {
                Err(error) => (Err(error), false),
                Ok(command) => match remote.ask(command) {
                    Ok(result) => (result, false),
                    Err(Gone) => (Err(Gone.to_string()), true),
                },
            };
            (request.id, result, gone)
        }
    };
    let answer = match result {
        Ok(Reply { value, .. }) => json!({ "ok": true, "result": value, "id": id }),
        Err(error) => json!({ "ok": false, "error": error, "id": id }),
    };
    (format!("{answer}\n"), gone)
}

fn json_command(request: &JsonRequest) -> Result<Command, String> {
    let Some(arguments) = &request.arguments else {
        return Command::parse(&request.command).map_err(|error| error.to_string());
    };
    let words: Vec<String> = arguments
        .iter()
        .map(|argument| match argument {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Command::of_words(&request.command, &words).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_for_the_monitor() {
        assert_eq!("stdio".parse(), Ok(MonitorTarget::Stdio));
        assert_eq!("unix:/a".parse(), Ok(MonitorTarget::Unix("/a".into())));
        for wrong in ["", "unix", "unix:", "tcp:1", "stdio:"] {
            assert!(wrong.parse::<MonitorTarget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_has_words_or_arguments() {
        let parse = |text| {
            let request: JsonRequest = serde_json::from_str(text).expect("a request");
            json_command(&request)
        };
        let expected = Command::parse("memory 16 4");
        for text in [
            r#"{"command": "memory 16 4"}"#,
            r#"{"command": "memory", "arguments": [16, "4"], "id": "x"}"#,
        ] {
            assert_eq!(parse(text), expected.clone().map_err(|e| e.to_string()));
        }
        assert!(parse(r#"{"command": "fly", "arguments": []}"#).is_err());
        assert!(serde_json::from_str::<JsonRequest>(r#"{"comand": "x"}"#).is_err());
    }
}
