//! The machine's end: commands are carried out between two runs of an engine.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use devices::{Picture, ResetKind, TextScreen};
use serde_json::{Value, json};
use shadow_mmu::{Access, AccessKind, PAGE_SIZE, PhysTarget, Privilege};
use translator::CpuState;
use translator::state::{Segment, reg, seg};

use super::{Command, Look, Reply, Request};
use crate::disk::{FloppyImage, ImageSpec};
use crate::helper::StopReason;
use crate::machine::Machine;

impl Machine {
    /// Carries out what was asked for. A paused machine stays here until it goes on or ends.
    pub(crate) fn serve(&mut self) {
        loop {
            while let Some(request) = self.board.take_request() {
                // Who asked may not wait for the answer.
                match request {
                    Request::Command(command, answer) => {
                        let _ = answer.send(self.carry_out(command));
                    }
                    Request::Look(answer) => {
                        let _ = answer.send(self.look());
                    }
                }
            }
            if !self.board.is_paused() || self.board.is_stopping() {
                return;
            }
            self.board.wait_paused();
        }
    }

    fn look(&mut self) -> Look {
        let text = self.text_screen();
        let picture = if text.is_none() { self.picture() } else { None };
        Look { text, picture }
    }

    fn carry_out(&mut self, command: Command) -> Result<Reply, String> {
        match command {
            Command::Pause => self.board.pause(),
            Command::Resume => self.board.resume(),
            Command::Reset => self.board.ask_for_reset(ResetKind::System),
            Command::PowerButton => self.board.press_power_button(),
            Command::Nmi => self.board.press_nmi(),
            Command::Quit => self.board.stop(StopReason::Quit),
            Command::ChangeFloppy { drive, image } => {
                self.put_floppy(drive, image.as_deref())?;
            }
            Command::SendKey { keys, hold_ms } => {
                let taken = keys.iter().all(|keys| self.board.send_keys(keys, hold_ms));
                return keyboard(taken);
            }
            Command::Type(text) => {
                let keys = super::keys::Combination::type_text(&text);
                let keys = keys.map_err(|error| error.to_string())?;
                return keyboard(keys.iter().all(|keys| self.board.send_keys(keys, None)));
            }
            Command::Mouse(mouse) => self.board.move_mouse(&mouse),
            Command::Screenshot(path) => {
                let picture = self.picture().ok_or(NO_DISPLAY)?;
                return write_png(&path, &picture);
            }
            Command::Text(path) => return self.tell_text(path.as_deref()),
            Command::Registers => return Ok(registers(self.state())),
            Command::Memory {
                address,
                length,
                linear,
            } => return self.tell_memory(address, length, linear),
            Command::Status => return Ok(self.status()),
            Command::Statistics => {
                let report = self.report("running");
                return Ok(Reply {
                    text: report.summary().to_string(),
                    value: serde_json::to_value(&report).unwrap_or(Value::Null),
                });
            }
            Command::Help => {
                let text = Command::help();
                let value = json!(text);
                return Ok(Reply { text, value });
            }
        }
        Ok(Reply::done())
    }

    fn put_floppy(&mut self, drive: usize, image: Option<&str>) -> Result<(), String> {
        let open = |spec: &str| {
            let spec: ImageSpec = spec.parse().map_err(told)?;
            FloppyImage::open(&spec).map_err(told)
        };
        let disk = image.map(open).transpose()?;
        self.change_floppy(drive, disk).map_err(told)
    }

    fn status(&mut self) -> Reply {
        let paused = self.board.is_paused();
        let screen = match (self.board.chipset().has_display(), self.text_screen()) {
            (false, _) => "none".to_owned(),
            (true, Some(screen)) => format!("text {}x{}", screen.columns, screen.rows),
            (true, None) => self.picture().map_or_else(
                || "none".to_owned(),
                |picture| format!("graphics {}x{}", picture.width, picture.height),
            ),
        };
        let state = if paused { "paused" } else { "running" };
        Reply {
            text: format!("{state}; screen: {screen}\n"),
            value: json!({ "paused": paused, "screen": screen,
                "keys_waiting": self.board.keys_waiting() }),
        }
    }

    fn tell_text(&mut self, path: Option<&Path>) -> Result<Reply, String> {
        if !self.board.chipset().has_display() {
            return Err(NO_DISPLAY.to_owned());
        }
        let screen = self
            .text_screen()
            .ok_or("the screen is in a graphics mode")?;
        let text = screen.text();
        if let Some(path) = path {
            std::fs::write(path, &text)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            return Ok(Reply::done());
        }
        Ok(Reply {
            text,
            value: text_value(&screen),
        })
    }

    fn tell_memory(&mut self, address: u32, length: usize, linear: bool) -> Result<Reply, String> {
        let mut bytes = Vec::with_capacity(length);
        for index in 0..length as u32 {
            let at = address.wrapping_add(index);
            bytes.push(self.peek(at, linear));
        }
        let hex = |byte: &Option<u8>| byte.map_or("--".to_owned(), |byte| format!("{byte:02x}"));
        let mut text = String::new();
        for (row, line) in bytes.chunks(16).enumerate() {
            let at = address.wrapping_add(16 * row as u32);
            let hex: Vec<String> = line.iter().map(hex).collect();
            let ascii: String = line
                .iter()
                .map(|byte| match byte {
                    Some(byte @ 0x20..0x7f) => char::from(*byte),
                    _ => '.',
                })
                .collect();
            let _ = writeln!(text, "{at:08x}  {:<47}  {ascii}", hex.join(" "));
        }
        Ok(Reply {
            text,
            value: json!({ "address": address, "bytes": bytes }),
        })
    }

    /// A byte of memory, if there is some at that address.
    fn peek(&self, address: u32, linear: bool) -> Option<u8> {
        let gpa = if linear {
            let access = Access {
                kind: AccessKind::Read,
                privilege: Privilege::Supervisor,
            };
            self.mmu.probe(address, access).ok()?.gpa
        } else {
            u64::from(address)
        };
        let memory = matches!(
            self.mmu.bus_kind(gpa / PAGE_SIZE * PAGE_SIZE),
            PhysTarget::Ram | PhysTarget::Rom
        );
        let mut byte = [0];
        let read = memory && self.mmu.read_phys(gpa, &mut byte).is_ok();
        read.then_some(byte[0])
    }
}

/// Without a display there is nothing to look at.
const NO_DISPLAY: &str = "this machine has no display";

/// An error with its causes.
fn told(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn keyboard(taken: bool) -> Result<Reply, String> {
    if taken {
        Ok(Reply::done())
    } else {
        Err("too many keys are waiting for the guest".to_owned())
    }
}

fn text_value(screen: &TextScreen) -> Value {
    let rows: Vec<String> = (0..screen.rows).map(|row| screen.line(row)).collect();
    let cursor = screen
        .cursor
        .map(|c| json!({ "row": c.row, "column": c.column }));
    json!({ "columns": screen.columns, "rows": rows, "cursor": cursor })
}

/// Writes a picture as PNG.
fn write_png(path: &Path, picture: &Picture) -> Result<Reply, String> {
    save_png(path, picture).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(Reply {
        text: String::new(),
        value: json!({ "width": picture.width, "height": picture.height }),
    })
}

/// Writes a picture as PNG.
pub(crate) fn save_png(path: &Path, picture: &Picture) -> Result<(), png::EncodingError> {
    let file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(file, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&picture.rgb)?;
    writer.finish()
}

fn registers(state: &CpuState) -> Reply {
    const GENERAL: [(&str, usize); 8] = [
        ("eax", reg::EAX),
        ("ebx", reg::EBX),
        ("ecx", reg::ECX),
        ("edx", reg::EDX),
        ("esi", reg::ESI),
        ("edi", reg::EDI),
        ("ebp", reg::EBP),
        ("esp", reg::ESP),
    ];
    const SEGMENTS: [(&str, usize); 6] = [
        ("cs", seg::CS),
        ("ss", seg::SS),
        ("ds", seg::DS),
        ("es", seg::ES),
        ("fs", seg::FS),
        ("gs", seg::GS),
    ];
    let mut text = String::new();
    let mut value = serde_json::Map::new();
    let general = GENERAL
        .into_iter()
        .zip(GENERAL.map(|(_, index)| state.gpr.get(index).copied().unwrap_or(0)));
    for (index, ((name, _), content)) in general.enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(text, "{name}={content:08x}{end}");
        value.insert(name.to_owned(), json!(content));
    }
    let _ = writeln!(
        text,
        "eip={:08x} eflags={:08x} cpl={}",
        state.eip, state.eflags, state.cpl
    );
    let mut segment = |name: &str, segment: &Segment| {
        let _ = writeln!(
            text,
            "{name:<4}={:04x} base={:08x} limit={:08x} rights={:05x}",
            segment.selector,
            segment.base,
            segment.limit,
            segment.rights.bits()
        );
        value.insert(
            name.to_owned(),
            json!({ "selector": segment.selector, "base": segment.base,
                "limit": segment.limit, "rights": segment.rights.bits() }),
        );
    };
    for (name, index) in SEGMENTS {
        if let Some(content) = state.seg.get(index) {
            segment(name, content);
        }
    }
    segment("ldtr", &state.ldtr);
    segment("tr", &state.tr);
    for (name, table) in [("gdtr", &state.gdtr), ("idtr", &state.idtr)] {
        let _ = writeln!(
            text,
            "{name}=base={:08x} limit={:04x}",
            table.base, table.limit
        );
        value.insert(
            name.to_owned(),
            json!({ "base": table.base, "limit": table.limit }),
        );
    }
    let _ = writeln!(
        text,
        "cr0={:08x} cr2={:08x} cr3={:08x} cr4={:08x}",
        state.cr0, state.cr2, state.cr3, state.cr4
    );
    for (name, content) in [
        ("eip", state.eip),
        ("eflags", state.eflags),
        ("cpl", u32::from(state.cpl)),
        ("cr0", state.cr0),
        ("cr2", state.cr2),
        ("cr3", state.cr3),
        ("cr4", state.cr4),
    ] {
        value.insert(name.to_owned(), json!(content));
    }
    Reply {
        text,
        value: Value::Object(value),
    }
}
