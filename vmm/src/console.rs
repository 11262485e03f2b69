//! The user's terminal: raw mode, and the key that leaves it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The escape key: Ctrl-A, as in QEMU.
const ESCAPE: u8 = 0x01;

/// What is shown when the terminal goes into raw mode.
pub const NOTICE: &str =
    "the keyboard belongs to the guest, Ctrl-C included; Ctrl-A x quits, Ctrl-A h helps";

/// What Ctrl-A h shows.
pub const HELP: &str = "\r\n\
    Ctrl-A x   quit\r\n\
    Ctrl-A a   send Ctrl-A to the guest\r\n\
    Ctrl-A h   this help\r\n";

/// A terminal in raw mode; dropping it restores the terminal.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    /// In libc's form, which threads can share.
    saved: libc::termios,
}

impl RawTerminal {
    /// Puts a terminal into raw mode, but for output processing, so that messages keep their
    /// lines. `None` when it is no terminal.
    pub fn enter(terminal: impl AsFd) -> io::Result<Option<RawTerminal>> {
        let Ok(saved) = tcgetattr(&terminal) else {
            return Ok(None);
        };
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        raw.output_flags = saved.output_flags;
        tcsetattr(&terminal, SetArg::TCSANOW, &raw)?;
        Ok(Some(RawTerminal {
            terminal,
            saved: saved.into(),
        }))
    }
}

impl RawTerminal {
    /// Restores the terminal now.
    pub fn restore(&self) {
        if let Err(error) = tcsetattr(&self.terminal, SetArg::TCSANOW, &Termios::from(self.saved)) {
            tracing::warn!(%error, "the terminal could not be restored; run 'stty sane'");
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

/// What the user asked of the monitor, not of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCommand {
    /// Quit.
    Quit,
    /// Show the help.
    Help,
}

/// Separates the escape key's commands from what is for the guest.
#[derive(Debug, Default)]
pub struct EscapeKey {
    pending: bool,
}

impl EscapeKey {
    /// Takes `typed` apart: appends to `guest` what is the guest's, returns the commands.
    pub fn filter(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Vec<KeyCommand> {
        let mut commands = Vec::new();
        for &byte in typed {
            if !std::mem::take(&mut self.pending) {
                match byte {
                    ESCAPE => self.pending = true,
                    _ => guest.push(byte),
                }
                continue;
            }
            match byte {
                b'x' | b'X' => commands.push(KeyCommand::Quit),
                b'h' | b'H' | b'?' => commands.push(KeyCommand::Help),
                b'a' | b'A' | ESCAPE => guest.push(ESCAPE),
                _ => guest.extend([ESCAPE, byte]),
            }
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    fn filter(pieces: &[&[u8]]) -> (Vec<u8>, Vec<KeyCommand>) {
        let mut key = EscapeKey::default();
        let mut guest = Vec::new();
        let commands = pieces
            .iter()
            .flat_map(|piece| key.filter(piece, &mut guest))
            .collect();
        (guest, commands)
    }

    #[test]
    fn commands_are_found_across_reads_and_behind_each_other() {
        use KeyCommand::{Help, Quit};
        assert_eq!(filter(&[b"ls\r\x03"]), (b"ls\r\x03".to_vec(), vec![]));
        assert_eq!(filter(&[b"ls\x01x"]), (b"ls".to_vec(), vec![Quit]));
        assert_eq!(filter(&[b"\x01", b"x"]), (vec![], vec![Quit]));
        let both = filter(&[b"\x01hls\x01x"]);
        assert_eq!(both, (b"ls".to_vec(), vec![Help, Quit]));
    }

    #[test]
    fn the_escape_key_itself_can_be_sent() {
        assert_eq!(filter(&[b"\x01a", b"x"]), (b"\x01x".to_vec(), vec![]));
        assert_eq!(filter(&[b"\x01\x01x"]), (b"\x01x".to_vec(), vec![]));
        assert_eq!(filter(&[b"\x01k"]), (b"\x01k".to_vec(), vec![]));
    }

    #[test]
    fn a_terminal_is_restored_when_the_guard_goes() {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let cooked = tcgetattr(&pty.slave).expect("it is a terminal");
        let raw = RawTerminal::enter(&pty.slave)
            .expect("raw mode")
            .expect("it is a terminal");
        let flags = tcgetattr(&pty.slave).expect("it is a terminal").local_flags;
        assert!(!flags.intersects(LocalFlags::ISIG | LocalFlags::ICANON | LocalFlags::ECHO));
        drop(raw);
        assert_eq!(tcgetattr(&pty.slave).expect("it is a terminal"), cooked);
    }

    #[test]
    fn a_pipe_is_no_terminal() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert!(RawTerminal::enter(&reader).expect("no error").is_none());
    }
}
