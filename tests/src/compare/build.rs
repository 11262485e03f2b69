//! Compiles the programs and the small kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::CompareError;
use crate::guests;
use crate::initrd::Initrd;
use crate::paths;

/// What all C sources are compiled with.
const FLAGS: [&str; 4] = ["-m32", "-march=i686", "-O2", "-static"];
/// A flat image that is loaded at 1 MiB and entered at its first byte, the section `.start`.
const FREESTANDING: [&str; 11] = [
    "-ffreestanding",
    "-fno-pic",
    "-no-pie",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-nostdlib",
    "-Wl,--build-id=none",
    "-Wl,--section-start=.start=0x100000",
    "-Wl,-Ttext=0x101000",
    "-Wl,--oformat=binary",
    "-Wl,-e,0x100000",
];

/// `tests/bench/programs` as a static i686 executable.
pub(super) fn programs() -> Result<PathBuf, CompareError> {
    let dir = paths::workspace().join("tests/bench/programs");
    let mut sources: Vec<PathBuf> = fs::read_dir(&dir)
        .map_err(at(&dir))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    let mut command = Command::new("gcc");
    command.args(FLAGS).args(&sources).arg("-lm");
    compile(command, &dir, "bench-programs")
}

/// `tests/bench/ring0` as a flat image.
pub(super) fn ring0() -> Result<PathBuf, CompareError> {
    let source = paths::workspace().join("tests/bench/ring0/ring0.c");
    let mut command = Command::new("gcc");
    command.args(FLAGS).args(FREESTANDING).arg(&source);
    compile(command, &source, "bench-ring0.bin")
}

/// Runs a compiler; its result takes the place of an older one in one step, because tests run in
/// parallel.
fn compile(mut command: Command, source: &Path, name: &str) -> Result<PathBuf, CompareError> {
    let failed = |reason: String| CompareError::Compile {
        path: source.to_path_buf(),
        reason,
    };
    let result = file(name)?;
    let partial = partial(&result);
    let output = command
        .arg("-o")
        .arg(&partial)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    fs::rename(&partial, &result).map_err(at(&result))?;
    Ok(result)
}

/// An initial RAM disk with `program` as init.
pub(super) fn initrd(program: &Path) -> Result<PathBuf, CompareError> {
    let mut initrd = Initrd::new();
    initrd.file("init", 0o755, &guests::read(program)?);
    store("bench-programs.cpio", &initrd.finish())
}

/// Writes a file of the benches.
pub(super) fn store(name: &str, bytes: &[u8]) -> Result<PathBuf, CompareError> {
    let path = file(name)?;
    let partial = partial(&path);
    fs::write(&partial, bytes).map_err(at(&partial))?;
    fs::rename(&partial, &path).map_err(at(&path))?;
    Ok(path)
}

fn file(name: &str) -> Result<PathBuf, CompareError> {
    let dir = paths::profile_dir().map_err(at(Path::new(".")))?;
    Ok(dir.join(name))
}

fn partial(path: &Path) -> PathBuf {
    let thread = std::thread::current().id();
    path.with_extension(format!("{}.{thread:?}", std::process::id()))
}

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CompareError {
    let path = path.to_path_buf();
    move |source| CompareError::File { path, source }
}
