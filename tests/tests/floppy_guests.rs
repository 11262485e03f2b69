//! Systems that boot from floppy disks, by what their screens show. A picture of each last screen is
//! left in `target/pictures`.
//!
//! Each runs under `translate`, `vmware` and `random`. DOS, MikeOS, GRUB and memtest86+ are in real mode
//! or in ring 0 all the time: no state of theirs may run directly, and the statistics say so. OpenBSD has
//! programs in ring 3, which run directly where there is a KVM: all of them under `vmware`, some under `random`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringshift_tests::packages::{Package, Packages};
use ringshift_tests::scripted::{Driven, FREEDOS_1440K_STARTED, Scripted, shared_image, snapshot};

const LIMIT: Duration = Duration::from_secs(300);

/// Policies for guests without programs in ring 3.
const POLICIES: [&str; 3] = ["translate", "vmware", "random"];

/// Runs a script under a policy.
fn drive(name: &str, image: &str, memory: &str, script: &str, policy: &str) -> Driven {
    let guest = Scripted {
        name,
        image,
        memory,
        script,
        limit: LIMIT,
    };
    // What the probe finds wrong with this host's KVM is not in these guests.
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    let direct = if kvm.is_ok() { "kvm=force" } else { "auto" };
    let options = ["--audit", "--timeout", "280", "--direct", direct];
    let driven = guest.run(policy, &options);
    driven.unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a script under each policy. The guest never leaves real mode and ring 0.
fn drive_ring_0(name: &str, image: &str, memory: &str, script: &str) {
    for policy in POLICIES {
        let driven = drive(name, image, memory, script, policy);
        let count = |path: &str| driven.count(path);
        assert!(count("/decisions/evaluations") > 10, "{:#}", driven.stats);
        assert_eq!(count("/decisions/legal"), 0, "{:#}", driven.stats);
        assert_eq!(count("/runs/direct"), 0, "{:#}", driven.stats);
        let ring3 = "/decisions/ring3/translated/runs";
        assert_eq!(count(ring3), 0, "{:#}", driven.stats);
        let reasons = ["REAL_MODE", "NOT_RING_3"];
        let refused = reasons.map(|name| count(&format!("/decisions/refusals_by_reason/{name}")));
        let all = count("/decisions/evaluations");
        assert_eq!(refused.iter().sum::<u64>(), all, "{:#}", driven.stats);
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

/// `mem` is on neither of FreeDOS's disks; `memory` is built into its shell.
#[test]
fn freedos_answers_commands_and_plays_a_game() {
    let Some(image) = shared_image("freedos-720k.img") else {
        return;
    };
    let script = r#"
wait Welcome to FreeDOS
wait Try 'invaders' or 'snake' or 'tetris' for fun.
wait A:\\>
type cls\n
wait-gone FreeDOS
type ver\n
wait FreeCom version
type mem\n
wait Bad command or filename - "MEM"
type memory\n
wait Environment segment
wait Heap
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
    drive_ring_0("freedos-720k", &image, "16", script);
}

#[test]
fn what_freedos_writes_is_there_after_a_reboot() {
    let Some(image) = shared_image("freedos-1440k.img") else {
        return;
    };
    // A copy that is written to, not a snapshot: the file is looked at in the end.
    let original = fs::read(image.trim_end_matches(",snapshot=on")).unwrap();
    // A reset leaves the display memory as it is: no old prompt may be in it.
    let script = format!(
        r"
{FREEDOS_1440K_STARTED}
type echo kept on the disk > kept.txt\n
type dir kept.txt\n
wait bytes free
type prompt ready$g\ncls\n
wait-gone A:\\>
wait ready>
reset
{FREEDOS_1440K_STARTED}
type type kept.txt\n
wait kept on the disk
"
    );
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("freedos-written.img");
    for policy in POLICIES {
        fs::write(&copy, &original).unwrap();
        let driven = drive(
            "freedos-1440k",
            copy.to_str().unwrap(),
            "16",
            &script,
            policy,
        );
        assert_eq!(driven.count("/decisions/legal"), 0, "{:#}", driven.stats);
        let written = fs::read(&copy).unwrap();
        let text = b"kept on the disk";
        assert!(written.windows(text.len()).any(|window| window == text));
        assert_ne!(written, original);
    }
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
    drive_ring_0("mikeos", &image, "4", script);
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
    drive_ring_0("grub", &image, "32", script);
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
    drive_ring_0("memtest86", &snapshot(&path), "8", script);
}

/// Whether this host runs ring 3 of a guest with segments that end below 4 GB. If not, a line says so.
fn may_run_directly(driven: &Driven) -> bool {
    let against = &driven.stats["decisions"]["ring3"]["against"];
    let reasons = ["CODE_32_UNSUPPORTED", "LIMITS_UNCHECKED"];
    let may = driven.stats["direct_available"] == true
        && reasons.iter().all(|reason| against[*reason].is_null());
    if !may {
        eprintln!("SKIPPED: direct execution, which this host has not for OpenBSD: {against}");
    }
    may
}

/// All of its programs run directly, up to the installer's first question; beyond it this would take
/// minutes on a KVM without hardware. What is translated there is single instructions that the KVM does
/// not have.
#[test]
fn openbsd_programs_run_directly_whenever_that_is_legal() {
    let Some(image) = shared_image("openbsd-floppy.img") else {
        return;
    };
    let script = "timeout 500\nwait (I)nstall, (U)pgrade or (S)hell?\n";
    let guest = Scripted {
        name: "openbsd",
        image: &image,
        memory: "64",
        script,
        limit: Duration::from_secs(600),
    };
    let driven = guest.run("vmware", &["--audit", "--timeout", "580"]);
    let driven = driven.unwrap_or_else(|error| panic!("{error}"));
    if !may_run_directly(&driven) {
        return;
    }
    let ring3 = |who: &str| driven.count(&format!("/decisions/ring3/{who}/runs"));
    assert!(ring3("direct") > 1000, "{:#}", driven.stats);
    assert_eq!(ring3("direct"), driven.count("/decisions/legal"));
    let all = ["direct", "replayed", "translated"].map(ring3);
    assert!(
        ring3("translated") * 20 < all.iter().sum(),
        "{:#}",
        driven.stats
    );
}

/// Under `random` some of its programs run directly: not many, as here that may be slow.
#[test]
fn openbsd_installer_gives_a_shell_that_reads_and_writes_floppy_disks() {
    let (Some(image), Some(dos)) = (
        shared_image("openbsd-floppy.img"),
        shared_image("freedos-1440k.img"),
    ) else {
        return;
    };
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openbsd-writes.img");
    let script = format!(
        r"
timeout 200
wait (I)nstall, (U)pgrade or (S)hell?
wait fd0 at fdc0 drive 0: 1.44MB 80 cyl, 2 head, 18 sec
type s\n
wait #
type ls /bin\n
wait chmod
type mount -r /dev/fd0a /mnt ; ls -l /mnt\n
wait 1330915 Nov  6  2000 bsd
type umount /mnt ; echo g''one\n
wait gone
change floppy0 {}
type mount -t msdos /dev/fd0c /mnt ; ls /mnt\n
wait COMMAND.COM
type echo kept on the disk > /mnt/kept.txt ; umount /mnt ; echo wr''itten\n
wait written
",
        copy.display()
    );
    for policy in ["translate", "random:direct=0.1"] {
        fs::write(
            &copy,
            fs::read(dos.trim_end_matches(",snapshot=on")).unwrap(),
        )
        .unwrap();
        let driven = drive("openbsd", &image, "64", &script, policy);
        let written = fs::read(&copy).unwrap();
        let text = b"kept on the disk";
        assert!(written.windows(text.len()).any(|window| window == text));
        let direct = driven.count("/runs/direct");
        if policy == "translate" {
            assert_eq!(direct, 0, "{:#}", driven.stats);
        } else if may_run_directly(&driven) {
            assert!(direct >= 20, "{direct} runs: {:#}", driven.stats);
            assert!(driven.count("/decisions/legal") > direct);
        }
    }
}
