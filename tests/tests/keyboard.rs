//! What a guest reads from the keyboard controller: scan code sets 2 and 1, their translation, and keys
//! that repeat. The guest is a program of one track that drives ports 60h and 64h itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringshift::firmware::find;
use ringshift_tests::boot_disk::Program;
use ringshift_tests::scripted::{Scripted, snapshot};

const LIMIT: Duration = Duration::from_secs(200);
/// Seconds that a key is held so that it repeats.
const HOLD_MS: u32 = 3000;
/// Ticks of the BIOS's clock in a second, rounded down.
const TICKS: u32 = 18;

/// The program with the routines that it needs for the controller.
struct Keyboard {
    program: Program,
    get: CodeLabel,
    put: CodeLabel,
}

impl Keyboard {
    fn new() -> Result<Self, IcedError> {
        let mut program = Program::new()?;
        let a = &mut program.a;
        let (mut get, mut put, mut start) = (a.create_label(), a.create_label(), a.create_label());
        let mut busy = a.create_label();
        a.jmp(start)?;
        // AL: the next byte.
        a.set_label(&mut get)?;
        a.in_(al, 0x64)?;
        a.test(al, 1)?;
        a.jz(get)?;
        a.in_(al, 0x60)?;
        a.ret()?;
        // AL to the keyboard; its answer is taken.
        a.set_label(&mut put)?;
        a.push(ax)?;
        a.set_label(&mut busy)?;
        a.in_(al, 0x64)?;
        a.test(al, 2)?;
        a.jnz(busy)?;
        a.pop(ax)?;
        a.out(0x60, al)?;
        a.call(get)?;
        a.ret()?;
        a.set_label(&mut start)?;
        Ok(Self { program, get, put })
    }

    /// Sends bytes to the keyboard, which acknowledges each.
    fn send(&mut self, bytes: &[u8]) -> Result<(), IcedError> {
        for byte in bytes {
            self.program.a.mov(al, u32::from(*byte))?;
            self.program.a.call(self.put)?;
        }
        Ok(())
    }

    /// Writes the controller's command byte.
    fn configure(&mut self, byte: u8) -> Result<(), IcedError> {
        let a = &mut self.program.a;
        a.mov(al, 0x60)?;
        a.out(0x64, al)?;
        a.mov(al, u32::from(byte))?;
        a.out(0x60, al)
    }

    /// Shows the next bytes that come.
    fn show(&mut self, bytes: usize) -> Result<(), IcedError> {
        for _ in 0..bytes {
            self.program.print(" ")?;
            self.program.a.call(self.get)?;
            self.program.print_hex()?;
        }
        self.program.new_line()
    }

    /// Shows what comes up to `last`.
    fn show_to(&mut self, last: u8) -> Result<(), IcedError> {
        let mut next = self.program.a.create_label();
        self.program.a.set_label(&mut next)?;
        self.program.print(" ")?;
        self.program.a.call(self.get)?;
        self.program.print_hex()?;
        self.program.a.cmp(al, u32::from(last))?;
        self.program.a.jne(next)?;
        self.program.new_line()
    }

    /// Waits for a key; shows how many ticks of the clock later its code comes again, and how often it
    /// comes before that of its release. The answer is that of scan code set 1.
    fn repeats(&mut self) -> Result<(), IcedError> {
        const CLOCK: u32 = 0x46c;
        let (mut more, mut end) = (self.program.a.create_label(), self.program.a.create_label());
        self.program.a.call(self.get)?;
        self.program.a.mov(si, word_ptr(CLOCK))?;
        self.program.a.call(self.get)?;
        self.program.a.mov(cx, word_ptr(CLOCK))?;
        self.program.a.sub(cx, si)?;
        self.program.a.mov(di, 0)?;
        self.program.a.set_label(&mut more)?;
        self.program.a.test(al, 0x80)?;
        self.program.a.jnz(end)?;
        self.program.a.inc(di)?;
        self.program.a.call(self.get)?;
        self.program.a.jmp(more)?;
        self.program.a.set_label(&mut end)?;
        for register in [cx, di] {
            self.program.print(" ")?;
            self.program.a.mov(ax, register)?;
            self.program.print_hex()?;
        }
        self.program.new_line()
    }
}

/// IRQs off, mouse off.
const PLAIN: u8 = 0x20;
/// The same with translation to set 1.
const TRANSLATE: u8 = 0x60;

fn program() -> Result<Vec<u8>, IcedError> {
    let mut keyboard = Keyboard::new()?;
    keyboard.configure(PLAIN)?;
    keyboard.send(&[0xf6])?;
    keyboard.program.print("identity")?;
    keyboard.send(&[0xf2])?;
    keyboard.show(2)?;
    keyboard.program.print("set")?;
    keyboard.send(&[0xf0, 0])?;
    keyboard.show(1)?;
    keyboard.program.print("set 2:")?;
    keyboard.show_to(0x76)?;
    keyboard.show(2)?;
    keyboard.send(&[0xf0, 1])?;
    keyboard.program.print("set 1:")?;
    keyboard.show_to(0x81)?;
    keyboard.send(&[0xf0, 2])?;
    keyboard.configure(TRANSLATE)?;
    keyboard.program.print("translated:")?;
    keyboard.show_to(0x81)?;
    // A second, then 2 a second.
    keyboard.send(&[0xf3, 0x7f])?;
    keyboard.program.print("slow:")?;
    keyboard.repeats()?;
    // A quarter of one, then 30 a second.
    keyboard.send(&[0xf3, 0x00])?;
    keyboard.program.print("quick:")?;
    keyboard.repeats()?;
    keyboard.program.print("done")?;
    keyboard.program.disk()
}

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The bytes behind a heading of the screen.
fn bytes(screen: &str, heading: &str) -> Vec<u32> {
    let line = screen.lines().find_map(|line| line.strip_prefix(heading));
    let line = line.unwrap_or_else(|| panic!("no {heading:?} in\n{screen}"));
    let bytes = line.split_whitespace();
    bytes
        .map(|byte| u32::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn a_guest_reads_scan_codes_of_each_set_and_keys_that_repeat() {
    if let Err(error) = find(None, None, true) {
        eprintln!("SKIPPED: {error}");
        return;
    }
    let image = place("keyboard.img");
    fs::write(&image, program().unwrap()).unwrap();
    let screen = place("keyboard.txt");
    let keys = "sendkey a\nsendkey shift-b\nsendkey right\nsendkey esc\n";
    let script = format!(
        "wait set 2:\n{keys}wait set 1:\n{keys}wait translated:\n{keys}wait slow:\n\
         sendkey a {HOLD_MS}\nwait quick:\nsendkey a {HOLD_MS}\nwait done\ntext {}\n",
        screen.display()
    );
    let guest = Scripted {
        name: "keyboard",
        image: &snapshot(&image),
        memory: "16",
        script: &script,
        limit: LIMIT,
    };
    let driven = guest.run("translate", &["--timeout", "180"]);
    driven.unwrap_or_else(|error| panic!("{error}"));
    let screen = fs::read_to_string(&screen).unwrap();
    assert_eq!(bytes(&screen, "identity"), [0xab, 0x83]);
    assert_eq!(bytes(&screen, "set 2:")[..3], [0x1c, 0xf0, 0x1c]);
    let set_2 = [
        0x1c, 0xf0, 0x1c, 0x12, 0x32, 0xf0, 0x32, 0xf0, 0x12, 0xe0, 0x74, 0xe0, 0xf0, 0x74, 0x76,
    ];
    let set_1 = [
        0x1e, 0x9e, 0x2a, 0x30, 0xb0, 0xaa, 0xe0, 0x4d, 0xe0, 0xcd, 0x01, 0x81,
    ];
    assert_eq!(bytes(&screen, "set 2:"), set_2);
    assert_eq!(bytes(&screen, "set 1:"), set_1);
    assert_eq!(bytes(&screen, "translated:"), set_1);
    // A repeat never comes early; how late, and how many, depends on the host.
    let repeats = |heading| match bytes(&screen, heading)[..] {
        [ticks, count] => (ticks, count),
        ref other => panic!("{other:?}"),
    };
    let (ticks, count) = repeats("slow:");
    assert!(ticks >= TICKS - 1 && count >= 1, "{screen}");
    let (ticks, count) = repeats("quick:");
    assert!(ticks >= TICKS / 4 - 1 && count >= 2, "{screen}");
}
