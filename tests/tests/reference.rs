//! The guests under QEMU's TCG: what passes here is right in itself, so that a failure under
//! ringshift is ringshift's.

use std::process::Command;
use std::time::Duration;

use ringshift_tests::console::{self, Console};
use ringshift_tests::guests::{self, Session};
use ringshift_tests::hwvirt::{self, Payload, Step};
use ringshift_tests::{bzimage, paths, programs, shell_session};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn debian_686_passes_its_checks() {
    if !programs::installed("qemu-system-i386") {
        return;
    }
    let guest = guests::debian_686(Session::Scripted).unwrap_or_else(|error| panic!("{error}"));
    let end = console::run(programs::qemu_run(&guest), LIMIT).unwrap_or_else(|e| panic!("{e}"));
    let passed = end.stdout.contains(guests::PASSED);
    assert!(
        passed && end.code() == Some(0),
        "{}\n{}",
        end.stdout,
        end.stderr
    );
}

#[test]
fn debian_686_answers_typed_commands() {
    if !programs::installed("qemu-system-i386") {
        return;
    }
    let guest = guests::debian_686(Session::Interactive).unwrap_or_else(|error| panic!("{error}"));
    let console = Console::start(programs::qemu_run(&guest)).unwrap_or_else(|e| panic!("{e}"));
    let end = shell_session::converse(console, LIMIT).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(end.code(), Some(0), "{}", end.stderr);
}

#[test]
fn the_machine_with_a_real_kvm_has_it() {
    if !programs::installed("qemu-system-x86_64") {
        return;
    }
    for nested_paging in [true, false] {
        let payload = Payload::Program("/bin/true".into());
        let steps = [
            ("device", "ls /dev/kvm; echo to stderr >&2; exit 5"),
            ("dynamic", "/payload/true"),
        ]
        .map(|(name, command)| Step {
            name: name.to_owned(),
            command: command.to_owned(),
        });
        let results = hwvirt::run(nested_paging, &[payload], &steps, LIMIT)
            .unwrap_or_else(|error| panic!("{error}"));
        let [device, dynamic] = results.as_slice() else {
            panic!("{results:?}");
        };
        assert_eq!(
            (
                device.status,
                device.stdout.as_str(),
                device.stderr.as_str()
            ),
            (5, "/dev/kvm\n", "to stderr\n")
        );
        assert_eq!((dynamic.status, dynamic.stderr.as_str()), (0, ""));
    }
}

/// The kernels of a few bytes that other tests use are loaded and do what they should.
#[test]
fn small_kernels_run() {
    if !programs::installed("qemu-system-i386") {
        return;
    }
    let mut code = bzimage::print("alive\n");
    code.extend(bzimage::triple_fault());
    let path = paths::guests_dir().unwrap().join("triple-fault.bzimage");
    std::fs::write(&path, bzimage::bzimage(&code)).unwrap();
    let mut qemu = Command::new("qemu-system-i386");
    qemu.args([
        "-accel",
        "tcg",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ])
    .args(["-serial", "stdio", "-kernel"])
    .arg(path);
    let end = console::run(qemu, Duration::from_secs(30)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (end.code(), end.stdout.as_str()),
        (Some(0), "alive\n"),
        "{}",
        end.stderr
    );
}
