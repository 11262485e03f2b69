//! Characters of the PC's own code page.

/// A code page: the character of each code.
pub struct CodePage(&'static [&'static str; 8]);

/// Code page 437, with the pictures of the codes below 32. Codes 0 and 255 are blank.
pub const CP437: CodePage = CodePage(&[
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼",
    " !\"#$%&'()*+,-./0123456789:;<=>?",
    "@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_",
    "`abcdefghijklmnopqrstuvwxyz{|}~⌂",
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ",
    "áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀",
    "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ",
]);

impl CodePage {
    /// The character that a code stands for.
    pub fn character(&self, code: u8) -> char {
        // ASCII is most of what is asked for.
        if (0x20..0x7f).contains(&code) {
            return char::from(code);
        }
        let row = self.0.get(usize::from(code >> 5)).copied().unwrap_or("");
        row.chars().nth(usize::from(code & 31)).unwrap_or(' ')
    }

    /// The code of a character, if there is one.
    pub fn code(&self, character: char) -> Option<u8> {
        (0..=255).find(|code| self.character(*code) == character)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes() {
        assert!(CP437.0.iter().all(|row| row.chars().count() == 32));
        for (code, character) in [
            (0, ' '),
            (1, '☺'),
            (b'A', 'A'),
            (0x7f, '⌂'),
            (0x84, 'ä'),
            (0xb0, '░'),
            (0xc9, '╔'),
            (0xdb, '█'),
            (0xe1, 'ß'),
            (0xfe, '■'),
            (0xff, ' '),
        ] {
            assert_eq!(CP437.character(code), character, "{code:#x}");
        }
        assert_eq!(CP437.code('ß'), Some(0xe1));
        assert_eq!(CP437.code('€'), None);
    }
}
