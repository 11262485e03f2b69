//! The keys of a US keyboard: their names, the characters on them, and their scan codes of set 2
//! (IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and auxiliary device").

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    name: &'static str,
    code: Code,
}

/// How a key is told to the keyboard controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Plain(u8),
    /// Behind the prefix E0h.
    Extended(u8),
    PrintScreen,
    /// Pause has no release.
    Pause,
}

impl Key {
    /// The key of a name.
    pub fn named(name: &str) -> Option<Key> {
        let name = name.to_ascii_lowercase();
        let name = ALIASES
            .iter()
            .find(|(alias, _)| *alias == name)
            .map_or(name.as_str(), |(_, name)| name);
        KEYS.iter()
            .find(|(known, _)| *known == name)
            .map(|&(name, code)| Key { name, code })
    }

    /// The key that a character is on, and whether it takes Shift.
    pub fn of(character: char) -> Option<(Key, bool)> {
        let lower = character.to_ascii_lowercase();
        if lower.is_ascii_alphanumeric() {
            let key = Key::named(lower.encode_utf8(&mut [0; 4]))?;
            return Some((key, character.is_ascii_uppercase()));
        }
        let &(_, name, shift) = CHARACTERS.iter().find(|(c, ..)| *c == character)?;
        Some((Key::named(name)?, shift))
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the keyboard sends when it is pressed.
    pub fn make(&self) -> Vec<u8> {
        match self.code {
            Code::Plain(code) => vec![code],
            Code::Extended(code) => vec![0xE0, code],
            Code::PrintScreen => vec![0xE0, 0x12, 0xE0, 0x7C],
            Code::Pause => vec![0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77],
        }
    }

    /// What the keyboard sends when it is released.
    pub fn release(&self) -> Vec<u8> {
        match self.code {
            Code::Plain(code) => vec![0xF0, code],
            Code::Extended(code) => vec![0xE0, 0xF0, code],
            Code::PrintScreen => vec![0xE0, 0xF0, 0x7C, 0xE0, 0xF0, 0x12],
            Code::Pause => Vec::new(),
        }
    }
}

/// Other names, QEMU's among them.
const ALIASES: [(&str, &str); 20] = [
    ("enter", "ret"),
    ("return", "ret"),
    ("escape", "esc"),
    ("space", "spc"),
    ("bs", "backspace"),
    ("del", "delete"),
    ("ins", "insert"),
    ("pageup", "pgup"),
    ("pagedown", "pgdn"),
    ("control", "ctrl"),
    ("ctrl_l", "ctrl"),
    ("shift_l", "shift"),
    ("alt_l", "alt"),
    ("altgr", "alt_r"),
    ("win", "meta_l"),
    ("print", "sysrq"),
    ("grave", "grave_accent"),
    ("backquote", "grave_accent"),
    ("period", "dot"),
    ("capslock", "caps_lock"),
];

/// Characters that are no letters and no digits: the key, and whether it takes Shift.
const CHARACTERS: [(char, &str, bool); 39] = [
    ('\n', "ret", false),
    ('\r', "ret", false),
    ('\t', "tab", false),
    ('\u{1b}', "esc", false),
    ('\u{8}', "backspace", false),
    ('\u{7f}', "backspace", false),
    (' ', "spc", false),
    ('!', "1", true),
    ('@', "2", true),
    ('#', "3", true),
    ('$', "4", true),
    ('%', "5", true),
    ('^', "6", true),
    ('&', "7", true),
    ('*', "8", true),
    ('(', "9", true),
    (')', "0", true),
    ('-', "minus", false),
    ('_', "minus", true),
    ('=', "equal", false),
    ('+', "equal", true),
    ('[', "bracket_left", false),
    ('{', "bracket_left", true),
    (']', "bracket_right", false),
    ('}', "bracket_right", true),
    ('\\', "backslash", false),
    ('|', "backslash", true),
    (';', "semicolon", false),
    (':', "semicolon", true),
    ('\'', "apostrophe", false),
    ('"', "apostrophe", true),
    ('`', "grave_accent", false),
    ('~', "grave_accent", true),
    (',', "comma", false),
    ('<', "comma", true),
    ('.', "dot", false),
    ('>', "dot", true),
    ('/', "slash", false),
    ('?', "slash", true),
];

use Code::{Extended, Plain};

/// All keys of a 104-key keyboard.
const KEYS: [(&str, Code); 104] = [
    ("a", Plain(0x1C)),
    ("b", Plain(0x32)),
    ("c", Plain(0x21)),
    ("d", Plain(0x23)),
    ("e", Plain(0x24)),
    ("f", Plain(0x2B)),
    ("g", Plain(0x34)),
    ("h", Plain(0x33)),
    ("i", Plain(0x43)),
    ("j", Plain(0x3B)),
    ("k", Plain(0x42)),
    ("l", Plain(0x4B)),
    ("m", Plain(0x3A)),
    ("n", Plain(0x31)),
    ("o", Plain(0x44)),
    ("p", Plain(0x4D)),
    ("q", Plain(0x15)),
    ("r", Plain(0x2D)),
    ("s", Plain(0x1B)),
    ("t", Plain(0x2C)),
    ("u", Plain(0x3C)),
    ("v", Plain(0x2A)),
    ("w", Plain(0x1D)),
    ("x", Plain(0x22)),
    ("y", Plain(0x35)),
    ("z", Plain(0x1A)),
    ("0", Plain(0x45)),
    ("1", Plain(0x16)),
    ("2", Plain(0x1E)),
    ("3", Plain(0x26)),
    ("4", Plain(0x25)),
    ("5", Plain(0x2E)),
    ("6", Plain(0x36)),
    ("7", Plain(0x3D)),
    ("8", Plain(0x3E)),
    ("9", Plain(0x46)),
    ("grave_accent", Plain(0x0E)),
    ("minus", Plain(0x4E)),
    ("equal", Plain(0x55)),
    ("backslash", Plain(0x5D)),
    ("backspace", Plain(0x66)),
    ("spc", Plain(0x29)),
    ("tab", Plain(0x0D)),
    ("caps_lock", Plain(0x58)),
    ("shift", Plain(0x12)),
    ("ctrl", Plain(0x14)),
    ("alt", Plain(0x11)),
    ("shift_r", Plain(0x59)),
    ("ctrl_r", Extended(0x14)),
    ("alt_r", Extended(0x11)),
    ("meta_l", Extended(0x1F)),
    ("meta_r", Extended(0x27)),
    ("menu", Extended(0x2F)),
    ("ret", Plain(0x5A)),
    ("esc", Plain(0x76)),
    ("f1", Plain(0x05)),
    ("f2", Plain(0x06)),
    ("f3", Plain(0x04)),
    ("f4", Plain(0x0C)),
    ("f5", Plain(0x03)),
    ("f6", Plain(0x0B)),
    ("f7", Plain(0x83)),
    ("f8", Plain(0x0A)),
    ("f9", Plain(0x01)),
    ("f10", Plain(0x09)),
    ("f11", Plain(0x78)),
    ("f12", Plain(0x07)),
    ("sysrq", Code::PrintScreen),
    ("scroll_lock", Plain(0x7E)),
    ("pause", Code::Pause),
    ("bracket_left", Plain(0x54)),
    ("bracket_right", Plain(0x5B)),
    ("semicolon", Plain(0x4C)),
    ("apostrophe", Plain(0x52)),
    ("comma", Plain(0x41)),
    ("dot", Plain(0x49)),
    ("slash", Plain(0x4A)),
    ("insert", Extended(0x70)),
    ("home", Extended(0x6C)),
    ("pgup", Extended(0x7D)),
    ("delete", Extended(0x71)),
    ("end", Extended(0x69)),
    ("pgdn", Extended(0x7A)),
    ("up", Extended(0x75)),
    ("left", Extended(0x6B)),
    ("down", Extended(0x72)),
    ("right", Extended(0x74)),
    ("num_lock", Plain(0x77)),
    ("kp_divide", Extended(0x4A)),
    ("kp_multiply", Plain(0x7C)),
    ("kp_subtract", Plain(0x7B)),
    ("kp_add", Plain(0x79)),
    ("kp_enter", Extended(0x5A)),
    ("kp_decimal", Plain(0x71)),
    ("kp_0", Plain(0x70)),
    ("kp_1", Plain(0x69)),
    ("kp_2", Plain(0x72)),
    ("kp_3", Plain(0x7A)),
    ("kp_4", Plain(0x6B)),
    ("kp_5", Plain(0x73)),
    ("kp_6", Plain(0x74)),
    ("kp_7", Plain(0x6C)),
    ("kp_8", Plain(0x75)),
    ("kp_9", Plain(0x7D)),
];

/// Keys pressed together, as `ctrl-alt-delete` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combination(Vec<Key>);

/// There is no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no key '{0}'; keys are named as in a, 7, f1, ret, esc, spc, up, ctrl-alt-delete")]
pub struct UnknownKey(String);

/// There is no key for a character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a US keyboard has no key for {0:?}")]
pub struct Untypable(char);

impl std::str::FromStr for Combination {
    type Err = UnknownKey;

    fn from_str(text: &str) -> Result<Self, UnknownKey> {
        // A lone '-' is a key too.
        if let Some((key, shift)) = single(text).and_then(Key::of) {
            return Ok(Combination::typed(key, shift));
        }
        let keys = text.split('-').map(|name| {
            let key = Key::named(name).or_else(|| Some(Key::of(single(name)?)?.0));
            key.ok_or_else(|| UnknownKey(name.to_owned()))
        });
        Ok(Combination(keys.collect::<Result<_, _>>()?))
    }
}

fn single(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

impl Combination {
    fn typed(key: Key, shift: bool) -> Combination {
        let shift = if shift { Key::named("shift") } else { None };
        Combination(shift.into_iter().chain([key]).collect())
    }

    /// The keys that type `text`.
    ///
    /// # Errors
    /// A character is on no key of a US keyboard.
    pub fn type_text(text: &str) -> Result<Vec<Combination>, Untypable> {
        text.chars()
            .map(|character| {
                let (key, shift) = Key::of(character).ok_or(Untypable(character))?;
                Ok(Combination::typed(key, shift))
            })
            .collect()
    }

    /// What the keyboard sends while the keys go down, one after the other.
    pub fn press(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.0.iter().map(Key::make)
    }

    /// What it sends when they come up, the last one first.
    pub fn release(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.0.iter().rev().map(Key::release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn keys_are_told_apart() {
        let names: BTreeSet<_> = KEYS.iter().map(|(name, _)| name).collect();
        let codes: BTreeSet<_> = KEYS
            .iter()
            .map(|&(name, code)| Key { name, code }.make())
            .collect();
        assert_eq!((names.len(), codes.len()), (KEYS.len(), KEYS.len()));
        for (alias, name) in ALIASES {
            assert_eq!(Key::named(alias).map(|key| key.name()), Some(name));
        }
    }

    #[test]
    fn every_character_of_ascii_can_be_typed() {
        for character in (b' '..0x7f).map(char::from).chain(['\n', '\t', '\u{1b}']) {
            assert!(Key::of(character).is_some(), "{character:?}");
        }
        assert_eq!(Combination::type_text("ä"), Err(Untypable('ä')));
        let shifted = Combination::type_text("a:").expect("keys");
        let [a, colon] = shifted.as_slice() else {
            panic!("two combinations")
        };
        assert_eq!(a.press().collect::<Vec<_>>(), [vec![0x1C]]);
        let colon: Vec<Vec<u8>> = colon.press().chain(colon.release()).collect();
        assert_eq!(
            colon,
            [vec![0x12], vec![0x4C], vec![0xF0, 0x4C], vec![0xF0, 0x12]]
        );
    }

    #[test]
    fn combinations_have_qemus_form() {
        let keys = |text: &str| {
            let parsed = text.parse::<Combination>();
            parsed.map(|c| c.0.iter().map(Key::name).collect::<Vec<_>>())
        };
        assert_eq!(keys("ctrl-alt-delete"), Ok(vec!["ctrl", "alt", "delete"]));
        assert_eq!(keys("Enter"), Ok(vec!["ret"]));
        assert_eq!(keys("-"), Ok(vec!["minus"]));
        assert_eq!(keys("?"), Ok(vec!["shift", "slash"]));
        assert_eq!(keys("ctrl-c"), Ok(vec!["ctrl", "c"]));
        assert_eq!(keys("ctrl-any"), Err(UnknownKey("any".into())));
        assert_eq!(keys(""), Err(UnknownKey(String::new())));
        let delete: Combination = "delete".parse().expect("a key");
        assert_eq!(delete.release().next(), Some(vec![0xE0, 0xF0, 0x71]));
    }
}
