//! Stored inputs: crashes of the past, and what is good to start from.

use std::path::PathBuf;
use std::{fs, io};

/// Directory with the inputs of a target that are kept: each once made it fail.
pub fn regressions(target: &str) -> PathBuf {
    let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    fuzz.join("regressions").join(target)
}

/// The kept inputs of a target in the order of their names; none where there is no directory.
///
/// # Errors
/// A directory or a file cannot be read.
pub fn kept(target: &str) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = match fs::read_dir(regressions(target)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.sort();
    let read = |path: PathBuf| fs::read(&path).map(|bytes| (path, bytes));
    paths.into_iter().map(read).collect()
}
