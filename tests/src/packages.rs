//! Debian packages whose contents tests run as guests.
//!
//! They are fetched with the host's `apt-get` and the host's package sources, but with lists, caches
//! and architectures of their own under `target/guests/apt`, so that nothing of the host changes:
//! nothing is installed and no architecture is added. Each package is fetched and unpacked once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{io, thread};

use crate::paths;

/// A package that tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// Debian's kernel for 32-bit processors without PAE.
    Linux686,
    /// Debian's kernel for 32-bit processors with PAE.
    Linux686Pae,
    /// Debian's kernel for 64-bit processors, with its modules.
    LinuxAmd64,
    /// A static 32-bit busybox.
    BusyboxI386,
    /// A static 64-bit busybox.
    BusyboxAmd64,
    /// Disks that boot GRUB, without a system.
    GrubRescue,
    /// A memory tester that boots from a floppy disk.
    Memtest86,
}

impl Package {
    /// The name to ask for, with its architecture. For a kernel, the metapackage that depends on
    /// the current one.
    const fn name(self) -> &'static str {
        match self {
            Self::Linux686 => "linux-image-686:i386",
            Self::Linux686Pae => "linux-image-686-pae:i386",
            Self::LinuxAmd64 => "linux-image-amd64:amd64",
            Self::BusyboxI386 => "busybox-static:i386",
            Self::BusyboxAmd64 => "busybox-static:amd64",
            Self::GrubRescue => "grub-rescue-pc:amd64",
            Self::Memtest86 => "memtest86+:amd64",
        }
    }

    /// For a kernel: a pattern of `apt-cache search` for real kernel packages, should the
    /// metapackage not help.
    const fn pattern(self) -> Option<&'static str> {
        match self {
            Self::Linux686 => Some("^linux-image-[0-9.]+-[0-9]+-686$"),
            Self::Linux686Pae => Some("^linux-image-[0-9.]+-[0-9]+-686-pae$"),
            Self::LinuxAmd64 => Some("^linux-image-[0-9.]+-[0-9]+-amd64$"),
            _ => None,
        }
    }

    fn directory(self) -> String {
        self.name().replace(':', "_")
    }
}

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file or directory of the cache.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The build directory.
    #[error("cannot use the build directory: {0}")]
    Directory(#[source] io::Error),
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A program failed.
    #[error("{command} failed:\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// No package source of the host is for its own release.
    #[error("/etc/apt has no package source for the release {0:?}")]
    NoSources(String),
    /// None of the versions could be downloaded.
    #[error("cannot fetch {package} (tried {tried}); the last attempt said:\n{last}")]
    NotFetched {
        /// What was asked for.
        package: &'static str,
        /// The names tried.
        tried: String,
        /// The last error.
        last: String,
    },
}

/// The cache of unpacked packages.
#[derive(Debug)]
pub struct Packages {
    root: PathBuf,
}

/// How often a step that uses the network is tried.
const ATTEMPTS: u32 = 4;

impl Packages {
    /// The cache in the build directory.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn open() -> Result<Self, PackageError> {
        let root = paths::guests_dir().map_err(PackageError::Directory)?;
        Ok(Self { root })
    }

    /// The directory that `package` is unpacked in; fetches it the first time.
    ///
    /// # Errors
    ///
    /// When it cannot be fetched or unpacked. Test processes that ask at the same time wait for
    /// each other.
    pub fn unpacked(&self, package: Package) -> Result<PathBuf, PackageError> {
        let target = self.root.join(package.directory());
        // The directory appears by a rename when it is complete.
        if target.exists() {
            return Ok(target);
        }
        let lock_path = self.root.join("lock");
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        lock.lock().map_err(at(&lock_path))?;
        if target.exists() {
            return Ok(target);
        }
        let apt = Apt::open(&self.root.join("apt"))?;
        let archive = apt.fetch(package)?;
        let partial = self.root.join(format!("{}.partial", package.directory()));
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(at(&partial))?;
        }
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(&archive)
            .arg(&partial))?;
        fs::rename(&partial, &target).map_err(at(&target))?;
        fs::remove_file(&archive).map_err(at(&archive))?;
        Ok(target)
    }
}

/// `apt-get` with a configuration of its own.
struct Apt {
    root: PathBuf,
    config: PathBuf,
}

impl Apt {
    fn open(root: &Path) -> Result<Self, PackageError> {
        for dir in [
            "state/lists/partial",
            "cache/archives/partial",
            "sources",
            "preferences",
            "debs",
        ] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(at(&dir))?;
        }
        copy_sources(&root.join("sources"))?;
        // An empty list of installed packages: dependencies are of no interest here.
        write(&root.join("status"), "")?;
        let config = root.join("apt.conf");
        let dir = root.display();
        write(
            &config,
            &format!(
                r#"Dir::State "{dir}/state";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{dir}/preferences";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; "i386"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
"#
            ),
        )?;
        Ok(Self {
            root: root.to_path_buf(),
            config,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .current_dir(self.root.join("debs"));
        command
    }

    /// Downloads the package and returns the archive.
    fn fetch(&self, package: Package) -> Result<PathBuf, PackageError> {
        let mut tried = Vec::new();
        let mut last = String::from("no package of this name is in the lists");
        for attempt in 0..ATTEMPTS {
            // Lists of an earlier run may do; after a failure they may be what is wrong. A mirror
            // in the middle of an update fails for one list and serves the others, so a failure
            // here is not the end.
            if (attempt > 0 || !self.has_lists())
                && let Err(error) = run(self.command("apt-get").arg("update"))
            {
                last = error.to_string();
            }
            for name in self.candidates(package) {
                match run(self.command("apt-get").arg("download").arg(&name)) {
                    Ok(_) => return self.archive(&name),
                    Err(error) => last = error.to_string(),
                }
                if !tried.contains(&name) {
                    tried.push(name);
                }
            }
            if attempt + 1 < ATTEMPTS {
                thread::sleep(Duration::from_secs(5 << attempt));
            }
        }
        Err(PackageError::NotFetched {
            package: package.name(),
            tried: tried.join(", "),
            last,
        })
    }

    fn has_lists(&self) -> bool {
        fs::read_dir(self.root.join("state/lists")).is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .any(|entry| entry.file_name().to_string_lossy().ends_with("_Packages"))
        })
    }

    /// Names of real packages for `package`, the best first.
    fn candidates(&self, package: Package) -> Vec<String> {
        let Some(pattern) = package.pattern() else {
            return vec![package.name().to_owned()];
        };
        let architecture = package.name().rsplit(':').next().unwrap_or_default();
        let mut names = Vec::new();
        let mut depends = self.command("apt-cache");
        if let Ok(text) = run(depends.args(["depends", package.name()])) {
            names.extend(
                text.lines()
                    .filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
                    .map(|rest| format!("linux-image-{rest}")),
            );
        }
        let mut search = self.command("apt-cache");
        if let Ok(text) = run(search.args(["search", "--names-only", pattern])) {
            let mut found: Vec<String> = text
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_owned)
                .collect();
            found.sort_by_key(|name| std::cmp::Reverse(numbers(name)));
            names.extend(found);
        }
        let mut qualified: Vec<String> = Vec::new();
        for mut name in names {
            if !name.contains(':') {
                name = format!("{name}:{architecture}");
            }
            if !qualified.contains(&name) {
                qualified.push(name);
            }
        }
        qualified
    }

    /// The archive that `apt-get download` left for `name`.
    fn archive(&self, name: &str) -> Result<PathBuf, PackageError> {
        let (stem, architecture) = name.split_once(':').unwrap_or((name, ""));
        let prefix = format!("{stem}_");
        let suffix = format!("_{architecture}.deb");
        let debs = self.root.join("debs");
        for entry in fs::read_dir(&debs).map_err(at(&debs))? {
            let path = entry.map_err(at(&debs))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if file.starts_with(&prefix) && file.ends_with(&suffix) {
                return Ok(path);
            }
        }
        Err(PackageError::File {
            path: debs.join(name),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

/// The numbers in a version, so that 6.1.0-50 comes after 6.1.0-9.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// Copies the package sources that are for the host's release; others (of vendors) may know nothing
/// of i386.
fn copy_sources(to: &Path) -> Result<(), PackageError> {
    let os_release = Path::new("/etc/os-release");
    let text = fs::read_to_string(os_release).map_err(at(os_release))?;
    let release = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
    }
    let mut found = false;
    for file in files {
        let known = file
            .extension()
            .is_some_and(|extension| extension == "list" || extension == "sources");
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        if known && names_release(&text, &release) {
            let name = file.file_name().unwrap_or_default();
            write(&to.join(name), &text)?;
            found = true;
        }
    }
    if found {
        Ok(())
    } else {
        Err(PackageError::NoSources(release))
    }
}

/// Whether a sources file is about `release`: `bookworm` and `bookworm-security`, not
/// `vendor-bookworm`.
fn names_release(sources: &str, release: &str) -> bool {
    !release.is_empty()
        && sources
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .flat_map(str::split_whitespace)
            .any(|word| word == release || word.starts_with(&format!("{release}-")))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PackageError {
    let path = path.to_path_buf();
    move |source| PackageError::File { path, source }
}

fn write(path: &Path, text: &str) -> Result<(), PackageError> {
    fs::write(path, text).map_err(at(path))
}

/// Runs a command to its end and returns its standard output.
fn run(command: &mut Command) -> Result<String, PackageError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| PackageError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(PackageError::Failed {
        command: format!("{command:?}"),
        output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_sort_later() {
        assert!(numbers("linux-image-6.1.0-50-686") > numbers("linux-image-6.1.0-9-686"));
        assert!(numbers("linux-image-6.12.1-1-amd64") > numbers("linux-image-6.1.0-50-amd64"));
    }

    #[test]
    fn only_sources_of_the_release_count() {
        let debian = "Types: deb\nSuites: bookworm-security\nComponents: main\n";
        assert!(names_release(debian, "bookworm"));
        assert!(names_release(
            "deb http://m/debian bookworm main\n",
            "bookworm"
        ));
        assert!(!names_release(
            "deb http://v/apt v-bookworm main\n",
            "bookworm"
        ));
        assert!(!names_release(
            "# deb http://m/debian bookworm main\n",
            "bookworm"
        ));
        assert!(!names_release("deb http://m/debian bookworm main\n", ""));
    }
}
