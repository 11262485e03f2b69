//! Where things are: the workspace, its build directory, files beside it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The directory that cargo builds this profile in, such as `target/release`.
///
/// # Errors
///
/// When the running executable cannot be found out.
pub fn profile_dir() -> std::io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    // Tests are in target/PROFILE/deps, other programs directly in target/PROFILE.
    let dir = executable.parent().unwrap_or(Path::new("."));
    Ok(match dir.file_name() {
        Some(name) if name == "deps" || name == "examples" => dir.parent().unwrap_or(dir),
        _ => dir,
    }
    .to_path_buf())
}

/// The directory for files that tests fetch or build once: `target/guests`.
///
/// # Errors
///
/// When it cannot be created.
pub fn guests_dir() -> std::io::Result<PathBuf> {
    let profile = profile_dir()?;
    let dir = profile.parent().unwrap_or(&profile).join("guests");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// A file of the collection that is kept outside the repository (disk images, recorded
/// instructions): under `$RINGSHIFT_SHARED`, or `../shared` beside the checkout.
///
/// `None`, with a line on standard error that says so, if it is not there: the test that needs it
/// is then skipped.
#[must_use]
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RINGSHIFT_SHARED")
        .map_or_else(|| workspace().join("../shared"), PathBuf::from);
    let file = root.join(path);
    if file.exists() {
        return Some(file);
    }
    // Not through `eprintln`, whose output is lost when the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: {} is not there (RINGSHIFT_SHARED names the directory)",
        file.display()
    );
    None
}
