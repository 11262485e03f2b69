//! Keys, and their scan codes in the three sets (IBM PS/2 Hardware Interface Technical Reference,
//! "Keyboard scan codes").
//!
//! The keyboard is told of keys by their codes of set 2, as a keyboard sends them after power-on;
//! the other sets are derived from these.

use serde::{Deserialize, Serialize};

use super::spec::SET2_TO_SET1;

/// A key, by its code of set 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    /// Behind the prefix E0h.
    extended: bool,
    code: u8,
}

impl Key {
    const LEFT_SHIFT: Self = Self::plain(0x12);
    const RIGHT_SHIFT: Self = Self::plain(0x59);
    const LEFT_CTRL: Self = Self::plain(0x14);
    const RIGHT_CTRL: Self = Self::extended(0x14);
    const LEFT_ALT: Self = Self::plain(0x11);
    const RIGHT_ALT: Self = Self::extended(0x11);
    pub(super) const PRINT_SCREEN: Self = Self::extended(0x7c);
    /// Its code is that of Ctrl with Pause; alone it sends a sequence of its own.
    pub(super) const PAUSE: Self = Self::extended(0x7e);

    const fn plain(code: u8) -> Self {
        Self {
            extended: false,
            code,
        }
    }

    const fn extended(code: u8) -> Self {
        Self {
            extended: true,
            code,
        }
    }
}

/// What a key did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyEvent {
    pub(super) key: Key,
    pub(super) pressed: bool,
}

/// Reads scan codes of set 2. The shifts that a keyboard makes up around PrintScreen and the cursor
/// keys (E0h 12h, E0h 59h) are left out.
pub(super) fn parse(codes: &[u8]) -> Vec<KeyEvent> {
    let mut events = Vec::new();
    let mut rest = codes;
    while let Some((&first, after)) = rest.split_first() {
        if first == 0xe1 {
            // Pause: E1 14 77 E1 F0 14 F0 77.
            let length = after.len().min(7);
            rest = after.get(length..).unwrap_or_default();
            events.push(KeyEvent {
                key: Key::PAUSE,
                pressed: true,
            });
            continue;
        }
        let (mut extended, mut pressed) = (false, true);
        rest = codes_after_prefixes(rest, &mut extended, &mut pressed);
        let Some((&code, after)) = rest.split_first() else {
            break;
        };
        rest = after;
        let made_up = extended && matches!(code, 0x12 | 0x59);
        // SysRq is PrintScreen with Alt.
        let key = match (extended, code) {
            (false, 0x84) => Key::PRINT_SCREEN,
            _ => Key { extended, code },
        };
        if !made_up {
            events.push(KeyEvent { key, pressed });
        }
    }
    events
}

fn codes_after_prefixes<'a>(codes: &'a [u8], extended: &mut bool, pressed: &mut bool) -> &'a [u8] {
    let mut rest = codes;
    while let Some((&prefix, after)) = rest.split_first() {
        match prefix {
            0xe0 => *extended = true,
            0xf0 => *pressed = false,
            _ => break,
        }
        rest = after;
    }
    rest
}

/// Modifiers that are held, which some keys depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held(u8);

impl Held {
    const SHIFT: u8 = 0x03;
    const CTRL: u8 = 0x0c;
    const ALT: u8 = 0x30;

    /// The bit of a modifier; 0 for other keys.
    fn bit(key: Key) -> u8 {
        match key {
            Key::LEFT_SHIFT => 0x01,
            Key::RIGHT_SHIFT => 0x02,
            Key::LEFT_CTRL => 0x04,
            Key::RIGHT_CTRL => 0x08,
            Key::LEFT_ALT => 0x10,
            Key::RIGHT_ALT => 0x20,
            _ => 0,
        }
    }

    pub(super) fn follow(&mut self, event: KeyEvent) {
        let bit = Self::bit(event.key);
        if event.pressed {
            self.0 |= bit;
        } else {
            self.0 &= !bit;
        }
    }

    fn any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// The codes of what a key did in scan code set 1, 2 or 3. Empty if there are none: Pause has no
/// release, and set 3 no code for some keys.
pub(super) fn encode(set: u8, event: KeyEvent, held: Held) -> Vec<u8> {
    match set {
        1 => to_set1(&encode_set2(event, held)),
        3 => match (set3(event.key), event.pressed) {
            (Some(code), true) => vec![code],
            (Some(code), false) => vec![0xf0, code],
            (None, _) => Vec::new(),
        },
        _ => encode_set2(event, held),
    }
}

fn encode_set2(event: KeyEvent, held: Held) -> Vec<u8> {
    let KeyEvent { key, pressed } = event;
    match (key, pressed) {
        (Key::PRINT_SCREEN, _) if held.any(Held::ALT) => codes(Key::plain(0x84), pressed),
        (Key::PRINT_SCREEN, _) if held.any(Held::SHIFT | Held::CTRL) => codes(key, pressed),
        (Key::PRINT_SCREEN, true) => vec![0xe0, 0x12, 0xe0, 0x7c],
        (Key::PRINT_SCREEN, false) => vec![0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12],
        // Pause sends its release with its press.
        (Key::PAUSE, false) => Vec::new(),
        (Key::PAUSE, true) if held.any(Held::CTRL) => vec![0xe0, 0x7e, 0xe0, 0xf0, 0x7e],
        (Key::PAUSE, true) => vec![0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
        _ => codes(key, pressed),
    }
}

fn codes(key: Key, pressed: bool) -> Vec<u8> {
    let mut codes = Vec::with_capacity(3);
    if key.extended {
        codes.push(0xe0);
    }
    if !pressed {
        codes.push(0xf0);
    }
    codes.push(key.code);
    codes
}

/// A key has the same place in sets 1 and 2; a release is bit 7, and no prefix.
fn to_set1(set2: &[u8]) -> Vec<u8> {
    let mut codes = Vec::with_capacity(set2.len());
    let mut release = 0;
    for &byte in set2 {
        match byte {
            0xf0 => release = 0x80,
            0xe0 | 0xe1 => codes.push(byte),
            _ => {
                let code = SET2_TO_SET1.get(usize::from(byte)).copied().unwrap_or(byte);
                codes.push(code & 0x7f | std::mem::take(&mut release));
            }
        }
    }
    codes
}

/// Set 2 code, set 3 code, for keys that have different ones.
const SET3: [(Key, u8); 55] = [
    (Key::plain(0x76), 0x08),
    (Key::plain(0x05), 0x07),
    (Key::plain(0x06), 0x0f),
    (Key::plain(0x04), 0x17),
    (Key::plain(0x0c), 0x1f),
    (Key::plain(0x03), 0x27),
    (Key::plain(0x0b), 0x2f),
    (Key::plain(0x83), 0x37),
    (Key::plain(0x0a), 0x3f),
    (Key::plain(0x01), 0x47),
    (Key::plain(0x09), 0x4f),
    (Key::plain(0x78), 0x56),
    (Key::plain(0x07), 0x5e),
    (Key::PRINT_SCREEN, 0x57),
    (Key::plain(0x7e), 0x5f),
    (Key::PAUSE, 0x62),
    (Key::plain(0x5d), 0x5c),
    (Key::plain(0x61), 0x13),
    (Key::plain(0x58), 0x14),
    (Key::LEFT_CTRL, 0x11),
    (Key::LEFT_ALT, 0x19),
    (Key::RIGHT_ALT, 0x39),
    (Key::RIGHT_CTRL, 0x58),
    (Key::extended(0x1f), 0x8b),
    (Key::extended(0x27), 0x8c),
    (Key::extended(0x2f), 0x8d),
    (Key::extended(0x70), 0x67),
    (Key::extended(0x71), 0x64),
    (Key::extended(0x6b), 0x61),
    (Key::extended(0x6c), 0x6e),
    (Key::extended(0x69), 0x65),
    (Key::extended(0x75), 0x63),
    (Key::extended(0x72), 0x60),
    (Key::extended(0x7d), 0x6f),
    (Key::extended(0x7a), 0x6d),
    (Key::extended(0x74), 0x6a),
    (Key::plain(0x77), 0x76),
    (Key::extended(0x4a), 0x77),
    (Key::plain(0x7c), 0x7e),
    (Key::plain(0x7b), 0x84),
    (Key::plain(0x79), 0x7c),
    (Key::extended(0x5a), 0x79),
    // The same code in both; listed so that only what is listed has one.
    (Key::plain(0x6c), 0x6c),
    (Key::plain(0x6b), 0x6b),
    (Key::plain(0x69), 0x69),
    (Key::plain(0x75), 0x75),
    (Key::plain(0x73), 0x73),
    (Key::plain(0x72), 0x72),
    (Key::plain(0x70), 0x70),
    (Key::plain(0x7d), 0x7d),
    (Key::plain(0x74), 0x74),
    (Key::plain(0x7a), 0x7a),
    (Key::plain(0x71), 0x71),
    (Key::LEFT_SHIFT, 0x12),
    (Key::RIGHT_SHIFT, 0x59),
];

/// The code in set 3, where there is one.
pub(super) fn set3(key: Key) -> Option<u8> {
    // The block of letters, digits and signs has the same codes in both sets.
    let same = !key.extended && (0x0d..=0x5b).contains(&key.code);
    SET3.iter()
        .find(|(listed, _)| *listed == key)
        .map(|(_, code)| *code)
        .or_else(|| same.then_some(key.code))
}

/// What a key does in set 3: whether it repeats, and whether its release is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manner {
    pub(super) typematic: bool,
    pub(super) release: bool,
}

impl Manner {
    pub(super) const TYPEMATIC: Self = Self::new(true, false);
    pub(super) const MAKE_BREAK: Self = Self::new(false, true);
    pub(super) const MAKE: Self = Self::new(false, false);
    pub(super) const ALL: Self = Self::new(true, true);

    const fn new(typematic: bool, release: bool) -> Self {
        Self { typematic, release }
    }

    /// After power-on, by the code of set 3.
    pub(super) const fn default_of(code: u8) -> Self {
        match code {
            // Shift, left Ctrl and Alt, Caps Lock.
            0x11 | 0x12 | 0x14 | 0x19 | 0x59 => Self::MAKE_BREAK,
            // Function keys, Esc, the right Ctrl and Alt, keys around the cursor, the keypad but
            // for its plus.
            0x07
            | 0x08
            | 0x0f
            | 0x17
            | 0x1f
            | 0x27
            | 0x2f
            | 0x37
            | 0x39
            | 0x3f
            | 0x47
            | 0x4f
            | 0x56..=0x58
            | 0x5e
            | 0x5f
            | 0x62
            | 0x65
            | 0x67
            | 0x69
            | 0x6b..=0x7a
            | 0x7d..=0x84
            | 0x8b..=0x8d => Self::MAKE,
            _ => Self::TYPEMATIC,
        }
    }
}
