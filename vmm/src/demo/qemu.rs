//! The guest under QEMU's own translator: the oracle that the guest is right, apart from any of our
//! engines.
//!
//! SeaBIOS places the PM1a registers of the PIIX4 where ours are and boots a disk whose first
//! sector loads the image and jumps to it. Guest memory is a file, read after the power-off.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Check, DemoImage, DemoParams, DemoResults, check, image, read_results};

const QEMU: &str = "qemu-system-i386";

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ringshift-demo-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A disk with a boot sector that reads all further sectors to the load address, and the image in
/// them.
fn disk(guest: &DemoImage) -> Vec<u8> {
    let (cs, ip) = guest.entry;
    let sectors = u16::try_from(guest.bytes.len().div_ceil(512)).unwrap();
    let mut disk = vec![0; 512];
    let code = [
        0x31, 0xC0, // xor ax, ax
        0x8E, 0xD8, // mov ds, ax
        0xBE, 0x20, 0x7C, // mov si, 7C20h: the disk address packet
        0xB4, 0x42, // mov ah, 42h: extended read; DL is the boot drive
        0xCD, 0x13, // int 13h
        0xEA, // jmp far cs:ip
    ];
    disk[..code.len()].copy_from_slice(&code);
    disk[code.len()..][..2].copy_from_slice(&ip.to_le_bytes());
    disk[code.len() + 2..][..2].copy_from_slice(&cs.to_le_bytes());
    let segment = u16::try_from(guest.load_address >> 4).unwrap();
    for (index, word) in [0x10, sectors, 0, segment, 1, 0, 0, 0]
        .into_iter()
        .enumerate()
    {
        disk[0x20 + 2 * index..][..2].copy_from_slice(&u16::to_le_bytes(word));
    }
    disk[510..].copy_from_slice(&[0x55, 0xAA]);
    disk.extend_from_slice(&guest.bytes);
    disk.resize(1 << 20, 0);
    disk
}

/// Run the guest on the given CPU model: its results and what it printed. None where QEMU is not
/// installed.
fn run(name: &str, cpu: &str, params: &DemoParams) -> Option<(DemoResults, String)> {
    if Command::new(QEMU)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        // Not through a print macro, whose output a passing test would hide.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {QEMU} is not installed");
        return None;
    }
    let scratch = Scratch::new(name);
    let guest = image(params);
    let disk = scratch.write("disk", &disk(&guest));
    let memory = scratch.0.join("memory");
    let output = Command::new("timeout")
        .args([
            "30",
            QEMU,
            "-accel",
            "tcg",
            "-display",
            "none",
            "-no-reboot",
            "-nodefaults",
            "-serial",
            "stdio",
        ])
        .args([
            "-cpu",
            cpu,
            "-machine",
            "pc,memory-backend=ram",
            "-m",
            "16M",
        ])
        .arg("-object")
        .arg(format!(
            "memory-backend-file,id=ram,size=16M,share=on,mem-path={}",
            memory.display()
        ))
        .args(["-drive", &format!("if=ide,format=raw,file={disk}")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let serial = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: no power-off\n{serial}\n{errors}",
        output.status
    );
    let memory = File::open(memory).unwrap();
    let results = read_results(|address, buffer| memory.read_exact_at(buffer, address).unwrap());
    Some((
        results.unwrap_or_else(|error| panic!("{error}\n{serial}")),
        serial,
    ))
}

fn assert_right(params: &DemoParams, results: &DemoResults, serial: &str) {
    let wrong: Vec<Check> = check(params, results)
        .into_iter()
        .filter(|check| !check.ok)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{serial}");
    for line in [
        "real mode\r\n",
        "task 1: integer work done\r\n",
        "task 3: paging done\r\n",
        "power off\r\n",
    ] {
        assert!(serial.contains(line), "{line:?} is missing:\n{serial}");
    }
}

#[test]
fn the_guest_computes_what_the_host_expects() {
    for seed in [0, 1, 0xFEDC_BA98_7654_3210] {
        let params = DemoParams { seed, scale: 0.25 };
        let Some((results, serial)) = run("seed", "pentium2", &params) else {
            return;
        };
        assert_right(&params, &results, &serial);
        assert!(results.counts.large_pages);
    }
}

#[test]
fn the_guest_does_without_large_pages() {
    let params = DemoParams {
        seed: 7,
        scale: 0.01,
    };
    let Some((results, serial)) = run("small-pages", "pentium,-pse", &params) else {
        return;
    };
    assert_right(&params, &results, &serial);
    assert!(!results.counts.large_pages);
}

/// One round each: the guest must show a tick in every task, an idle halt and x87 state moves all
/// the same.
#[test]
fn the_smallest_run_shows_everything_that_is_checked() {
    let params = DemoParams {
        seed: 42,
        scale: 0.0,
    };
    let Some((results, serial)) = run("smallest", "pentium2", &params) else {
        return;
    };
    assert_right(&params, &results, &serial);
}
