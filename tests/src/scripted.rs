//! Guests with a screen, driven by scripts (`ringshift run --script`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::console::{self, ConsoleError, Finished};
use crate::paths;
use crate::programs::{self, BuildError};

/// Why a guest could not be driven.
#[derive(Debug, thiserror::Error)]
pub enum ScriptedError {
    /// No program.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The program did not come to its end.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// No file for the script or the picture.
    #[error("cannot use the build directory: {0}")]
    File(#[from] io::Error),
    /// The statistics are none.
    #[error("the statistics cannot be read: {0}")]
    Statistics(#[from] serde_json::Error),
    /// The script did not come to its end, or the run went wrong.
    #[error("{name} under {policy}: {end}\n{stderr}")]
    Failed {
        /// The guest.
        name: String,
        /// The policy.
        policy: String,
        /// The exit status.
        end: String,
        /// What the program said.
        stderr: String,
    },
}

/// Steps until FreeDOS's 1440K disk takes commands. Its AUTOEXEC.BAT is echoed behind a prompt until it
/// clears the screen; a key that comes before may be lost.
pub const FREEDOS_1440K_STARTED: &str = r"wait A:\\>
wait-gone FreeDOS kernel
wait A:\\>";

/// A guest on a floppy disk.
#[derive(Clone, Copy, Debug)]
pub struct Scripted<'a> {
    /// Name of its files in the build directory.
    pub name: &'a str,
    /// The image, with its options.
    pub image: &'a str,
    /// Memory, as on the command line.
    pub memory: &'a str,
    /// What to do: steps of a script. In the end the picture is taken.
    pub script: &'a str,
    /// How long it may take.
    pub limit: Duration,
}

/// What a guest left.
#[derive(Debug)]
pub struct Driven {
    /// The program's end, with what it said.
    pub end: Finished,
    /// Its statistics.
    pub stats: Value,
}

impl Driven {
    /// One of the counters, by its JSON pointer; 0 if it is not there.
    #[must_use]
    pub fn count(&self, path: &str) -> u64 {
        self.stats
            .pointer(path)
            .and_then(Value::as_u64)
            .unwrap_or(0)
    }

    /// How the run ended, in the words of the statistics.
    #[must_use]
    pub fn ending(&self) -> &str {
        self.stats["ending"].as_str().unwrap_or_default()
    }
}

/// The directory for pictures of guests: `target/pictures`.
///
/// # Errors
///
/// When it cannot be made.
pub fn pictures() -> io::Result<PathBuf> {
    let profile = paths::profile_dir()?;
    let dir = profile.parent().unwrap_or(&profile).join("pictures");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

impl Scripted<'_> {
    /// Runs the script under a policy. The guest's last screen is left in [`pictures`].
    ///
    /// # Errors
    ///
    /// A step of the script failed, or the machine did.
    pub fn run(&self, policy: &str, options: &[&str]) -> Result<Driven, ScriptedError> {
        self.run_with(programs::ringshift()?, policy, options)
    }

    /// The same with a command that runs `ringshift`, on a host that it makes.
    ///
    /// # Errors
    ///
    /// As those of [`Self::run`].
    pub fn run_with(
        &self,
        mut command: Command,
        policy: &str,
        options: &[&str],
    ) -> Result<Driven, ScriptedError> {
        let plain = policy.split(':').next().unwrap_or(policy);
        let name = format!("{}-{plain}", self.name);
        let pictures = pictures()?;
        let script = pictures.join(format!("{name}.script"));
        let stats = pictures.join(format!("{name}.json"));
        fs::write(&script, self.script)?;
        command
            .args(["run", self.image, "--memory", self.memory])
            .args(["--policy", policy, "--serial", "null", "--script"])
            .arg(&script)
            .arg("--screenshot")
            .arg(pictures.join(format!("{name}.png")))
            .arg("--stats")
            .arg(&stats)
            .args(options);
        let end = console::run(command, self.limit)?;
        if end.code() == Some(0) {
            let stats = serde_json::from_str(&fs::read_to_string(stats)?)?;
            return Ok(Driven { end, stats });
        }
        Err(ScriptedError::Failed {
            name: self.name.to_owned(),
            policy: policy.to_owned(),
            end: format!("{:?}", end.status),
            stderr: end.stderr,
        })
    }
}

/// An image of the shared collection with what is written to it dropped at the end; `None` with a line
/// that says so where it is not there.
#[must_use]
pub fn shared_image(file: &str) -> Option<String> {
    let path = paths::shared(&format!("guests/{file}"))?;
    Some(snapshot(&path))
}

/// An image whose file stays as it is.
#[must_use]
pub fn snapshot(path: &Path) -> String {
    format!("{},snapshot=on", path.display())
}
