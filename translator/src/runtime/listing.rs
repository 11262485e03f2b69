//! Units as text.

use super::engine::Engine;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use std::fmt::Write;

impl Engine {
    pub(crate) fn cache_used(&self) -> usize {
        self.cache.used()
    }

    /// Guest and host code of the newest unit at guest-physical address `gpa`.
    pub(crate) fn listing(&self, gpa: u32) -> Option<String> {
        let unit = self.units.newest_at(gpa)?;
        let code = self.cache.read(unit.host, unit.host_bytes as usize);
        let mut formatter = IntelFormatter::new();
        let mut text = String::new();
        let mut maps = unit.instructions.iter().peekable();
        for insn in Decoder::with_ip(64, &code, unit.host, DecoderOptions::NONE) {
            let offset = (insn.ip() - unit.host) as u32;
            while let Some(map) = maps.next_if(|map| map.host <= offset) {
                let _ = writeln!(text, "{:08x}  {}", map.guest.ip32(), map.guest);
            }
            let mut line = String::new();
            formatter.format(&insn, &mut line);
            let _ = writeln!(text, "    +{offset:04x}  {line}");
        }
        Some(text)
    }
}
