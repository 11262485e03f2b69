//! The limit of 15 bytes on the length of an instruction (Intel SDM vol. 2A, section 2.3.11).

use iced_x86::{Decoder, DecoderError};

/// The longest instruction.
const MAX: usize = 15;

/// True when the instruction at the start of `code`, which did not decode, is longer than the
/// processor accepts: #GP(0) then, and not #UD.
///
/// That takes redundant prefixes. Without one of them the decoder gets to the end.
pub(super) fn exceeds_limit(code: &[u8], bitness: u32, options: u32) -> bool {
    let prefixes = code.iter().map_while(|&byte| prefix_group(byte));
    let groups: Vec<u32> = prefixes.take(MAX).collect();
    if groups.len() == MAX {
        return true;
    }
    let redundant = (0..groups.len()).find(|&i| groups[i + 1..].contains(&groups[i]));
    let Some(redundant) = redundant else {
        return false;
    };
    let mut shorter = code.get(..code.len().min(MAX + 1)).unwrap_or(code).to_vec();
    shorter.remove(redundant);
    let mut decoder = Decoder::new(bitness, &shorter, options);
    let insn = decoder.decode();
    if !insn.is_invalid() {
        return insn.len() + 1 > MAX;
    }
    if decoder.last_error() == DecoderError::NoMoreBytes {
        return shorter.len() + 1 >= MAX;
    }
    exceeds_limit(&shorter, bitness, options)
}

/// The group of a legacy prefix.
fn prefix_group(byte: u8) -> Option<u32> {
    match byte {
        0xF0 => Some(0),
        0xF2 | 0xF3 => Some(1),
        0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 => Some(2),
        0x66 => Some(3),
        0x67 => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::DecoderOptions;

    fn check(prefixes: usize, rest: &[u8]) -> (bool, bool) {
        let mut code = vec![0x66; prefixes];
        code.extend(rest);
        code.extend([0x90; 16]);
        let invalid = Decoder::new(32, &code, DecoderOptions::NONE)
            .decode()
            .is_invalid();
        let long = exceeds_limit(&code, 32, DecoderOptions::NONE);
        (invalid, long)
    }

    #[test]
    fn valid_at_15_and_too_long_at_16() {
        let add = [0x81, 0xC0, 0x34, 0x12]; // add ax, 1234h
        assert_eq!(check(11, &add), (false, false));
        assert_eq!(check(12, &add), (true, true));
        assert_eq!(check(15, &[0x90]), (true, true));
        assert_eq!(check(14, &[0x90]), (false, false));
    }

    #[test]
    fn invalid_is_not_too_long() {
        let undefined = [0x0F, 0xFF]; // UD0 with a register behind it
        assert_eq!(check(1, &[0x0F, 0x04]), (true, false));
        assert_eq!(check(13, &[0x0F, 0x04]), (true, false));
        assert_eq!(check(14, &undefined), (true, true));
        assert_eq!(check(3, &[0xFE, 0xF8]), (true, false));
    }

    #[test]
    fn the_end_of_the_bytes() {
        let none = DecoderOptions::NONE;
        let mut code = vec![0x66; 14];
        code.push(0x81);
        assert!(exceeds_limit(&code, 32, none));
        assert!(exceeds_limit(&[0x66; 15], 16, none));
    }
}
