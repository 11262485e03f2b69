//! Compiling the programs, and running them on the host.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Output;
use crate::paths;

/// Options for a static program of the i686, so that it runs on any host and in an empty guest.
const OPTIONS: [&str; 12] = [
    "-m32",
    "-static",
    "-no-pie",
    "-fno-pie",
    "-O1",
    "-march=i686",
    "-fcf-protection=none",
    "-fno-stack-protector",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
];

/// The topic that needs a machine of its own.
const NOT_ON_A_HOST: &str = "machine";

/// Why there is no program to run.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No compiler, or one without libraries for 32-bit programs.
    #[error("no C compiler for static 32-bit programs (package gcc-multilib)")]
    NoCompiler,
    /// The sources do not compile.
    #[error("the guest programs do not compile:\n{0}")]
    Compiler(String),
    /// A file or directory.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn sources() -> PathBuf {
    paths::workspace().join("tests/guests/programs")
}

fn compile(arguments: &[&Path], output: &Path) -> io::Result<std::process::Output> {
    Command::new("gcc")
        .args(OPTIONS)
        .args(arguments)
        .arg("-o")
        .arg(output)
        .stdin(Stdio::null())
        .output()
}

/// A part of a file's name that no other test has, in this process or another.
fn unique() -> String {
    let thread = std::thread::current().id();
    format!("{}.{thread:?}", std::process::id())
}

/// True where a program that does nothing can be compiled.
fn has_compiler(dir: &Path) -> io::Result<bool> {
    let source = dir.join(format!("probe.{}.c", unique()));
    let output = source.with_extension("out");
    std::fs::write(&source, "int main(void) { return 0; }\n")?;
    let works = compile(&[&source], &output).is_ok_and(|done| done.status.success());
    std::fs::remove_file(&source)?;
    let _ = std::fs::remove_file(&output);
    Ok(works)
}

/// Compiles all programs into one executable, whose first argument is a topic.
///
/// # Errors
///
/// [`BuildError::NoCompiler`] where the test can only be skipped; the others are failures.
pub fn build() -> Result<PathBuf, BuildError> {
    let dir = paths::guests_dir()?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(sources())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    files.sort();
    let partial = dir.join(format!("programs.{}", unique()));
    let arguments: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let done = compile(&arguments, &partial);
    if !done.as_ref().is_ok_and(|done| done.status.success()) {
        if !has_compiler(&dir)? {
            return Err(BuildError::NoCompiler);
        }
        let text = done?.stderr;
        return Err(BuildError::Compiler(
            String::from_utf8_lossy(&text).into_owned(),
        ));
    }
    let program = dir.join("programs");
    std::fs::rename(&partial, &program)?;
    Ok(program)
}

/// Runs all topics but the one that needs a machine of its own on the host's processor and kernel.
///
/// `None` where the host does not run 32-bit programs.
///
/// # Errors
///
/// When a topic cannot be run.
pub fn run_natively(program: &Path) -> io::Result<Option<Output>> {
    let run = |topic: &str| {
        Command::new(program)
            .arg(topic)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
    };
    let Ok(topics) = run("topics") else {
        return Ok(None);
    };
    let topics = String::from_utf8_lossy(&topics.stdout).into_owned();
    let mut text = String::new();
    for topic in topics.lines().filter(|&topic| topic != NOT_ON_A_HOST) {
        let done = run(topic)?;
        // As `guests/programs.sh` prints it.
        text += &format!("== {topic}\n");
        text += &String::from_utf8_lossy(&done.stdout);
        let status = done.status.code().map_or(-1, |code| code);
        text += &format!("== {topic} ended with status {status}\n");
    }
    Ok(Some(Output::parse(&text)))
}
