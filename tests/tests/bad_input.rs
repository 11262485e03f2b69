//! Bad input, whether from the command line, from files or from a guest: the documented exit
//! status, one clear error, no panic.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringshift_tests::bzimage;
use ringshift_tests::console::{self, Finished};
use ringshift_tests::guests::{self, Session};
use ringshift_tests::{paths, programs};

const LIMIT: Duration = Duration::from_secs(60);

/// A file for a test, in the build directory.
fn file(name: &str, contents: &[u8]) -> PathBuf {
    let dir = paths::guests_dir().unwrap().join("bad-input");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(name);
    fs::write(&path, contents).unwrap();
    path
}

/// A kernel that prints a word and then runs `code`.
fn kernel(name: &str, code: &[u8]) -> PathBuf {
    let mut all = bzimage::print("alive\n");
    all.extend_from_slice(code);
    file(name, &bzimage::bzimage(&all))
}

fn ringshift(arguments: &[&str]) -> Command {
    let mut command = programs::ringshift().unwrap_or_else(|error| panic!("{error}"));
    command.args(arguments);
    command
}

fn finish(command: Command) -> Finished {
    console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

/// Exactly one error, with every one of `words` in it, and nothing on standard output.
fn assert_error(end: &Finished, code: i32, words: &[&str]) {
    let said = format!("{:?}\n{}", end.status, end.stderr);
    assert_eq!(end.code(), Some(code), "{said}");
    assert!(!end.stderr.contains("panicked"), "{said}");
    let errors: Vec<&str> = end
        .stderr
        .lines()
        .filter(|line| line.to_lowercase().contains("error"))
        .collect();
    assert_eq!(errors.len(), 1, "{said}");
    for word in words {
        assert!(end.stderr.contains(word), "{word:?} is missing: {said}");
    }
}

fn assert_run_fails(arguments: &[&str], code: i32, words: &[&str]) {
    let mut all = vec!["run"];
    all.extend_from_slice(arguments);
    let end = finish(ringshift(&all));
    assert_error(&end, code, words);
    assert_eq!(end.stdout, "");
}

#[test]
fn kernels_that_are_none() {
    let real = fs::read(guests::debian_686(Session::Scripted).unwrap().kernel).unwrap();
    let text = b"not a kernel, only some text\n".repeat(1000);
    for (path, word) in [
        (PathBuf::from("/nonexistent/kernel"), "/nonexistent/kernel"),
        (paths::workspace().to_path_buf(), "irectory"),
        (file("empty", b""), "empty"),
        (file("short", &real[..700]), "short"),
        (file("setup-only", &real[..8192]), "setup-only"),
        (file("truncated", &real[..real.len() / 2]), "truncated"),
        (file("text", &text), "text"),
        (file("zeros", &vec![0; 1 << 20]), "zeros"),
    ] {
        let path = path.to_str().unwrap();
        assert_run_fails(&["--kernel", path, "--timeout", "20"], 1, &[word]);
    }
}

#[test]
fn initial_ram_disks_that_cannot_be_used() {
    let kernel = kernel("for-initrd", &bzimage::halt_for_ever());
    let kernel = kernel.to_str().unwrap();
    let large = file("large-initrd", &vec![0; 64 << 20]);
    let empty = file("no-initrd", b"");
    for (initrd, word) in [
        (large.to_str().unwrap(), "does not fit"),
        (empty.to_str().unwrap(), "empty"),
        ("/nonexistent/initrd", "/nonexistent/initrd"),
        (paths::workspace().to_str().unwrap(), "irectory"),
    ] {
        let arguments = ["--kernel", kernel, "--initrd", initrd, "--memory", "32M"];
        assert_run_fails(&arguments, 1, &[word]);
    }
}

#[test]
fn memory_sizes_that_make_no_sense() {
    let debian = guests::debian_686(Session::Scripted).unwrap().kernel;
    let debian = debian.to_str().unwrap();
    for size in ["0", "0M", "1M", "1T", "99999999999999999999"] {
        assert_run_fails(&["--kernel", debian, "--memory", size], 2, &[size]);
    }
    for size in ["", "M", "12Q", "-1", "1.5G", "0x10"] {
        let arguments = ["--kernel", debian, &format!("--memory={size}")];
        assert_run_fails(&arguments, 2, &["memory"]);
    }
    // A kernel that does not fit is no matter of syntax.
    assert_run_fails(&["--kernel", debian, "--memory", "4M"], 1, &["memory"]);
}

#[test]
fn command_lines_that_are_wrong() {
    assert_run_fails(&[], 2, &["--kernel"]);
    assert_run_fails(&["--kernel"], 2, &["--kernel"]);
    assert_run_fails(
        &["--kernel", "x", "--policy", "fastest"],
        2,
        &["fastest", "vmware", "translate", "ring"],
    );
    assert_run_fails(&["--kernel", "x", "--frobnicate"], 2, &["--frobnicate"]);
    assert_run_fails(&["--kernel", "x", "--timeout", "soon"], 2, &["soon"]);
    assert_run_fails(
        &["--kernel", "x", "--serial", "carrier-pigeon"],
        2,
        &["carrier-pigeon"],
    );
    assert_error(&finish(ringshift(&["fly"])), 2, &["fly"]);
    assert_error(&finish(ringshift(&["demo", "--seed", "x"])), 2, &["seed"]);
    assert_eq!(finish(ringshift(&[])).code(), Some(2));
}

#[test]
fn files_that_cannot_be_written() {
    let kernel = kernel("for-files", &bzimage::halt_for_ever());
    let kernel = kernel.to_str().unwrap();
    let nowhere = "/nonexistent/file";
    let serial = format!("file:{nowhere}");
    assert_run_fails(&["--kernel", kernel, "--serial", &serial], 1, &[nowhere]);
    assert_run_fails(&["--kernel", kernel, "--stats", nowhere], 1, &[nowhere]);
}

#[test]
fn a_guest_that_triple_faults() {
    let kernel = kernel("triple-fault", &bzimage::triple_fault());
    let end = finish(ringshift(&["run", "--kernel", kernel.to_str().unwrap()]));
    assert_error(&end, 3, &["triple fault"]);
    assert_eq!(end.stdout, "alive\n");
}

#[test]
fn a_guest_that_halts_with_interrupts_off() {
    let kernel = kernel("halt", &bzimage::halt_for_ever());
    let end = finish(ringshift(&["run", "--kernel", kernel.to_str().unwrap()]));
    assert_error(&end, 1, &["halt", "interrupts"]);
    assert_eq!(end.stdout, "alive\n");
}

/// Nothing answers there, so it reads as FF FF, which is no instruction; without an interrupt table
/// that ends in a triple fault.
#[test]
fn a_guest_that_jumps_to_nowhere() {
    for address in [0x7000_0000, 0xe000_0000] {
        let mut code = bzimage::triple_fault();
        code.truncate(code.len() - 2);
        code.extend(bzimage::jump_to(address));
        let kernel = kernel(&format!("nowhere-{address:x}"), &code);
        let end = finish(ringshift(&["run", "--kernel", kernel.to_str().unwrap()]));
        assert_error(&end, 3, &["triple fault"]);
        assert_eq!(end.stdout, "alive\n");
    }
}

/// A reader that goes away is an error like any other, not a panic and not a signal.
#[test]
fn closed_standard_output() {
    // Prints for ever.
    let mut code = bzimage::print("x");
    let back = u8::try_from(-(code.len() as i64 + 2) & 0xff).unwrap();
    code.extend_from_slice(&[0xeb, back]);
    let kernel = kernel("chatter", &code);
    let script = r#"{ "$0" "$@"; echo "status $?" >&2; } | head -c 10 >/dev/null"#;
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(programs::ringshift_path().unwrap_or_else(|error| panic!("{error}")))
        .args(["run", "--timeout", "20", "--kernel"])
        .arg(kernel);
    let end = finish(command);
    assert!(end.stderr.contains("status 1"), "{}", end.stderr);
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);

    for arguments in ["--help", "--version", "demo", "host --json"] {
        let script = format!(r#"exec 3>&2; {{ "$0" {arguments}; echo "status $?" >&3; }} | true"#);
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .arg(programs::ringshift_path().unwrap_or_else(|error| panic!("{error}")))
            .stdin(Stdio::null());
        let end = finish(command);
        let status_0_or_1 = end.stderr.contains("status 0") || end.stderr.contains("status 1");
        assert!(status_0_or_1, "{arguments}: {}", end.stderr);
        assert!(
            !end.stderr.contains("panicked"),
            "{arguments}: {}",
            end.stderr
        );
    }
}
