//! Real-mode guests that drive the floppy controller and the DMA controller by hand.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use devices::fdc::DriveKind;
use ringshift::disk::{FloppyImage, FloppySlot, ImageSpec};
use ringshift::exits::Ending;
use ringshift::guest::Guest;
use ringshift::helper::Watch;
use ringshift::machine::{Machine, MachineConfig};
use ringshift::memory_size::MemorySize;
use ringshift::serial::SerialTarget;

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Segment that data goes to.
const DATA_SEGMENT: u16 = 0x2000;
/// `mov dx, 604h; mov ax, 2000h; out dx, ax`: soft off.
const POWER_OFF: [u8; 7] = [0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF];
const READ: u8 = 0x46;
const WRITE: u8 = 0x45;

/// A guest in the making.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// `mov dx, port; mov al, value; out dx, al`.
    fn out(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.bytes(&[0xBA, low, high, 0xB0, value, 0xEE])
    }

    /// Polls port 3F4h until the bits under `mask` are `value`: `mov dx, 3F4h; in al, dx; and al,
    /// mask; cmp al, value; jne -7`.
    fn wait(self, mask: u8, value: u8) -> Self {
        self.bytes(&[0xBA, 0xF4, 0x03, 0xEC, 0x24, mask, 0x3C, value, 0x75, 0xF9])
    }

    /// Writes a command to the FIFO.
    fn command(self, bytes: &[u8]) -> Self {
        let ready = |code: Self, byte: &u8| code.wait(0xC0, 0x80).out(0x3F5, *byte);
        bytes.iter().fold(self, ready)
    }

    /// Reads the seven bytes of a result, and prints the first: `mov dx, 3F5h; in al, dx; mov dx,
    /// 3F8h; out dx, al`.
    fn result(self) -> Self {
        let first = self
            .wait(0xC0, 0xC0)
            .bytes(&[0xBA, 0xF5, 0x03, 0xEC, 0xBA, 0xF8, 0x03, 0xEE]);
        (0..6).fold(first, |code, _| code.bytes(&[0xBA, 0xF5, 0x03, 0xEC]))
    }

    /// The controller out of reset, at 500 kbit/s.
    fn start(self) -> Self {
        self.out(0x3F2, 0x18)
            .out(0x3F2, 0x1C)
            .command(&[0x03, 0xDF, 0x02])
            .out(0x3F7, 0)
    }

    /// Channel 2 for one sector at 2000:0; mode 46h writes to memory, 4Ah reads it.
    fn dma(self, mode: u8) -> Self {
        let registers = [
            (0x0A, 0x06),
            (0x0C, 0x00),
            (0x0B, mode),
            (0x04, 0x00),
            (0x04, 0x00),
            (0x81, (DATA_SEGMENT >> 12) as u8),
            (0x05, 0xFF),
            (0x05, 0x01),
            (0x0A, 0x02),
        ];
        let write = |code: Self, (port, value)| code.out(port, value);
        registers.into_iter().fold(self, write)
    }

    /// Reads sector `sector` of the first track.
    fn read(self, sector: u8) -> Self {
        self.dma(0x46)
            .command(&[READ, 0, 0, 0, sector, 2, 18, 0x1B, 0xFF])
            .result()
    }

    fn write(self, sector: u8) -> Self {
        self.dma(0x4A)
            .command(&[WRITE, 0, 0, 0, sector, 2, 18, 0x1B, 0xFF])
            .result()
    }

    /// `call 2000h:0`.
    fn call_data(self) -> Self {
        let [low, high] = DATA_SEGMENT.to_le_bytes();
        self.bytes(&[0x9A, 0, 0, low, high])
    }
}

/// `mov dx, 3F8h; mov al, c; out dx, al; retf`, padded to a sector.
fn printing(c: u8) -> Vec<u8> {
    let mut code = vec![0xBA, 0xF8, 0x03, 0xB0, c, 0xEE, 0xCB];
    code.resize(SECTOR, 0xF4);
    code
}

fn image(name: &str, sectors: &[&[u8]]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut bytes = sectors.concat();
    bytes.resize(1440 * 1024, 0);
    fs::write(&path, bytes).expect("an image");
    path
}

/// Runs a guest with a disk in drive A; what it printed.
fn run(name: &str, slot: FloppySlot, code: Code) -> Vec<u8> {
    let output = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.out"));
    let config = MachineConfig {
        memory: MemorySize::MIN,
        serial: SerialTarget::File(output.clone()),
        watch: Watch {
            timeout: Some(Duration::from_secs(60)),
            ..Watch::default()
        },
        floppies: [slot, FloppySlot::default()],
        ..MachineConfig::default()
    };
    let guest = Guest::RealMode {
        // A stack first: `mov ax, 3000h; mov ss, ax; mov sp, 0`.
        bytes: [
            &[0xB8, 0x00, 0x30, 0x8E, 0xD0, 0xBC, 0x00, 0x00][..],
            &code.bytes(&POWER_OFF).bytes(&[0xEB, 0xFE]).0,
        ]
        .concat(),
        address: 0x1_0000,
        cs: 0x1000,
        ip: 0,
    };
    let mut machine = Machine::new(config, guest).expect("a machine");
    assert_eq!(machine.run().expect("power-off"), Ending::PowerOff);
    fs::read(output).expect("the output")
}

fn disk(spec: &ImageSpec) -> FloppySlot {
    FloppySlot::with_disk(FloppyImage::open(spec).expect("a disk"))
}

#[test]
fn code_that_dma_puts_over_translated_code_is_what_runs() {
    let path = image("dma-code.img", &[&printing(b'a'), &printing(b'b')]);
    // Each round leaves its translation behind for the next to replace.
    let code = Code::default().start();
    let code = code.read(1).call_data().call_data();
    let code = code.read(2).call_data().read(1).call_data();
    let printed = run("dma-code", disk(&ImageSpec::new(path)), code);
    assert_eq!(printed, b"\0aa\0b\0a");
}

#[test]
fn a_guest_writes_into_the_image_or_into_the_snapshot() {
    let path = image("written.img", &[&printing(b'a')]);
    let code = || {
        // `mov byte [2000h:4], 'z'` through ES.
        let patch = [
            0xB8, 0x00, 0x20, 0x8E, 0xC0, 0x26, 0xC6, 0x06, 0x04, 0x00, b'z',
        ];
        let code = Code::default().start().read(1).bytes(&patch).write(3);
        code.read(1).read(3).call_data()
    };
    let snapshot = ImageSpec {
        snapshot: true,
        ..ImageSpec::new(&path)
    };
    assert_eq!(run("kept", disk(&snapshot), code()), b"\0\0\0\0z");
    let bytes = fs::read(&path).expect("the image");
    assert_eq!(bytes[2 * SECTOR..3 * SECTOR], [0; SECTOR]);

    assert_eq!(
        run("written", disk(&ImageSpec::new(&path)), code()),
        b"\0\0\0\0z"
    );
    let bytes = fs::read(&path).expect("the image");
    assert_eq!(bytes[2 * SECTOR..3 * SECTOR], printing(b'z'));

    let read_only = ImageSpec {
        read_only: true,
        ..ImageSpec::new(&path)
    };
    let code = Code::default().start().write(5);
    assert_eq!(run("protected", disk(&read_only), code), b"\x40", "refused");
}

#[test]
fn a_drive_without_a_disk_answers_with_an_error() {
    let code = Code::default().start().read(1);
    let slot = FloppySlot::empty(DriveKind::F1440);
    assert_eq!(run("no-disk", slot, code), b"\x40");
}

#[test]
fn dma_to_where_no_memory_is_does_no_harm() {
    let path = image("nowhere.img", &[&printing(b'a')]);
    let code = Code::default().start().dma(0x46);
    // The last 64 KiB of the ISA bus's addresses.
    let code = code.out(0x81, 0xFF);
    let code = code
        .command(&[READ, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF])
        .result();
    assert_eq!(run("nowhere", disk(&ImageSpec::new(path)), code), b"\0");
}
