//! Guests with a screen, driven by scripts (`ringshift run --script`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    pub fn run(&self, policy: &str, options: &[&str]) -> Result<Finished, ScriptedError> {
        let name = format!("{}-{policy}", self.name);
        let pictures = pictures()?;
        let script = pictures.join(format!("{name}.script"));
        fs::write(&script, self.script)?;
        let mut command = programs::ringshift()?;
        command
            .args(["run", self.image, "--memory", self.memory])
            .args(["--policy", policy, "--serial", "null", "--script"])
            .arg(&script)
            .arg("--screenshot")
            .arg(pictures.join(format!("{name}.png")))
            .args(options);
        let end = console::run(command, self.limit)?;
        if end.code() == Some(0) {
            return Ok(end);
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
