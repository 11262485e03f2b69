//! `--display terminal` on a terminal of the test's own: what it draws there, what it makes of keys, and
//! how it leaves.
#![allow(unsafe_code)] // the ioctl that changes the size of a terminal

#[path = "common/vga.rs"]
mod vga;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use ringshift::control::display::TerminalDisplay;
use ringshift::guest::Guest;
use ringshift::machine::{Machine, MachineConfig};
use vga::{Assembled, packed, text};
use vt100::{Color, Parser, Screen};

/// How long anything may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(100);
/// The make code of the key N, in sets 1 and 2 alike.
const N: u32 = 0x31;

/// A program on a terminal of its own.
struct Terminal {
    master: File,
    /// Kept open, so that what the program leaves can be looked at.
    slave: OwnedFd,
    cooked: Termios,
    parser: Arc<Mutex<Parser>>,
    child: Child,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn some(length: u16) -> NonZero<u16> {
    NonZero::new(length).expect("a terminal with a size")
}

impl Terminal {
    fn start(program: &str, arguments: &[&str], rows: u16, columns: u16) -> Self {
        let pty = openpty(Some(&size(rows, columns)), None).expect("a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        // Before the program has it: it may be raw a moment later.
        let cooked = tcgetattr(&pty.slave).expect("a terminal");
        // A session of its own, with the terminal in control; the program takes the place of `setsid`.
        let child = Command::new("setsid")
            .args(["--ctty", program])
            .args(arguments)
            .env("TERM", "xterm-256color")
            .env("RUST_BACKTRACE", "0")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid, of util-linux");
        let master = File::from(pty.master);
        let parser = Arc::new(Mutex::new(Parser::new(some(rows), some(columns), 0)));
        let (mut input, shared) = (master.try_clone().expect("a descriptor"), parser.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = input.read(&mut bytes) {
                shared.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self {
            master,
            cooked,
            slave: pty.slave,
            parser,
            child,
        }
    }

    fn look<T>(&self, at: impl FnOnce(&Screen) -> T) -> T {
        at(self.parser.lock().unwrap().screen())
    }

    /// Waits until the screen is as expected.
    fn wait(&self, what: &str, expected: impl Fn(&Screen) -> bool) {
        let start = Instant::now();
        while !self.look(&expected) {
            assert!(
                start.elapsed() < PATIENCE,
                "{what}:\n{}",
                self.look(Screen::contents)
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        let mut parser = self.parser.lock().unwrap();
        parser.screen_mut().set_size(some(rows), some(columns));
        drop(parser);
        let size = size(rows, columns);
        // SAFETY: TIOCSWINSZ reads a `winsize` at the address, and nothing else.
        let done =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "a terminal takes its size");
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("a terminal that reads");
    }

    /// Waits for the end; the terminal has to be what it was.
    fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(Duration::from_millis(20));
        };
        self.wait("the screen is given back", |screen| {
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        let now = tcgetattr(&self.slave).expect("a terminal");
        assert_eq!(now, self.cooked, "the terminal's modes");
        (status, self.look(Screen::contents))
    }
}

/// Waits for a key.
fn wait_for(a: &mut CodeAssembler, code: u32) -> Assembled {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    a.in_(al, 0x64)?;
    a.test(al, 1)?;
    a.jz(again)?;
    a.in_(al, 0x60)?;
    a.cmp(al, code)?;
    a.jne(again)
}

/// A firmware that shows some text, then a picture, then goes on for ever.
fn firmware(a: &mut CodeAssembler) -> Assembled {
    // The cursor in the third column of row 20.
    text(a, 20 * 80 + 2)?;
    a.mov(ax, 0xB800)?;
    a.mov(es, ax)?;
    a.cld()?;
    a.xor(di, di)?;
    a.mov(cx, 2000)?;
    a.mov(ax, 0x0720)?;
    a.rep().stosw()?;
    for (row, column, attribute, line) in [
        (0u32, 0u32, 0x07u32, "top"),
        (2, 5, 0x1E, "Hello \u{81}"),
        (20, 0, 0x07, "A>"),
        (24, 77, 0x4F, "end"),
    ] {
        a.mov(di, (row * 80 + column) * 2)?;
        for character in line.chars() {
            a.mov(ax, attribute << 8 | u32::from(character))?;
            a.stosw()?;
        }
    }
    // Keyboard interface and scanning on.
    a.mov(al, 0xAE)?;
    a.out(0x64, al)?;
    a.mov(al, 0xF4)?;
    a.out(0x60, al)?;
    wait_for(a, N)?;
    packed(a)?;
    a.mov(ax, 0xA000)?;
    a.mov(es, ax)?;
    a.xor(di, di)?;
    a.mov(bx, 200)?;
    let mut row = a.create_label();
    a.set_label(&mut row)?;
    for colour in [0x0404, 0x0808] {
        a.mov(ax, colour)?;
        a.mov(cx, 80)?;
        a.rep().stosw()?;
    }
    a.dec(bx)?;
    a.jnz(row)?;
    wait_for(a, N)?;
    text(a, 0)?;
    let mut forever = a.create_label();
    a.set_label(&mut forever)?;
    a.jmp(forever)
}

/// Starts the machine with that firmware.
fn start(name: &str, rows: u16, columns: u16) -> Terminal {
    let mut assembler = CodeAssembler::new(16).expect("an assembler");
    firmware(&mut assembler).expect("instructions that exist");
    let code = assembler.assemble(0).expect("code that fits");
    let mut bios = code;
    bios.resize(64 << 10, 0xCC);
    bios[0xFFF0..0xFFF5].copy_from_slice(&[0xEA, 0, 0, 0x00, 0xF0]);
    let mut vga_bios = vec![0; 512];
    vga_bios[..3].copy_from_slice(&[0x55, 0xAA, 1]);
    let place = |kind: &str| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        directory.join(format!("{name}.{kind}"))
    };
    let (bios_file, vga_file) = (place("bios"), place("vga"));
    fs::write(&bios_file, bios).expect("a file");
    fs::write(&vga_file, vga_bios).expect("a file");
    let path = |path: &PathBuf| path.to_str().expect("a path in UTF-8").to_owned();
    Terminal::start(
        env!("CARGO_BIN_EXE_ringshift"),
        &[
            "run",
            "--policy=translate",
            "--memory=16",
            "--serial=null",
            "--timeout=300",
            "--display=terminal",
            "--firmware",
            &path(&bios_file),
            "--vga-bios",
            &path(&vga_file),
        ],
        rows,
        columns,
    )
}

/// A number in the DAC as the terminal shows it: red, of six bits.
fn red(number: u8) -> Color {
    let six = number * 4;
    Color::Rgb(six << 2 | six >> 4, 0, 0)
}

/// A character of the terminal with its colours.
fn cell(screen: &Screen, row: u16, column: u16) -> (String, Color, Color) {
    let cell = screen.cell(row, column).expect("a place on the screen");
    (cell.contents().to_owned(), cell.fgcolor(), cell.bgcolor())
}

fn lines(screen: &Screen) -> Vec<String> {
    let contents = screen.contents();
    contents.lines().map(str::to_owned).collect()
}

#[test]
fn text_is_drawn_with_its_colours_and_follows_the_size_of_the_terminal() {
    let mut terminal = start("text", 30, 100);
    terminal.wait("the text", |screen| screen.contents().contains("end"));
    terminal.look(|screen| {
        assert!(screen.alternate_screen());
        let lines = lines(screen);
        assert_eq!(lines[0].trim_end(), "top");
        assert_eq!(lines[2].trim_end(), "     Hello ü");
        assert_eq!(cell(screen, 2, 5), ("H".to_owned(), red(14), red(1)));
        assert_eq!(cell(screen, 2, 4).2, red(0));
        assert_eq!(cell(screen, 24, 79), ("d".to_owned(), red(15), red(4)));
        // Beside and below the guest's screen there is nothing.
        assert_eq!(
            cell(screen, 24, 80),
            (String::new(), Color::Default, Color::Default)
        );
        assert_eq!(cell(screen, 25, 0).2, Color::Default);
        assert_eq!(screen.cursor_position(), (20, 2));
        assert!(!screen.hide_cursor());
    });
    // Too small: the rows that end with the cursor's.
    terminal.resize(10, 40);
    terminal.wait("ten rows", |screen| {
        let lines = lines(screen);
        screen.cursor_position() == (9, 2)
            && lines.last().is_some_and(|line| line.trim_end() == "A>")
            && !screen.contents().contains("top")
    });
    terminal.resize(25, 80);
    terminal.wait("the whole screen", |screen| {
        let lines = lines(screen);
        lines.first().is_some_and(|line| line.starts_with("top"))
            && lines.last().is_some_and(|line| line.ends_with("end"))
            && screen.cursor_position() == (20, 2)
    });
    terminal.type_keys(b"\x01x");
    let (status, _) = terminal.end();
    assert_eq!(status.code(), Some(130));
}

#[test]
fn keys_reach_the_guest_and_pictures_are_blocks_with_a_hint() {
    let mut terminal = start("picture", 24, 80);
    terminal.wait("the text", |screen| screen.contents().contains("A>"));
    terminal.type_keys(b"xn");
    terminal.wait("the picture", |screen| {
        screen.contents().contains("graphics")
    });
    terminal.wait("its last row", |screen| {
        cell(screen, 22, 79) == ("▀".to_owned(), red(8), red(8))
    });
    terminal.look(|screen| {
        assert!(screen.hide_cursor());
        for row in 0..23 {
            assert_eq!(cell(screen, row, 0), ("▀".to_owned(), red(4), red(4)));
            assert_eq!(cell(screen, row, 39).1, red(4));
            assert_eq!(cell(screen, row, 40).1, red(8));
        }
        let hint = lines(screen).pop().expect("lines");
        assert!(hint.contains("scaled down"), "{hint}");
        assert!(hint.chars().count() <= 80, "{hint}");
    });
    // Larger than the picture needs: a pixel is not drawn twice.
    terminal.resize(40, 400);
    terminal.wait("a wide picture", |screen| {
        cell(screen, 38, 319).1 == red(8) && cell(screen, 38, 320).0.trim().is_empty()
    });
    terminal.type_keys(b"n");
    terminal.wait("the text again", |screen| {
        !screen.contents().contains("graphics") && !screen.hide_cursor()
    });
    terminal.type_keys(b"\x01x");
    assert_eq!(terminal.end().0.code(), Some(130));
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let terminal = start("signal", 24, 80);
    terminal.wait("the text", |screen| screen.contents().contains("A>"));
    let program = Pid::from_raw(terminal.child.id().cast_signed());
    kill(program, Signal::SIGTERM).expect("a process");
    let (status, _) = terminal.end();
    assert_eq!(status.code(), Some(130));
}

/// Panics while it has the terminal. Run by the test below, in a process of its own.
#[test]
#[ignore = "is part of another test"]
fn panics_with_the_terminal() {
    let guest = Guest::RealMode {
        bytes: vec![0xF4],
        address: 0x1_0000,
        cs: 0x1000,
        ip: 0,
    };
    let machine = Machine::new(MachineConfig::default(), guest).expect("a machine");
    let _display = TerminalDisplay::start(machine.remote()).expect("a terminal");
    panic!("the reason for it");
}

#[test]
fn a_panic_gives_the_terminal_back_before_it_is_told() {
    let program = std::env::current_exe().expect("this test");
    let program = program.to_str().expect("a path in UTF-8");
    let arguments = [
        "--exact",
        "panics_with_the_terminal",
        "--ignored",
        "--nocapture",
    ];
    let terminal = Terminal::start(program, &arguments, 24, 200);
    let (status, contents) = terminal.end();
    assert_eq!(status.code(), Some(101));
    assert!(contents.contains("the reason for it"), "{contents}");
}
