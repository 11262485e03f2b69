//! The programs that run guests: `ringshift`, and QEMU as the reference.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::guests::Guest;
use crate::paths;

/// Why `ringshift` could not be built.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot build ringshift: {0}")]
pub struct BuildError(String);

/// The `ringshift` executable of the profile that the tests were built with. Built first, once in
/// each test process, so that no stale one is tested.
///
/// # Errors
///
/// When it does not build.
pub fn ringshift_path() -> Result<&'static Path, BuildError> {
    static BUILT: OnceLock<Result<PathBuf, BuildError>> = OnceLock::new();
    BUILT
        .get_or_init(build_ringshift)
        .as_deref()
        .map_err(Clone::clone)
}

fn build_ringshift() -> Result<PathBuf, BuildError> {
    let dir = profile_dir()?;
    cargo(
        &dir,
        &[
            "build",
            "--quiet",
            "--package",
            "ringshift",
            "--bin",
            "ringshift",
        ],
    )?;
    Ok(dir.join("ringshift"))
}

/// The executables of integration tests of the package `ringshift`, built like [`ringshift_path`]: to
/// run them on another machine.
///
/// # Errors
///
/// When they do not build.
pub fn test_programs(names: &[&str]) -> Result<Vec<PathBuf>, BuildError> {
    let mut arguments = vec!["test", "--no-run", "--message-format=json"];
    arguments.extend(["--package", "ringshift"]);
    for name in names {
        arguments.extend(["--test", name]);
    }
    let messages = cargo(&profile_dir()?, &arguments)?;
    let executables: HashMap<String, PathBuf> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.into()))
        })
        .collect();
    let find = |name: &&str| {
        let found = executables.get(*name).cloned();
        found.ok_or_else(|| BuildError(format!("no test {name}")))
    };
    names.iter().map(find).collect()
}

fn profile_dir() -> Result<PathBuf, BuildError> {
    paths::profile_dir().map_err(|error| BuildError(error.to_string()))
}

/// Runs cargo with the profile and target directory that `profile_dir` is of; returns what it prints.
fn cargo(profile_dir: &Path, arguments: &[&str]) -> Result<String, BuildError> {
    let profile = match profile_dir.file_name() {
        Some(name) if name == "debug" => "dev".into(),
        Some(name) => name.to_os_string(),
        None => "dev".into(),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--target-dir")
        .arg(profile_dir.parent().unwrap_or(profile_dir))
        .arg("--profile")
        .arg(profile)
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| BuildError(error.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(BuildError(text));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A `ringshift` command without arguments.
///
/// # Errors
///
/// When it does not build.
pub fn ringshift() -> Result<Command, BuildError> {
    Ok(Command::new(ringshift_path()?))
}

/// `ringshift run` of a guest, with its serial port on the standard streams.
///
/// # Errors
///
/// When ringshift does not build.
pub fn ringshift_run(guest: &Guest) -> Result<Command, BuildError> {
    let mut command = ringshift()?;
    command
        .arg("run")
        .arg("--kernel")
        .arg(&guest.kernel)
        .arg("--initrd")
        .arg(&guest.initrd)
        .args(["--append", guest.append, "--memory", guest.memory]);
    Ok(command)
}

/// QEMU without any hardware virtualization running the same guest as [`ringshift_run`], with its
/// serial port on the standard streams: the reference for what the guest prints, and the peer to
/// compare speed with. A reboot ends it.
#[must_use]
pub fn qemu_run(guest: &Guest) -> Command {
    let mut command = Command::new(guest.qemu);
    command
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio", "-m", guest.memory])
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initrd)
        .args(["-append", guest.append])
        .args(guest.qemu_options);
    command
}

/// Whether a program can be started. If not, a line on standard error says so, and the test that
/// needs it is skipped.
#[must_use]
pub fn installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}
