//! SeaBIOS from the reset vector, on the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringshift::firmware::find;
use ringshift_tests::console::{self, Finished};
use ringshift_tests::{paths, programs};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs `ringshift run`.
fn run(arguments: &[&str]) -> Finished {
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.arg("run").args(arguments);
    console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

/// A file for a test, in the build directory.
fn file(name: &str, contents: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, contents).unwrap();
    path
}

fn bios() -> Option<String> {
    match find(None, None, false) {
        Ok(files) => Some(files.bios.to_str().unwrap().to_owned()),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// One error with all of `words` in it, status 1.
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let end = run(arguments);
    assert_eq!(end.code(), Some(1), "{}", end.stderr);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
    for word in words {
        assert!(end.stderr.contains(word), "{word:?}: {}", end.stderr);
    }
}

#[test]
fn seabios_finds_nothing_to_boot() {
    let Some(bios) = bios() else { return };
    let end = run(&[
        "--firmware",
        &bios,
        "--strict",
        "--audit",
        "--memory",
        "16",
        "--policy",
        "translate",
        "--log",
        "warn,firmware=debug",
        "--serial",
        "null",
        "--until-screen",
        "No bootable device.",
        "--timeout",
        "100",
    ]);
    assert_eq!(end.code(), Some(0), "{}\n{}", end.stdout, end.stderr);
    // The log of the firmware, from port 402h: it took the tables and the memory map.
    for line in [
        "Found QEMU fw_cfg",
        "QEMU fw_cfg DMA interface supported",
        "qemu/e820: addr 0x0000000000000000 len 0x0000000001000000 [RAM]",
        "Found 4 PCI devices",
        "Using pmtimer, ioport 0x608",
        "table(50434146)=",
    ] {
        assert!(end.stderr.contains(line), "{line}: {}", end.stderr);
    }
    assert!(
        end.stderr.contains("the shadow tables agree"),
        "{}",
        end.stderr
    );
}

#[test]
fn firmware_that_is_none_is_refused() {
    let odd = file("odd.bin", &[0; 100_000]);
    let odd = odd.to_str().unwrap();
    assert_refused(&["--firmware", odd], &[odd, "64 KiB"]);
    assert_refused(
        &["--firmware", "/nonexistent"],
        &["/nonexistent", "No such file"],
    );
    let good = file("zeros.bin", &[0; 1 << 16]);
    let good = good.to_str().unwrap();
    let text = file("text.bin", b"no option ROM");
    let text = text.to_str().unwrap();
    let words = [text, "55h AAh"];
    assert_refused(&["--firmware", good, "--vga-bios", text], &words);
}

#[test]
fn images_that_are_none_are_refused() {
    for (name, size) in [
        ("empty.img", 0),
        ("truncated.img", 1_474_559),
        ("odd.img", 12_345),
    ] {
        let path = file(name, &vec![0; size]);
        let path = path.to_str().unwrap();
        assert_refused(&[path], &[path, "neither a Linux kernel nor"]);
    }
    assert_refused(&["/nonexistent.img"], &["/nonexistent.img", "No such file"]);
    let directory = paths::workspace().to_str().unwrap();
    assert_refused(&[directory], &[directory, "irectory"]);
}

#[test]
fn floppy_disks_that_are_none_are_refused() {
    let odd = file("odd-floppy.img", &[0; 700]);
    let odd = odd.to_str().unwrap();
    assert_refused(&["--floppy", odd], &[odd, "multiple of 512"]);
    let empty = file("empty-floppy.img", &[]);
    let empty = empty.to_str().unwrap();
    assert_refused(&["--floppy", empty], &[empty, "empty"]);
    let large = file("large-floppy.img", &vec![0; 5 << 20]);
    let large = large.to_str().unwrap();
    assert_refused(&["--floppy", large], &[large, "more than any floppy disk"]);
    assert_refused(&["--floppy", "/nonexistent.img"], &["/nonexistent.img"]);
    let end = run(&["--floppy", odd, "--floppy", odd, "--floppy", odd]);
    assert_eq!(end.code(), Some(2), "{}", end.stderr);
    assert!(end.stderr.contains("two drives"), "{}", end.stderr);
}
