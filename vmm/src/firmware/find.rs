//! Where distributions put firmware.

use std::path::{Path, PathBuf};

use super::FirmwareFiles;

/// Debian's `seabios`, Fedora's `seabios-bin` and `seavgabios-bin`, and what QEMU installs.
const DIRECTORIES: [&str; 6] = [
    "/usr/share/seabios",
    "/usr/share/seavgabios",
    "/usr/share/qemu",
    "/usr/share/qemu-kvm",
    "/usr/local/share/qemu",
    "/usr/local/share/seabios",
];
/// The larger one has more drivers.
const BIOS: [&str; 2] = ["bios-256k.bin", "bios.bin"];
const VGA_BIOS: [&str; 2] = ["vgabios-stdvga.bin", "vgabios.bin"];

/// The firmware is not installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no {what} ({}) in any of {}; install the package 'seabios', or name the file with {option}",
    names.join(" or "),
    DIRECTORIES.join(", ")
)]
pub struct FindError {
    /// What was looked for.
    what: &'static str,
    /// Names that it could have.
    names: &'static [&'static str],
    /// The option that names it.
    option: &'static str,
}

/// Finds the firmware files that are not given. `vga` tells that the machine has a VGA.
///
/// # Errors
/// One is not there.
pub fn find(
    bios: Option<&Path>,
    vga_bios: Option<&Path>,
    vga: bool,
) -> Result<FirmwareFiles, FindError> {
    let directories: Vec<&Path> = DIRECTORIES.iter().map(Path::new).collect();
    find_in(&directories, bios, vga_bios, vga)
}

fn find_in(
    directories: &[&Path],
    bios: Option<&Path>,
    vga_bios: Option<&Path>,
    vga: bool,
) -> Result<FirmwareFiles, FindError> {
    let look = |given: Option<&Path>, error: FindError| match given {
        Some(path) => Ok(path.to_owned()),
        None => first(directories, error.names).ok_or(error),
    };
    let no_bios = FindError {
        what: "firmware",
        names: &BIOS,
        option: "--firmware",
    };
    let no_vga_bios = FindError {
        what: "VGA BIOS",
        names: &VGA_BIOS,
        option: "--vga-bios",
    };
    Ok(FirmwareFiles {
        bios: look(bios, no_bios)?,
        vga_bios: vga.then(|| look(vga_bios, no_vga_bios)).transpose()?,
    })
}

/// The first of the names that is a file in one of the directories.
fn first(directories: &[&Path], names: &[&str]) -> Option<PathBuf> {
    let all = names
        .iter()
        .flat_map(|name| directories.iter().map(move |dir| dir.join(name)));
    all.into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_firmware_is_found_wherever_it_is() {
        let dir = std::env::temp_dir().join(format!("ringshift-find-{}", std::process::id()));
        let (one, two) = (dir.join("one"), dir.join("two"));
        for directory in [&one, &two] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        std::fs::write(one.join("bios.bin"), b"").expect("a file");
        let look = |vga| find_in(&[&one, &two], None, None, vga);
        let found = look(false).expect("there is one");
        assert_eq!((found.bios, found.vga_bios), (one.join("bios.bin"), None));
        std::fs::write(two.join("bios-256k.bin"), b"").expect("a file");
        assert_eq!(look(false).expect("two").bios, two.join("bios-256k.bin"));
        let error = look(true).expect_err("no VGA BIOS").to_string();
        assert!(
            error.contains("package 'seabios'") && error.contains("--vga-bios"),
            "{error}"
        );
        let given = find_in(&[], Some(Path::new("b")), Some(Path::new("v")), true);
        let given = given.expect("nothing is looked for");
        assert_eq!(given.vga_bios, Some("v".into()));
        std::fs::remove_dir_all(dir).expect("it is ours");
    }
}
