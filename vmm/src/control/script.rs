//! Scripts: a guest is driven without a person. Each line is a step; beside the monitor's commands
//! there are those that wait.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::command::{self, Command, CommandError};
use super::{Gone, Remote};
use crate::helper::StopReason;

/// Time that a step may wait, unless the script says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the screen is looked at.
const LOOK: Duration = Duration::from_millis(40);

/// A step.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Until the text is on the screen.
    Wait(String),
    /// Until the text is on the screen no more.
    WaitGone(String),
    /// Until the screen has shown the same for a while.
    Idle(Duration),
    /// For a while.
    Sleep(Duration),
    /// How long the steps that follow may wait.
    Timeout(Duration),
    /// The script is over, and the guest goes on.
    Detach,
    /// Something that the monitor can do.
    Command(Command),
}

/// A step with where it comes from.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    number: usize,
    text: String,
    step: Step,
}

/// A script.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    name: String,
    lines: Vec<Line>,
}

/// A script that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{line}: {what}")]
pub struct ScriptError {
    /// The script.
    pub name: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// A step that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    at: ScriptError,
    /// The screen at that moment.
    screen: Option<String>,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.at)?;
        match self.screen.as_deref().map(str::trim_end) {
            None => write!(f, "; the screen is in a graphics mode"),
            Some("") => write!(f, "; the screen is empty"),
            Some(text) => {
                write!(f, "; the screen shows:")?;
                text.lines().try_for_each(|line| write!(f, "\n  | {line}"))
            }
        }
    }
}

impl std::error::Error for StepError {}

impl Script {
    /// Takes a script apart. `name` is for messages.
    ///
    /// # Errors
    /// The first line that is no step.
    pub fn parse(name: &str, text: &str) -> Result<Script, ScriptError> {
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let step = Step::parse(line).map_err(|error| ScriptError {
                name: name.to_owned(),
                line: number,
                what: error.to_string(),
            })?;
            lines.push(Line {
                number,
                text: line.to_owned(),
                step,
            });
        }
        Ok(Script {
            name: name.to_owned(),
            lines,
        })
    }

    /// What `--type` and `--until-screen` mean: types the text once the screen rests, and waits
    /// for the other text as long as it takes.
    ///
    /// # Errors
    /// The text cannot be typed.
    pub fn of_options(
        typed: Option<&str>,
        until: Option<&str>,
    ) -> Result<Option<Script>, CommandError> {
        let mut lines = Vec::new();
        let mut add = |text: &str, step| {
            lines.push(Line {
                number: lines.len() + 1,
                text: text.to_owned(),
                step,
            });
        };
        add("", Step::Timeout(Duration::MAX));
        if let Some(typed) = typed {
            let text = command::unescape(typed)?;
            super::keys::Combination::type_text(&text)?;
            add("--type", Step::Idle(Duration::from_secs(1)));
            add("--type", Step::Command(Command::Type(text)));
        }
        match until {
            Some(until) => add("--until-screen", Step::Wait(until.to_owned())),
            None => add("--type", Step::Detach),
        }
        Ok((typed.is_some() || until.is_some()).then_some(Script {
            name: "command line".to_owned(),
            lines,
        }))
    }

    /// One script after the other.
    #[must_use]
    pub fn then(mut self, next: Script) -> Script {
        // The pieces of the command line come behind a file and wait as long as it takes.
        self.lines.extend(next.lines);
        self
    }

    /// Runs the script on a machine, on a thread of its own. At its end the run ends, too.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(self, remote: Remote) -> std::io::Result<RunningScript> {
        let outcome = Arc::new(Mutex::new(Outcome::Running));
        let result = Arc::clone(&outcome);
        let thread = std::thread::Builder::new()
            .name("script".to_owned())
            .spawn(move || {
                let end = self.run(&remote);
                let stop = match &end {
                    Outcome::Done => Some(StopReason::ScriptDone),
                    Outcome::Failed(_) => Some(StopReason::ScriptFailed),
                    Outcome::Running | Outcome::Detached => None,
                };
                *result.lock().unwrap_or_else(PoisonError::into_inner) = end;
                if let Some(reason) = stop {
                    // The run may have ended by itself.
                    let _ = remote.stop(reason);
                }
            })?;
        Ok(RunningScript {
            outcome,
            _thread: thread,
        })
    }

    fn run(&self, remote: &Remote) -> Outcome {
        let mut patience = PATIENCE;
        for line in &self.lines {
            let done = match &line.step {
                Step::Timeout(time) => {
                    patience = *time;
                    continue;
                }
                Step::Detach => return Outcome::Detached,
                step => step.run(remote, patience),
            };
            match done {
                Ok(Ok(())) => {}
                Ok(Err(what)) => {
                    let at = ScriptError {
                        name: self.name.clone(),
                        line: line.number,
                        what: format!("'{}' {what}", line.text),
                    };
                    let screen = remote.screen().ok().flatten();
                    return Outcome::Failed(StepError { at, screen });
                }
                Err(Gone) => return Outcome::Running,
            }
        }
        Outcome::Done
    }
}

/// How far a script is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has steps left.
    Running,
    /// It has come to its end.
    Done,
    /// It has left the guest to itself.
    Detached,
    /// A step failed.
    Failed(StepError),
}

/// A script that runs.
#[derive(Debug)]
pub struct RunningScript {
    outcome: Arc<Mutex<Outcome>>,
    /// Ends with the machine at the latest.
    _thread: JoinHandle<()>,
}

impl RunningScript {
    /// How far it is.
    pub fn outcome(&self) -> Outcome {
        let outcome = self.outcome.lock();
        outcome.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Step {
    fn parse(line: &str) -> Result<Step, CommandError> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let text = |usage| match command::text_argument(rest)? {
            text if text.is_empty() => Err(CommandError::Usage(usage)),
            text => Ok(text),
        };
        Ok(match name {
            "wait" => Step::Wait(text("wait TEXT")?),
            "wait-gone" => Step::WaitGone(text("wait-gone TEXT")?),
            "idle" => Step::Idle(seconds(rest, "idle SECONDS")?),
            "sleep" => Step::Sleep(seconds(rest, "sleep SECONDS")?),
            "timeout" => Step::Timeout(seconds(rest, "timeout SECONDS")?),
            "detach" if rest.is_empty() => Step::Detach,
            "detach" => return Err(CommandError::Usage("detach")),
            _ => Step::Command(Command::parse(line)?),
        })
    }

    /// The inner error says why the step failed.
    fn run(&self, remote: &Remote, patience: Duration) -> Result<Result<(), String>, Gone> {
        let start = Instant::now();
        let timed_out = || {
            let over = start.elapsed() >= patience;
            over.then(|| format!("timed out after {} s", patience.as_secs_f64()))
        };
        match self {
            Step::Wait(text) => loop {
                if remote.screen()?.is_some_and(|screen| screen.contains(text)) {
                    return Ok(Ok(()));
                }
                if let Some(over) = timed_out() {
                    return Ok(Err(over));
                }
                std::thread::sleep(LOOK);
            },
            Step::WaitGone(text) => loop {
                if !remote.screen()?.is_some_and(|screen| screen.contains(text)) {
                    return Ok(Ok(()));
                }
                if let Some(over) = timed_out() {
                    return Ok(Err(over));
                }
                std::thread::sleep(LOOK);
            },
            Step::Idle(rest) => {
                let mut shown = (remote.screen()?, Instant::now());
                loop {
                    let blank = shown.0.as_ref().is_some_and(|text| text.trim().is_empty());
                    if shown.1.elapsed() >= *rest && !blank {
                        return Ok(Ok(()));
                    }
                    if let Some(over) = timed_out() {
                        return Ok(Err(over));
                    }
                    std::thread::sleep(LOOK);
                    let screen = remote.screen()?;
                    if screen != shown.0 {
                        shown = (screen, Instant::now());
                    }
                }
            }
            Step::Sleep(time) => {
                while start.elapsed() < *time {
                    std::thread::sleep(LOOK.min(time.saturating_sub(start.elapsed())));
                }
                Ok(Ok(()))
            }
            Step::Command(command) => match remote.ask(command.clone())? {
                Ok(_) => Ok(Ok(())),
                Err(what) => Ok(Err(format!("failed: {what}"))),
            },
            Step::Timeout(_) | Step::Detach => Ok(Ok(())),
        }
    }
}

fn seconds(text: &str, usage: &'static str) -> Result<Duration, CommandError> {
    if text.is_empty() {
        return Err(CommandError::Usage(usage));
    }
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| CommandError::Number(text.to_owned()))
}

/// A script in a file.
///
/// # Errors
/// The file cannot be read, or is no script.
pub fn read(path: &PathBuf) -> Result<Script, ReadError> {
    let text = std::fs::read_to_string(path).map_err(|source| ReadError::File {
        path: path.clone(),
        source,
    })?;
    Ok(Script::parse(&path.display().to_string(), &text)?)
}

/// There is no script in a file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// the file cannot be read
    #[error("cannot read the script {}", path.display())]
    File {
        /// Its name.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// a line is no step
    #[error(transparent)]
    Script(#[from] ScriptError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_commands() {
        let text = "# a comment\n\nwait A:\\\\>\ntype \"ver\\n\"\ntimeout 2.5\nidle 1\n\
                    screenshot a.png\n sendkey ret\ndetach\n";
        let script = Script::parse("s", text).expect("a script");
        let steps: Vec<&Step> = script.lines.iter().map(|line| &line.step).collect();
        assert_eq!(steps[0], &Step::Wait("A:\\>".into()));
        assert_eq!(steps[1], &Step::Command(Command::Type("ver\n".into())));
        assert_eq!(steps[2], &Step::Timeout(Duration::from_millis(2500)));
        assert_eq!(steps.len(), 7);
        assert_eq!((script.lines[0].number, script.lines[6].number), (3, 9));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line, word) in [
            ("wait x\nfly\n", 2, "'fly'"),
            ("\n\nwait\n", 3, "wait TEXT"),
            ("sleep\n", 1, "sleep SECONDS"),
            ("sleep soon\n", 1, "'soon'"),
            ("idle -1\n", 1, "'-1'"),
            ("type \"x\n", 1, "closing quote"),
            ("#\nsendkey ctrl-alt-any\n", 2, "'any'"),
            ("detach now", 1, "detach"),
        ] {
            let error = Script::parse("file", text).expect_err(text);
            assert_eq!(error.line, line, "{text}");
            let told = error.to_string();
            assert!(told.starts_with(&format!("file:{line}: ")), "{told}");
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn options_of_the_command_line_are_a_script() {
        assert_eq!(Script::of_options(None, None), Ok(None));
        let script = Script::of_options(Some("dir\\n"), Some("free")).expect("keys");
        let steps = script.expect("a script").lines;
        let last = steps.last().map(|line| line.step.clone());
        assert_eq!(last, Some(Step::Wait("free".into())));
        assert!(Script::of_options(Some("ä"), None).is_err());
        assert!(Script::of_options(Some("\\"), None).is_err());
    }

    #[test]
    fn a_failed_step_shows_the_screen() {
        let at = ScriptError {
            name: "s".into(),
            line: 4,
            what: "'wait x' timed out after 1 s".into(),
        };
        let error = |screen: Option<&str>| StepError {
            at: at.clone(),
            screen: screen.map(str::to_owned),
        };
        let told = error(Some("A:\\>\nB\n")).to_string();
        assert_eq!(
            told,
            "s:4: 'wait x' timed out after 1 s; the screen shows:\n  | A:\\>\n  | B"
        );
        assert!(error(Some("\n")).to_string().ends_with("is empty"));
        assert!(error(None).to_string().ends_with("graphics mode"));
    }
}
