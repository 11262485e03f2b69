//! `run --profile` and `run --perf-map`: files are opened before the run and written after it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::CliError;
use super::args::ProfileArgs;
use super::trace::read_symbols;
use crate::machine::Machine;
use crate::profile::{ProfileReport, write_perf_map};
use crate::trace::Symbols;

/// Most places of each list in the text form, and in the JSON form.
const TOP: (usize, usize) = (40, 1000);

/// The files of the profile.
pub(super) struct ProfileFiles {
    profile: Option<(PathBuf, File)>,
    perf_map: Option<(PathBuf, File)>,
    symbols: Symbols,
}

impl ProfileFiles {
    /// Reads the symbols and creates the files.
    pub(super) fn create(args: &ProfileArgs) -> Result<Self, CliError> {
        let symbols = read_symbols(args.symbols.as_deref())?;
        let profile = args.profile.as_deref().map(create).transpose()?;
        let perf_map = args.perf_map.as_ref().map(|path| match path {
            Some(path) => create(path),
            None => create(&PathBuf::from(format!(
                "/tmp/perf-{}.map",
                std::process::id()
            ))),
        });
        Ok(Self {
            profile,
            perf_map: perf_map.transpose()?,
            symbols,
        })
    }

    /// Starts the profile, if there is to be one.
    pub(super) fn start(&self, machine: &mut Machine) {
        if self.profile.is_some() {
            machine.vcpu_mut().start_profile();
        }
    }

    /// Writes the files.
    pub(super) fn write(self, machine: &mut Machine) -> Result<(), CliError> {
        if let Some((path, file)) = self.profile
            && let Some(profile) = machine.vcpu_mut().profile()
        {
            let json = path
                .extension()
                .is_some_and(|extension| extension == "json");
            let top = if json { TOP.1 } else { TOP.0 };
            let report = ProfileReport::new(profile, &self.symbols, top);
            write_report(&report, json, file).map_err(failed(&path))?;
        }
        if let Some((path, file)) = self.perf_map {
            let mut out = BufWriter::new(file);
            write_perf_map(machine.vcpu_mut(), &self.symbols, &mut out).map_err(failed(&path))?;
        }
        Ok(())
    }
}

fn write_report(report: &ProfileReport, json: bool, mut file: File) -> io::Result<()> {
    if json {
        writeln!(file, "{}", serde_json::to_string_pretty(report)?)
    } else {
        write!(file, "{report}")
    }
}

fn create(path: &Path) -> Result<(PathBuf, File), CliError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        // The default place of the map is open to everyone: nothing behind a link is overwritten.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(failed(path))?;
    Ok((path.to_owned(), file))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::Profile { path, source }
}
