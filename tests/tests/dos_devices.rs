//! What guests see of devices when people change disks, hold keys and switch off, and when the host's
//! disk is full: FreeDOS, and programs of one track that ask the devices themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringshift::firmware::find;
use ringshift_tests::boot_disk::Program;
use ringshift_tests::console::Finished;
use ringshift_tests::monitor::{Machine as _, MonitorError, Ringshift};
use ringshift_tests::scripted::{
    Driven, FREEDOS_1440K_STARTED, Scripted, ScriptedError, shared_image, snapshot,
};
use ringshift_tests::{paths, programs};

const LIMIT: Duration = Duration::from_secs(300);
const OPTIONS: [&str; 2] = ["--timeout", "280"];

fn guest<'a>(name: &'a str, image: &'a str, script: &'a str) -> Scripted<'a> {
    Scripted {
        name,
        image,
        memory: "16",
        script,
        limit: LIMIT,
    }
}

/// Everything translated: none of these guests has anything else.
fn drive(name: &str, image: &str, script: &str) -> Driven {
    let driven = guest(name, image, script).run("translate", &OPTIONS);
    driven.unwrap_or_else(|error| panic!("{error}"))
}

/// A file in the build directory.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A disk with a program, as an image; `None` with a line that says so without firmware.
fn disk_of(name: &str, program: Result<Vec<u8>, IcedError>) -> Option<String> {
    if let Err(error) = find(None, None, true) {
        eprintln!("SKIPPED: {error}");
        return None;
    }
    let path = place(name);
    fs::write(&path, program.unwrap()).unwrap();
    Some(snapshot(&path))
}

// Disks that are changed.

/// DOS asks for nothing within two seconds after it used a disk: nobody is as quick as that.
#[test]
fn freedos_sees_the_disk_that_was_put_in() {
    let (Some(booted), Some(other)) = (
        shared_image("freedos-1440k.img"),
        shared_image("freedos-720k.img"),
    ) else {
        return;
    };
    let script = format!(
        r"
{FREEDOS_1440K_STARTED}
sleep 3
change floppy0 {other}
type cls\ndir\n
wait X86TEST
wait bytes free
type type foo\n
wait qwer
sleep 3
change floppy0 {booted}
type cls\ndir\n
wait README   TXT
wait bytes free
"
    );
    drive("disk-change", &booted, &script);
}

/// A long file is read again and again; in the middle the disk goes. With it back DOS finishes what it
/// was at, and takes the next command.
#[test]
fn a_disk_that_goes_while_freedos_reads_is_an_error_until_it_is_back() {
    let Some(image) = shared_image("freedos-720k.img") else {
        return;
    };
    let script = format!(
        r"
wait A:\\>
type cls\n
wait-gone FreeDOS
type for %a in (1 2 3 4 5 6 7 8 9 10) do copy /b vim.exe nul\n
wait vim.exe => nul
eject floppy0
wait (R)etry
idle 0.5
change floppy0 {image}
type r
sleep 0.5
type cls\n
wait-gone vim.exe
type dir vim.exe\n
wait 205,718
"
    );
    drive("disk-gone", &image, &script);
}

/// Shows the disk change line of drive A: whenever it changes, and reads the boot sector when a key is
/// pressed.
fn disk_change_program() -> Result<Vec<u8>, IcedError> {
    const SECTOR: u32 = 0x9000;
    let mut program = Program::new()?;
    let mut look = program.a.create_label();
    let mut same = program.a.create_label();
    let mut key = program.a.create_label();
    let mut no_name = program.a.create_label();
    program.a.mov(bl, 0xff)?;
    program.a.set_label(&mut look)?;
    // Drive A: selected, its motor on, no reset, DMA: the line is that of the selected drive.
    program.a.mov(dx, 0x3f2)?;
    program.a.mov(al, 0x1c)?;
    program.a.out(dx, al)?;
    program.a.mov(dx, 0x3f7)?;
    program.a.in_(al, dx)?;
    program.a.and(al, 0x80)?;
    program.a.cmp(al, bl)?;
    program.a.je(same)?;
    program.a.mov(bl, al)?;
    program.print("line ")?;
    program.a.mov(al, bl)?;
    program.print_hex()?;
    program.new_line()?;
    program.a.set_label(&mut same)?;
    program.a.hlt()?;
    program.a.mov(ah, 1)?;
    program.a.int(0x16)?;
    program.a.jnz(key)?;
    program.a.jmp(look)?;
    program.a.set_label(&mut key)?;
    program.a.mov(ah, 0)?;
    program.a.int(0x16)?;
    program.a.push(bx)?;
    program.a.mov(word_ptr(SECTOR + 3), 0x2d2d)?;
    // From the second cylinder to the first, so that the head steps.
    for cylinder in [1, 0] {
        program.a.mov(ax, 0x0201)?;
        program.a.mov(bx, SECTOR)?;
        program.a.mov(cx, 1 | cylinder << 8)?;
        program.a.xor(dx, dx)?;
        program.a.int(0x13)?;
    }
    program.a.pop(bx)?;
    program.a.mov(cl, ah)?;
    program.print("read ")?;
    program.a.mov(al, cl)?;
    program.print_hex()?;
    program.a.test(cl, cl)?;
    program.a.jnz(no_name)?;
    program.print(" ")?;
    for offset in 3..11 {
        program.a.mov(al, byte_ptr(SECTOR + offset))?;
        program.print_al()?;
    }
    program.a.set_label(&mut no_name)?;
    program.new_line()?;
    program.a.jmp(look)?;
    program.disk()
}

#[test]
fn the_disk_change_line_is_reset_by_a_step_with_a_disk_in_the_drive() {
    let Some(image) = disk_of("disk-change-line.img", disk_change_program()) else {
        return;
    };
    // A name in its boot sector, where formatting programs put theirs.
    let mut named = disk_change_program().unwrap();
    named[3..11].copy_from_slice(b"THEOTHER");
    let other = place("disk-change-other.img");
    fs::write(&other, named).unwrap();
    // The firmware read without a step: the line is still what it is after power-on.
    let script = format!(
        r"
wait line 80
type 1
wait read 00
wait line 00
change floppy0 {other},readonly=on
idle 1
type 2
wait read 00 THEOTHER
idle 1
text {first}
eject floppy0
idle 1
type 3
idle 5
text {second}
change floppy0 {other},readonly=on
idle 1
type 4
idle 3
text {third}
",
        other = other.display(),
        first = place("line-1.txt").display(),
        second = place("line-2.txt").display(),
        third = place("line-3.txt").display(),
    );
    drive("disk-change-line", &image, &script);
    let lines = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(place(name)).unwrap();
        let lines = text.lines().map(str::trim_end);
        let ours = |line: &&str| line.starts_with("line ") || line.starts_with("read ");
        lines.filter(ours).map(str::to_owned).collect()
    };
    let first = lines("line-1.txt");
    assert!(first[1].starts_with("read 00"), "{first:?}");
    assert_eq!([&first[0], &first[2]], ["line 80", "line 00"]);
    assert_eq!(first[3..], ["line 80", "read 00 THEOTHER", "line 00"]);
    // Nothing in the drive: the line stays, and the BIOS has an error.
    let second = lines("line-2.txt");
    assert_eq!(second[..6], first);
    assert_eq!(second[6], "line 80");
    assert_eq!(second.len(), 8, "{second:?}");
    assert!(!second[7].starts_with("read 00"), "{second:?}");
    // The disk alone changes nothing: the head has to move over it.
    let third = lines("line-3.txt");
    assert_eq!(third[..8], second);
    assert_eq!(third[8..], ["read 00 THEOTHER", "line 00"]);
}

// Switching off.

/// Types a program into DEBUG and runs it. There is no FDAPM on the disks.
fn freedos_switches_itself_off(name: &str, program: &str) {
    let Some(image) = shared_image("freedos-720k.img") else {
        return;
    };
    let script = format!(
        r"
wait A:\\>
type cls\n
wait-gone FreeDOS
type debug\n
wait -
type a\n
wait :0100
type {program}nop\n
wait nop
type \n
idle 1
type g\n
detach
"
    );
    let driven = drive(name, &image, &script);
    assert_eq!(driven.ending(), "the guest switched itself off");
}

/// Connect to the real-mode interface, take version 1.2, engage, and set the state of all devices to
/// off: INT 15h, functions 5301h, 530Eh, 5308h and 5307h.
#[test]
fn freedos_switches_itself_off_by_apm() {
    let program = concat!(
        r"mov ax,5301\nxor bx,bx\nint 15\nmov ax,530e\nmov cx,102\nint 15\n",
        r"mov ax,5308\nmov bx,1\nmov cx,1\nint 15\nmov ax,5307\nmov cx,3\nint 15\n",
    );
    freedos_switches_itself_off("power-off-apm", program);
}

/// SLP_EN in the PM1 control register, with the sleep type of soft off.
#[test]
fn freedos_switches_itself_off_by_acpi() {
    freedos_switches_itself_off("power-off-acpi", r"mov dx,604\nmov ax,2000\nout dx,ax\n");
}

// A host whose disk is full.

/// Copies a file to the disk, which the host does not let grow; gives up, and goes on.
const COPY: &str = r"
type copy command.com copy.com\n
wait (A)bort
type a
idle 1
type cls\ndir\n
wait bytes free
type type readme.txt\n
wait boot diskette
";

fn check_full(driven: Result<Driven, ScriptedError>) {
    let driven = driven.unwrap_or_else(|error| panic!("{error}"));
    check_warnings(&driven.end.stderr);
}

fn check_warnings(stderr: &str) {
    assert!(stderr.contains("the guest sees a disk error"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    // DOS tries again and again: a few of them are told.
    let warnings = stderr.matches("cannot be written").count();
    assert!((1..=20).contains(&warnings), "{warnings}: {stderr}");
}

fn ringshift_path() -> &'static Path {
    programs::ringshift_path().unwrap_or_else(|error| panic!("{error}"))
}

/// Sets or lifts the limit of files that a program writes, by util-linux's `prlimit`.
fn limit_files(machine: &Ringshift, bytes: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &machine.id().to_string()])
        .arg(format!("--fsize={bytes}:"))
        .status();
    assert!(status.unwrap().success());
}

/// The limit is that of `ulimit -f`, whose signal ends programs that do not expect it. When it is
/// lifted, what DOS tries again works.
#[test]
fn a_file_that_may_not_grow_is_a_disk_error_until_it_may() {
    let Some(image) = shared_image("freedos-1440k.img") else {
        return;
    };
    let copy = place("limited.img");
    let original = image.trim_end_matches(",snapshot=on");
    fs::write(&copy, fs::read(original).unwrap()).unwrap();
    let end = limited(copy.to_str().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(end.code(), Some(130), "{}", end.stderr);
    check_warnings(&end.stderr);
}

fn limited(image: &str) -> Result<Finished, MonitorError> {
    let mut machine = Ringshift::start(image, "16")?;
    machine.wait_for("A:\\>", LIMIT)?;
    machine.wait_gone("FreeDOS kernel", LIMIT)?;
    machine.wait_for("A:\\>", LIMIT)?;
    limit_files(&machine, "65536");
    machine.type_text("cls\ncopy command.com copy.com\n")?;
    machine.wait_for("(R)etry", LIMIT)?;
    limit_files(&machine, "unlimited");
    machine.type_text("r")?;
    machine.type_text("dir copy.com\n")?;
    machine.wait_for("66,090", LIMIT)?;
    machine.quit()
}

#[test]
fn a_full_file_system_is_a_disk_error_and_not_the_end() {
    let Some(image) = shared_image("freedos-1440k.img") else {
        return;
    };
    let directory = paths::guests_dir().unwrap_or_else(|error| panic!("{error}"));
    let directory = directory.join("full");
    fs::create_dir_all(&directory).unwrap();
    // A sparse image, with nothing left to put into its holes.
    let host = "{ mount -t tmpfs -o size=4m tmpfs \"$1\" && \
                cp --sparse=always \"$2\" \"$1/disk.img\" && chmod u+w \"$1/disk.img\"; } || \
                { echo '@@ no mount' >&2; exit 9; }; \
                dd if=/dev/zero of=\"$1/rest\" bs=4096 2>/dev/null; shift 2; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            host,
            "sh",
        ])
        .arg(&directory)
        .arg(image.trim_end_matches(",snapshot=on"))
        .arg(ringshift_path());
    let disk = directory.join("disk.img");
    let script = format!("{FREEDOS_1440K_STARTED}{COPY}");
    let disk = disk.to_str().unwrap();
    let driven = guest("full-host", disk, &script).run_with(command, "translate", &OPTIONS);
    match driven {
        Err(ScriptedError::Failed { stderr, .. })
            if stderr.contains("@@ no mount") || stderr.contains("unshare") =>
        {
            eprintln!("SKIPPED: no mount namespace here: {stderr}");
        }
        driven => check_full(driven),
    }
}
