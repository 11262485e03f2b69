//! Systems that boot from floppy disks, by what their screens show. A picture of each last screen is
//! left in `target/pictures`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringshift_tests::packages::{Package, Packages};
use ringshift_tests::scripted::{Scripted, shared_image, snapshot};

const LIMIT: Duration = Duration::from_secs(300);

/// Runs a script under each policy.
fn drive(name: &str, image: &str, memory: &str, script: &str, policies: &[&str]) {
    let guest = Scripted {
        name,
        image,
        memory,
        script,
        limit: LIMIT,
    };
    for policy in policies {
        let end = guest.run(policy, &["--audit", "--timeout", "280"]);
        end.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A file out of a package.
fn from_package(package: Package, file: &str) -> PathBuf {
    let packages = Packages::open().unwrap_or_else(|error| panic!("{error}"));
    let directory = packages.unpacked(package);
    directory
        .unwrap_or_else(|error| panic!("{error}"))
        .join(file)
}

#[test]
fn freedos_answers_commands_and_plays_a_game() {
    let Some(image) = shared_image("freedos-720k.img") else {
        return;
    };
    let script = r#"
wait Welcome to FreeDOS
wait Try 'invaders' or 'snake' or 'tetris' for fun.
wait A:\\>
type ver\n
wait FreeCom version
idle 0.5
type cls\ndir\n
wait bytes free
type tetris\n
wait "SCORE:              "
sleep 0.5
sendkey left
sendkey spc
sleep 0.5
sendkey spc
wait-gone "SCORE:              "
"#;
    drive(
        "freedos-720k",
        &image,
        "16",
        script,
        &["translate", "random"],
    );
}

#[test]
fn what_freedos_writes_is_there_after_a_reboot() {
    let Some(image) = shared_image("freedos-1440k.img") else {
        return;
    };
    // A copy that is written to, not a snapshot: the file is looked at in the end.
    let original = image.trim_end_matches(",snapshot=on");
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("freedos-written.img");
    fs::write(&copy, fs::read(original).unwrap()).unwrap();
    let script = r"
wait A:\\>
type echo kept on the disk > kept.txt\n
idle 1
reset
wait-gone kept
wait A:\\>
type type kept.txt\n
wait kept on the disk
";
    drive(
        "freedos-1440k",
        copy.to_str().unwrap(),
        "16",
        script,
        &["translate"],
    );
    let written = fs::read(&copy).unwrap();
    let text = b"kept on the disk";
    assert!(written.windows(text.len()).any(|window| window == text));
    assert_ne!(written, fs::read(original).unwrap());
}

#[test]
fn mikeos_shows_its_menu_and_runs_a_program() {
    let Some(image) = shared_image("mikeos.img") else {
        return;
    };
    let script = r"
wait Thanks for trying out MikeOS!
sendkey ret
wait Please select a file
sendkey esc
wait Please select an interface
sendkey right
sendkey ret
wait >
type ver\n
wait MikeOS 4.5
type hangman\n
wait MikeOS Hangman
";
    drive("mikeos", &image, "4", script, &["translate", "random"]);
}

#[test]
fn grub_comes_to_its_prompt() {
    let floppy = from_package(
        Package::GrubRescue,
        "usr/lib/grub-rescue/grub-rescue-floppy.img",
    );
    let script = r"
wait GNU GRUB
type c
wait grub>
type ls\n
wait (fd0)
";
    let image = snapshot(&floppy);
    drive("grub", &image, "32", script, &["translate"]);
}

#[test]
fn memtest86_finds_no_error() {
    let program = from_package(Package::Memtest86, "boot/memtest86+ia32.bin");
    // The program is a boot sector and what follows it: a floppy disk, but for its size.
    let mut disk = fs::read(program).unwrap();
    disk.resize(1_474_560, 0);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memtest.img");
    fs::write(&path, disk).unwrap();
    // It moves itself above 4 MB. The last test waits for minutes to see whether bits fade away: it is skipped.
    let script = r"
timeout 250
wait <Enter> to start testing
sendkey ret
wait Bit fade test
sendkey f1
wait Skip current test
sendkey f5
wait Pass:  1
wait Errors: 0
";
    drive("memtest86", &snapshot(&path), "8", script, &["translate"]);
}

#[test]
fn openbsd_installer_gives_a_shell() {
    let Some(image) = shared_image("openbsd-floppy.img") else {
        return;
    };
    let script = r"
timeout 200
wait (I)nstall, (U)pgrade or (S)hell?
type s\n
wait #
type ls /bin\n
wait chmod
";
    drive("openbsd", &image, "64", script, &["translate"]);
}
