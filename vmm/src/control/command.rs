//! The words of the monitor console: what a person, a program or a script asks of a running machine.

use std::path::PathBuf;

use super::keys::{Combination, UnknownKey, Untypable};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop the guest.
    Pause,
    /// Let it go on.
    Resume,
    /// Press the reset button.
    Reset,
    /// Press the power button.
    PowerButton,
    /// End the run.
    Quit,
    /// Press the NMI button.
    Nmi,
    /// Put a disk image into a floppy drive.
    ChangeFloppy {
        /// Drive, 0 or 1.
        drive: usize,
        /// The image, with the options of `--floppy`; `None` empties the drive.
        image: Option<String>,
    },
    /// Press and release keys.
    SendKey {
        /// One after the other.
        keys: Vec<Combination>,
        /// How long each is held.
        hold_ms: Option<u64>,
    },
    /// Type a text.
    Type(String),
    /// Move the mouse, turn its wheel, press its buttons.
    Mouse(Mouse),
    /// Write the picture on the screen to a PNG file.
    Screenshot(PathBuf),
    /// Tell the text on the screen, or write it to a file.
    Text(Option<PathBuf>),
    /// Tell the registers.
    Registers,
    /// Tell a stretch of memory.
    Memory {
        /// Where it begins.
        address: u32,
        /// Bytes.
        length: usize,
        /// The address is guest-linear, not guest-physical.
        linear: bool,
    },
    /// Tell whether the guest runs, and what the screen is.
    Status,
    /// Tell the statistics of the run so far.
    Statistics,
    /// Tell the commands.
    Help,
}

/// A movement of the mouse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mouse {
    /// To the right.
    pub dx: i32,
    /// Down.
    pub dy: i32,
    /// Of the wheel, towards the user.
    pub dz: i32,
    /// New state of the buttons: bit 0 left, bit 1 right, bit 2 middle. `None`: as before.
    pub buttons: Option<u8>,
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// nothing of this name
    #[error("there is no command '{0}'; 'help' lists them")]
    Unknown(String),
    /// not what follows the command
    #[error("usage: {0}")]
    Usage(&'static str),
    /// a number that is none
    #[error("'{0}' is no number that fits here")]
    Number(String),
    /// no such key
    #[error(transparent)]
    Key(#[from] UnknownKey),
    /// no such character
    #[error(transparent)]
    Character(#[from] Untypable),
    /// quotes or escapes that do not end
    #[error("{0}")]
    Quote(&'static str),
}

/// Commands with what they take and what they do.
const HELP: [(&str, &str); 19] = [
    ("pause", "stop the guest (stop)"),
    ("resume", "let it go on (cont, c)"),
    ("reset", "press the reset button (system_reset)"),
    ("power-off", "press the power button (system_powerdown)"),
    ("nmi", "press the NMI button"),
    ("quit", "end the run (q)"),
    (
        "change floppyN FILE[,OPTIONS]",
        "put a disk into drive 0 or 1",
    ),
    ("eject floppyN", "take it out"),
    (
        "sendkey KEYS... [MILLISECONDS]",
        "press keys, such as ctrl-alt-delete, f1, ret",
    ),
    (
        "type TEXT",
        "type a text; \\n is Enter, \\t Tab, \\e Esc, \\\\ a backslash",
    ),
    (
        "mouse DX DY [DZ]",
        "move the mouse right and down (mouse_move)",
    ),
    (
        "button N",
        "press buttons: 1 left, 2 right, 4 middle, added up; 0 none (mouse_button)",
    ),
    (
        "screendump FILE.png",
        "write the picture on the screen (screenshot)",
    ),
    ("text [FILE]", "tell the text on the screen"),
    ("registers", "tell the registers (info registers)"),
    (
        "memory ADDRESS [LENGTH] | memory linear ADDRESS [LENGTH]",
        "tell memory, by guest-physical or guest-linear address (xp, x)",
    ),
    ("status", "tell whether the guest runs (info status)"),
    ("statistics", "tell the counters of the run (info stats)"),
    ("help", "this"),
];

/// Bytes that one command tells at most.
const MEMORY_LIMIT: usize = 64 << 10;

impl Command {
    /// The commands, line by line.
    pub fn help() -> String {
        let width = 32;
        HELP.iter()
            .map(|(form, meaning)| format!("{form:width$}  {meaning}\n"))
            .collect()
    }

    /// Takes a line apart.
    ///
    /// # Errors
    /// It is no command.
    pub fn parse(line: &str) -> Result<Command, CommandError> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        // What is typed may have any form; everything else is words.
        if name == "type" {
            return Command::typed(&text_argument(rest.trim())?);
        }
        let words = words(rest)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Command::of_words(name, &words)
    }

    /// A command whose words stand apart already.
    ///
    /// # Errors
    /// It is no command.
    pub fn of_words(name: &str, words: &[&str]) -> Result<Command, CommandError> {
        let usage = |form| Err(CommandError::Usage(form));
        Ok(match (name, words) {
            ("pause" | "stop", []) => Command::Pause,
            ("resume" | "cont" | "c", []) => Command::Resume,
            ("reset" | "system_reset", []) => Command::Reset,
            ("power-off" | "system_powerdown", []) => Command::PowerButton,
            ("nmi", []) => Command::Nmi,
            ("quit" | "q" | "exit", []) => Command::Quit,
            ("change", [drive, image]) => Command::ChangeFloppy {
                drive: floppy(drive)?,
                image: Some((*image).to_owned()),
            },
            ("eject", [drive]) => Command::ChangeFloppy {
                drive: floppy(drive)?,
                image: None,
            },
            ("sendkey" | "key", [_, ..]) => send_key(words)?,
            ("type", _) => return Command::typed(&words.join(" ")),
            ("mouse" | "mouse_move", [dx, dy, rest @ ..]) if rest.len() <= 1 => {
                Command::Mouse(Mouse {
                    dx: number(dx)?,
                    dy: number(dy)?,
                    dz: rest.first().map(|dz| number(dz)).transpose()?.unwrap_or(0),
                    buttons: None,
                })
            }
            ("button" | "mouse_button", [buttons]) => Command::Mouse(Mouse {
                buttons: Some(number::<u8>(buttons)? & 7),
                ..Mouse::default()
            }),
            ("screendump" | "screenshot", [file]) => Command::Screenshot(file.into()),
            ("text", []) => Command::Text(None),
            ("text", [file]) => Command::Text(Some(file.into())),
            ("registers", []) | ("info", ["registers"]) => Command::Registers,
            ("memory", ["linear", rest @ ..]) => memory(rest, true)?,
            ("memory" | "xp", _) => memory(words, false)?,
            ("x", _) => memory(words, true)?,
            ("status", []) | ("info", ["status"]) => Command::Status,
            ("statistics" | "stats", []) | ("info", ["stats" | "statistics"]) => {
                Command::Statistics
            }
            ("help" | "?", []) => Command::Help,
            ("change", _) => {
                return usage("change floppy0|floppy1 FILE[,snapshot=on][,readonly=on]");
            }
            ("eject", _) => return usage("eject floppy0|floppy1"),
            ("sendkey" | "key", _) => return usage("sendkey KEYS... [MILLISECONDS]"),
            ("mouse" | "mouse_move", _) => return usage("mouse DX DY [DZ]"),
            ("button" | "mouse_button", _) => return usage("button NUMBER"),
            ("screendump" | "screenshot", _) => return usage("screendump FILE.png"),
            ("text", _) => return usage("text [FILE]"),
            ("info", _) => return usage("info registers|status|stats"),
            _ if HELP.iter().any(|(form, _)| *form == name) => {
                return usage("this command takes nothing more");
            }
            _ => return Err(CommandError::Unknown(name.to_owned())),
        })
    }

    fn typed(text: &str) -> Result<Command, CommandError> {
        if text.is_empty() {
            return Err(CommandError::Usage("type TEXT"));
        }
        // Found now, and not when half of it is typed.
        Combination::type_text(text)?;
        Ok(Command::Type(text.to_owned()))
    }
}

fn floppy(drive: &str) -> Result<usize, CommandError> {
    match drive {
        "floppy0" | "floppya" | "a" | "a:" => Ok(0),
        "floppy1" | "floppyb" | "b" | "b:" => Ok(1),
        _ => Err(CommandError::Usage("change|eject floppy0|floppy1 ...")),
    }
}

fn send_key(words: &[&str]) -> Result<Command, CommandError> {
    // A number behind keys is a time; alone it is a key.
    let (keys, hold_ms) = match words {
        [keys @ .., last] if !keys.is_empty() && last.len() > 1 => match last.parse() {
            Ok(hold) => (keys, Some(hold)),
            Err(_) => (words, None),
        },
        _ => (words, None),
    };
    let keys = keys.iter().map(|keys| keys.parse());
    Ok(Command::SendKey {
        keys: keys.collect::<Result<_, _>>()?,
        hold_ms,
    })
}

fn memory(words: &[&str], linear: bool) -> Result<Command, CommandError> {
    let (address, length) = match words {
        // The form of QEMU and gdb: /16xb ADDRESS. Bytes are shown whatever it asks for.
        [format, address] if format.starts_with('/') => {
            let count = format.trim_start_matches('/');
            let digits = count.trim_end_matches(|c: char| !c.is_ascii_digit());
            let unit = match count.chars().last() {
                Some('w') => 4,
                Some('h') => 2,
                _ => 1,
            };
            (address, number::<usize>(digits)?.saturating_mul(unit))
        }
        [address] => (address, 256),
        [address, length] => (address, number(length)?),
        _ => return Err(CommandError::Usage("memory [linear] ADDRESS [LENGTH]")),
    };
    Ok(Command::Memory {
        address: number(address)?,
        length: length.min(MEMORY_LIMIT),
        linear,
    })
}

/// A number, decimal or with 0x hexadecimal.
fn number<T: TryFrom<i64>>(text: &str) -> Result<T, CommandError> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    parsed
        .and_then(|value: i64| T::try_from(value).ok())
        .ok_or_else(|| CommandError::Number(text.to_owned()))
}

/// A text that goes to the end of the line, with or without quotes around it.
///
/// # Errors
/// An escape or a quote does not end.
pub(crate) fn text_argument(text: &str) -> Result<String, CommandError> {
    let inner = match text.strip_prefix('"') {
        None => text,
        Some(quoted) => quoted
            .strip_suffix('"')
            .filter(|inner| trailing_backslashes(inner).is_multiple_of(2))
            .ok_or(CommandError::Quote("the text has no closing quote"))?,
    };
    unescape(inner)
}

fn trailing_backslashes(text: &str) -> usize {
    text.len() - text.trim_end_matches('\\').len()
}

/// Replaces \n, \t, \e, \b, \", \\ and \xNN.
///
/// # Errors
/// An escape is none of these.
pub(crate) fn unescape(text: &str) -> Result<String, CommandError> {
    const UNKNOWN: CommandError =
        CommandError::Quote("behind a backslash there is one of n t e b x \" \\");
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        plain.push(match characters.next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('e') => '\u{1b}',
            Some('b') => '\u{8}',
            Some(same @ ('\\' | '"')) => same,
            Some('x') => {
                let digits: String = characters.by_ref().take(2).collect();
                let code = u8::from_str_radix(&digits, 16).map_err(|_| UNKNOWN)?;
                char::from(code)
            }
            _ => return Err(UNKNOWN),
        });
    }
    Ok(plain)
}

/// Words between blanks; quotes keep a word with blanks together.
fn words(text: &str) -> Result<Vec<String>, CommandError> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => {
                let length = quoted
                    .find('"')
                    .ok_or(CommandError::Quote("a word has no closing quote"))?;
                words.push(quoted.get(..length).unwrap_or_default().to_owned());
                length + 2
            }
            None => {
                let length = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest.get(..length).unwrap_or_default().to_owned());
                length
            }
        };
        rest = rest.get(end..).unwrap_or_default().trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_this_monitor_and_of_qemus() {
        for (lines, command) in [
            (&["pause", "stop", "  pause  "][..], Command::Pause),
            (&["resume", "cont", "c"], Command::Resume),
            (&["reset", "system_reset"], Command::Reset),
            (&["power-off", "system_powerdown"], Command::PowerButton),
            (&["quit", "q"], Command::Quit),
            (&["registers", "info registers"], Command::Registers),
            (&["statistics", "info stats"], Command::Statistics),
            (&["status", "info status"], Command::Status),
            (
                &["screendump a.png", "screenshot \"a.png\""],
                Command::Screenshot("a.png".into()),
            ),
            (&["text"], Command::Text(None)),
            (
                &["memory 0x7c00 32", "xp /32xb 0x7c00", "xp /8xw 31744"],
                Command::Memory {
                    address: 0x7c00,
                    length: 32,
                    linear: false,
                },
            ),
            (
                &["memory linear 16 2", "x /1xh 0x10"],
                Command::Memory {
                    address: 16,
                    length: 2,
                    linear: true,
                },
            ),
            (
                &["mouse 5 -7", "mouse_move 5 -7 0"],
                Command::Mouse(Mouse {
                    dx: 5,
                    dy: -7,
                    ..Mouse::default()
                }),
            ),
            (
                &["change floppy0 \"my disk.img\""],
                Command::ChangeFloppy {
                    drive: 0,
                    image: Some("my disk.img".into()),
                },
            ),
            (
                &["eject floppy1"],
                Command::ChangeFloppy {
                    drive: 1,
                    image: None,
                },
            ),
            (
                &["type dir\\n", "type \"dir\\n\"", "type   dir\\x0a"],
                Command::Type("dir\n".into()),
            ),
            (&["type \"  \\\\\""], Command::Type("  \\".into())),
        ] {
            for line in lines {
                assert_eq!(Command::parse(line).as_ref(), Ok(&command), "{line}");
            }
        }
    }

    #[test]
    fn keys_may_be_held() {
        let parsed = |line| match Command::parse(line) {
            Ok(Command::SendKey { keys, hold_ms }) => (keys.len(), hold_ms),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(parsed("sendkey ctrl-alt-delete"), (1, None));
        assert_eq!(parsed("sendkey a 500"), (1, Some(500)));
        assert_eq!(parsed("sendkey up up ret"), (3, None));
        assert_eq!(parsed("sendkey 1 2"), (2, None), "keys, not a time");
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (line, word) in [
            ("fly", "'fly'"),
            ("", "''"),
            ("pause now", "nothing more"),
            ("sendkey", "KEYS"),
            ("sendkey hyper-x", "'hyper'"),
            ("type", "TEXT"),
            ("type \"open", "closing quote"),
            ("type a\\q", "backslash"),
            ("type ä", "'ä'"),
            ("memory", "ADDRESS"),
            ("memory here", "'here'"),
            ("memory -1", "'-1'"),
            ("memory 0x100000000", "no number"),
            ("change floppy2 x", "floppy0|floppy1"),
            ("info pic", "registers|status"),
            ("screendump", "FILE.png"),
            ("mouse 1", "DX DY"),
        ] {
            let error = Command::parse(line).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn every_command_of_the_help_is_one() {
        for (form, _) in HELP {
            let name = form.split_whitespace().next().expect("a name");
            let error = Command::of_words(name, &["a", "b", "c", "d"]);
            assert!(!matches!(error, Err(CommandError::Unknown(_))), "{name}");
        }
    }
}
