//! Linux guests, put together from Debian's packages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::initrd::Initrd;
use crate::modules::{ModuleError, Modules};
use crate::packages::{Package, PackageError, Packages};
use crate::paths;
use crate::tiny_init;

/// Printed by a scripted guest when every check has passed.
pub const PASSED: &str = "RINGSHIFT-GUEST-OK";

/// Printed by a scripted guest when a check has failed.
pub const FAILED: &str = "RINGSHIFT-GUEST-FAILED";

/// See [`debian_programs`].
pub const ALSO_CHECKS: &str = "CHECKS=1";

/// Printed by an interactive guest before its shell starts.
pub const SHELL: &str = "RINGSHIFT-GUEST-SHELL";

/// A kernel, an initial RAM disk and how to start them.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub append: &'static str,
    /// Memory, in the notation that `ringshift` and QEMU share.
    pub memory: &'static str,
    /// The QEMU that runs it.
    pub qemu: &'static str,
    /// Options it needs there.
    pub qemu_options: &'static [&'static str],
}

/// Why a guest could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A kernel module.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The package has no kernel in `/boot`.
    #[error("no kernel in {0}")]
    NoKernel(PathBuf),
    /// The libraries of a program.
    #[error("the libraries of {program}: {reason}")]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// What the Debian 686 guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Runs its checks, prints [`PASSED`] or [`FAILED`] and powers off.
    Scripted,
    /// Prints [`SHELL`] and gives a shell on the serial port.
    Interactive,
}

/// Debian's unmodified 32-bit kernel with a busybox system.
///
/// # Errors
///
/// When a package cannot be fetched or the RAM disk cannot be written.
pub fn debian_686(session: Session) -> Result<Guest, GuestError> {
    debian_i386(Package::Linux686, session)
}

/// The same system with Debian's PAE kernel, which isolates page tables on an Intel processor.
///
/// # Errors
///
/// When a package cannot be fetched or the RAM disk cannot be written.
pub fn debian_686_pae(session: Session) -> Result<Guest, GuestError> {
    debian_i386(Package::Linux686Pae, session)
}

fn debian_i386(kernel_package: Package, session: Session) -> Result<Guest, GuestError> {
    let packages = Packages::open()?;
    let kernel = kernel(&packages.unpacked(kernel_package)?)?;
    let mut initrd = busybox(&packages.unpacked(Package::BusyboxI386)?)?;
    let name = match session {
        Session::Scripted => {
            initrd.file("init", 0o755, include_bytes!("../guests/scripted.sh"));
            initrd.file("checks.sh", 0o755, include_bytes!("../guests/checks.sh"));
            "debian-686-scripted"
        }
        Session::Interactive => {
            initrd.file("init", 0o755, include_bytes!("../guests/interactive.sh"));
            "debian-686-interactive"
        }
    };
    Ok(Guest {
        kernel,
        initrd: store(name, initrd)?,
        append: "console=ttyS0",
        memory: "128M",
        qemu: "qemu-system-i386",
        qemu_options: &["-cpu", "coreduo"],
    })
}

/// Debian's 686 kernel with the `init` of [`tiny_init`], and nothing else.
///
/// # Errors
///
/// When a package cannot be fetched or the RAM disk cannot be written.
pub fn debian_tiny() -> Result<Guest, GuestError> {
    let mut initrd = Initrd::new();
    initrd.file("init", 0o755, &tiny_init::executable());
    Ok(Guest {
        kernel: debian_kernel(Package::Linux686)?,
        initrd: store("debian-686-tiny", initrd)?,
        append: "console=ttyS0 quiet no_timer_check panic=-1",
        memory: "64M",
        qemu: "qemu-system-i386",
        qemu_options: &["-cpu", "coreduo"],
    })
}

/// The kernel image of one of Debian's kernel packages.
///
/// # Errors
///
/// When the package cannot be fetched.
pub fn debian_kernel(package: Package) -> Result<PathBuf, GuestError> {
    kernel(&Packages::open()?.unpacked(package)?)
}

/// Debian's 686 or, with `pae`, its 686-pae kernel, with an `init` that runs every topic of the guest
/// programs in `program` (see [`guest_programs`](crate::guest_programs)), prints [`PASSED`] and
/// powers off. With [`ALSO_CHECKS`] on the kernel's command line it runs the scripted guest's checks as
/// well, and prints [`FAILED`] if one of them fails.
///
/// # Errors
///
/// When a package cannot be fetched or the RAM disk cannot be written.
pub fn debian_programs(pae: bool, program: &Path) -> Result<Guest, GuestError> {
    let (package, name) = if pae {
        (Package::Linux686Pae, "debian-686-pae-programs")
    } else {
        (Package::Linux686, "debian-686-programs")
    };
    let packages = Packages::open()?;
    let mut initrd = busybox(&packages.unpacked(Package::BusyboxI386)?)?;
    initrd.file("init", 0o755, include_bytes!("../guests/programs.sh"));
    initrd.file("checks.sh", 0o755, include_bytes!("../guests/checks.sh"));
    initrd.file("programs", 0o755, &read(program)?);
    Ok(Guest {
        kernel: kernel(&packages.unpacked(package)?)?,
        initrd: store(name, initrd)?,
        // On a busy host QEMU's timer can be so late that the kernel gives up on it.
        append: "console=ttyS0 no_timer_check panic=-1",
        memory: "128M",
        qemu: "qemu-system-i386",
        qemu_options: &["-cpu", "coreduo"],
    })
}

/// Debian's unmodified 64-bit kernel, with a busybox system and the modules `modules` in the order
/// to insert them in, listed in `/modules/list`. `fill` adds the rest, `init` included.
///
/// # Errors
///
/// When a package cannot be fetched or the RAM disk cannot be written.
pub fn debian_amd64(
    name: &str,
    modules: &[&str],
    fill: impl FnOnce(&mut Initrd) -> Result<(), GuestError>,
) -> Result<Guest, GuestError> {
    let packages = Packages::open()?;
    let root = packages.unpacked(Package::LinuxAmd64)?;
    let mut initrd = busybox(&packages.unpacked(Package::BusyboxAmd64)?)?;
    let known = Modules::find(&root)?;
    let mut list = String::new();
    for module in modules {
        for path in known.with_dependencies(module)? {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if !list.lines().any(|line| line == file) {
                initrd.file(&format!("modules/{file}"), 0o644, &read(&path)?);
                list += &format!("{file}\n");
            }
        }
    }
    initrd.file("modules/list", 0o644, list.as_bytes());
    fill(&mut initrd)?;
    Ok(Guest {
        kernel: kernel(&root)?,
        initrd: store(name, initrd)?,
        append: "console=ttyS0",
        memory: "1G", // of which the RAM disk takes twice its size while it is unpacked
        qemu: "qemu-system-x86_64",
        // QEMU before 8.0 computes wrong flags after CMPXCHG16B, which the kernel would use.
        qemu_options: &["-cpu", "max,+svm,-cx16"],
    })
}

/// The kernel image of an unpacked kernel package.
fn kernel(root: &Path) -> Result<PathBuf, GuestError> {
    let boot = root.join("boot");
    let entries = fs::read_dir(&boot).map_err(at(&boot))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"))
        .map(|entry| entry.path())
        .ok_or(GuestError::NoKernel(boot))
}

fn busybox(root: &Path) -> Result<Initrd, GuestError> {
    let mut initrd = Initrd::new();
    let busybox = root.join("bin/busybox");
    initrd.file("bin/busybox", 0o755, &read(&busybox)?);
    initrd.link("bin/sh", "busybox");
    for dir in ["proc", "sys", "tmp", "root"] {
        initrd.directory(dir);
    }
    Ok(initrd)
}

/// Writes an initial RAM disk, so that a test that reads the one of before is not disturbed.
pub(crate) fn store(name: &str, initrd: Initrd) -> Result<PathBuf, GuestError> {
    let dir = paths::guests_dir().map_err(at(Path::new("target/guests")))?;
    let path = dir.join(format!("{name}.cpio"));
    let partial = dir.join(format!(
        "{name}.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::write(&partial, initrd.finish()).map_err(at(&partial))?;
    fs::rename(&partial, &path).map_err(at(&path))?;
    Ok(path)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, GuestError> {
    fs::read(path).map_err(at(path))
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> GuestError {
    let path = path.to_path_buf();
    move |source| GuestError::File { path, source }
}
