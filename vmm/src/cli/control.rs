//! Options by which a run is looked at and controlled: monitor, scripts, screenshots.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CliError, Status};
use crate::control::display::TerminalDisplay;
use crate::control::monitor::{Monitor, MonitorTarget};
use crate::control::save_png;
use crate::control::script::{self, Outcome, RunningScript, Script};
use crate::machine::Machine;

/// Options of a machine with a screen.
#[derive(Debug, Clone, Default, Args)]
pub struct ControlArgs {
    /// Take commands from standard input (stdio) or from a Unix socket (unix:PATH), in plain words or
    /// as JSON lines; 'help' lists them
    #[arg(long, value_name = "WHERE")]
    pub monitor: Option<MonitorTarget>,

    /// Drive the guest by this file: a step in each line, and the run ends with the last one
    ///
    /// Steps are the monitor's commands, such as 'type dir\n', 'sendkey f1' and 'screenshot a.png',
    /// and 'wait TEXT', 'wait-gone TEXT', 'idle SECONDS' (until the screen rests), 'sleep SECONDS',
    /// 'timeout SECONDS' (for the steps that follow; 60 at first) and 'detach' (leave the guest
    /// running). A step that fails ends the run with status 4.
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,

    /// Type this text once the screen rests; \n is Enter, \t Tab, \e Esc, \\ a backslash
    #[arg(long = "type", value_name = "TEXT")]
    pub type_text: Option<String>,

    /// End the run, with status 0, once this text is on the screen
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub until_screen: Option<String>,

    /// Where the screen is shown: none, or terminal (this one, with its keyboard; Ctrl-A x quits)
    #[arg(
        long,
        value_name = "WHERE",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub display: Display,

    /// When the run ends, write the picture on the screen to this file
    #[arg(long, value_name = "FILE.png")]
    pub screenshot: Option<PathBuf>,
}

/// `--display`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Display {
    /// Nowhere.
    #[default]
    None,
    /// In the terminal.
    Terminal,
}

impl ControlArgs {
    /// What the options have the guest do; files are read before the machine is made.
    pub(super) fn script(&self) -> Result<Option<Script>, CliError> {
        let file = self.script.as_ref().map(script::read).transpose()?;
        let typed = self.type_text.as_deref();
        let options =
            Script::of_options(typed, self.until_screen.as_deref()).map_err(CliError::Typed)?;
        Ok(match (file, options) {
            (Some(file), Some(options)) => Some(file.then(options)),
            (file, options) => file.or(options),
        })
    }
}

/// What controls a run.
#[derive(Debug)]
pub(super) struct Control {
    script: Option<RunningScript>,
    /// Listens for as long as it is here.
    _monitor: Option<Monitor>,
    display: Option<TerminalDisplay>,
    screenshot: Option<PathBuf>,
}

impl Control {
    /// Starts script and monitor.
    pub(super) fn start(
        args: &ControlArgs,
        script: Option<Script>,
        machine: &Machine,
    ) -> Result<Control, CliError> {
        let shown = args.display == Display::Terminal;
        let wants_screen = script.is_some() || args.screenshot.is_some() || shown;
        if wants_screen && !machine.has_display() {
            return Err(CliError::NoDisplay);
        }
        let remote = || machine.remote();
        let monitor = args.monitor.as_ref().map(|target| {
            Monitor::start(target, remote()).map_err(|source| CliError::Monitor {
                target: target.clone(),
                source,
            })
        });
        let script = script.map(|script| {
            script.start(remote()).map_err(|source| CliError::Host {
                what: "start the script",
                source,
            })
        });
        let (monitor, script) = (monitor.transpose()?, script.transpose()?);
        // Last: an error belongs on a terminal that is itself.
        let display = shown.then(|| {
            TerminalDisplay::start(remote()).map_err(|source| CliError::Host {
                what: "show the screen in this terminal",
                source,
            })
        });
        Ok(Control {
            _monitor: monitor,
            script,
            display: display.transpose()?,
            screenshot: args.screenshot.clone(),
        })
    }

    /// The run is over: gives the terminal back.
    pub(super) fn hide(&mut self) {
        self.display = None;
    }

    /// Takes the picture.
    pub(super) fn finish(&self, machine: &mut Machine) -> Result<(), CliError> {
        let Some(path) = &self.screenshot else {
            return Ok(());
        };
        let picture = machine.picture().ok_or(CliError::NoDisplay)?;
        save_png(path, &picture).map_err(|source| CliError::Screenshot {
            path: path.clone(),
            source,
        })
    }

    /// A script waits for something still.
    pub(super) fn is_waiting(&self) -> bool {
        let outcome = self.script.as_ref().map(RunningScript::outcome);
        outcome == Some(Outcome::Running)
    }

    /// How the script ended, where it decides how the run did.
    pub(super) fn verdict(&self, status: Status) -> Result<Status, CliError> {
        match self.script.as_ref().map(RunningScript::outcome) {
            Some(Outcome::Failed(error)) => Err(CliError::Step(error)),
            _ => Ok(status),
        }
    }
}
