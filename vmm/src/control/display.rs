//! The screen of the guest in the user's terminal: text modes as text, graphics as half blocks; what
//! is typed goes to the guest's keyboard.

use std::io::{self, IsTerminal, Stdout, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Color, Colors, Print, ResetColor, SetColors};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};
use devices::vga::Rgb;
use devices::vga::codepage::CP437;
use devices::{Picture, TextScreen};

use super::{Command, Gone, Look, Remote};

/// How often the screen is looked at.
const REFRESH: Duration = Duration::from_millis(40);
/// Shown below a picture.
const HINT: &str = " graphics, scaled down; 'screendump' in the monitor or --screenshot has it whole; Ctrl-A x quits";

/// A terminal that shows the guest's screen. Dropping it gives the terminal back.
#[derive(Debug)]
pub struct TerminalDisplay {
    terminal: Arc<Terminal>,
    /// May wait for a machine that does not run any more, and ends with it.
    _thread: JoinHandle<()>,
}

/// The name of the thread that draws.
const THREAD: &str = "display";

/// What the threads share of the terminal.
#[derive(Debug, Default)]
struct Terminal {
    /// Held while something is drawn.
    drawing: Mutex<()>,
    given_back: AtomicBool,
}

impl Terminal {
    /// Nothing is drawn as long as this is kept; `None` once the terminal was given back.
    fn draw(&self) -> Option<MutexGuard<'_, ()>> {
        let drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.given_back.load(Ordering::Acquire)).then_some(drawing)
    }

    /// Gives the terminal back, once: to do it again would move the cursor.
    fn give_back(&self) {
        let drawer = thread::current().name() == Some(THREAD);
        let _drawing = (!drawer).then(|| self.drawing.lock());
        if !self.given_back.swap(true, Ordering::AcqRel) {
            restore();
        }
    }
}

impl TerminalDisplay {
    /// Takes the terminal of standard output. From now on a panic of any thread gives it back before it is told.
    ///
    /// # Errors
    /// Standard input and output are no terminal, or it cannot be switched.
    pub fn start(remote: Remote) -> io::Result<TerminalDisplay> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(io::Error::other(
                "standard input and output are no terminal",
            ));
        }
        terminal::enable_raw_mode()?;
        let terminal = Arc::new(Terminal::default());
        let (tell, shared) = (panic::take_hook(), Arc::clone(&terminal));
        panic::set_hook(Box::new(move |panic| {
            shared.give_back();
            tell(panic);
        }));
        execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All))?;
        let shared = Arc::clone(&terminal);
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || {
                if let Err(error) = show(&remote, &shared) {
                    tracing::warn!(%error, "the terminal cannot be used any more");
                }
            });
        if thread.is_err() {
            terminal.give_back();
        }
        Ok(TerminalDisplay {
            terminal,
            _thread: thread?,
        })
    }
}

impl Drop for TerminalDisplay {
    fn drop(&mut self) {
        self.terminal.give_back();
    }
}

/// Gives the terminal back, whatever state it is in.
pub fn restore() {
    let _ = execute!(io::stdout(), ResetColor, LeaveAlternateScreen, cursor::Show);
    let _ = terminal::disable_raw_mode();
}

/// Shows the screen and passes keys on, until the machine ends.
fn show(remote: &Remote, shared: &Terminal) -> io::Result<()> {
    let mut output = io::stdout();
    let mut shown = None;
    let mut keys = Keys::default();
    while let Ok(look) = remote.look() {
        let now = (look, terminal::size()?);
        let Some(drawing) = shared.draw() else {
            return Ok(());
        };
        if shown.as_ref() != Some(&now) {
            draw(&mut output, &now.0, now.1)?;
            shown = Some(now);
        }
        drop(drawing);
        // A burst of keys is passed on whole before the screen is drawn again.
        let mut wait = REFRESH;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    let Some(command) = keys.command(&key) else {
                        continue;
                    };
                    if let Err(Gone) = remote.ask(command) {
                        return Ok(());
                    }
                }
                Event::Resize(..) => shown = None,
                _ => {}
            }
        }
    }
    Ok(())
}

fn draw(output: &mut Stdout, look: &Look, size: (u16, u16)) -> io::Result<()> {
    let (columns, rows) = (usize::from(size.0), usize::from(size.1));
    queue!(output, cursor::Hide)?;
    match (&look.text, &look.picture) {
        (Some(screen), _) => draw_text(output, screen, columns, rows)?,
        (None, Some(picture)) => draw_picture(output, picture, columns, rows)?,
        (None, None) => queue!(output, ResetColor, Clear(ClearType::All))?,
    }
    output.flush()
}

fn draw_text(
    output: &mut Stdout,
    screen: &TextScreen,
    columns: usize,
    rows: usize,
) -> io::Result<()> {
    // Where the terminal is too small, the rows around the cursor are shown.
    let cursor_row = screen.cursor.map_or(0, |cursor| cursor.row);
    let first = (cursor_row + 1).saturating_sub(rows);
    let colour = |number: u8| rgb(screen.palette.get(usize::from(number & 15)).copied());
    for line in 0..rows {
        queue!(output, cursor::MoveTo(0, line as u16), ResetColor)?;
        let mut before = None;
        for cell in screen.row(first + line).iter().take(columns) {
            if before != Some(cell.attribute) {
                let background = cell.attribute >> 4 & if screen.blink { 7 } else { 15 };
                let colors = Colors::new(colour(cell.attribute), colour(background));
                queue!(output, SetColors(colors))?;
                before = Some(cell.attribute);
            }
            queue!(output, Print(CP437.character(cell.character)))?;
        }
        queue!(output, ResetColor, Clear(ClearType::UntilNewLine))?;
    }
    // Some terminals say that they have no rows.
    let seen = screen
        .cursor
        .filter(|cursor| cursor.column < columns && cursor.row >= first);
    if let Some(cursor) = seen {
        let (column, row) = (cursor.column as u16, (cursor.row - first) as u16);
        queue!(output, cursor::MoveTo(column, row), cursor::Show)?;
    }
    Ok(())
}

/// Each character is two pixels, one above the other.
fn draw_picture(
    output: &mut Stdout,
    picture: &Picture,
    columns: usize,
    rows: usize,
) -> io::Result<()> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    let lines = rows.saturating_sub(1);
    let columns = columns.min(width);
    let lines = lines.min(height.div_ceil(2));
    for line in 0..lines {
        queue!(output, cursor::MoveTo(0, line as u16))?;
        for column in 0..columns {
            let x = (column * width / columns) as u32;
            let half = |half: usize| {
                let y = (2 * line + half) * height / (2 * lines);
                rgb(Some(picture.pixel(x, y as u32)))
            };
            queue!(output, SetColors(Colors::new(half(0), half(1))), Print('▀'))?;
        }
        queue!(output, ResetColor, Clear(ClearType::UntilNewLine))?;
    }
    queue!(
        output,
        cursor::MoveTo(0, lines as u16),
        Clear(ClearType::FromCursorDown)
    )?;
    let hint: String = HINT.chars().take(columns).collect();
    queue!(output, Print(hint))
}

fn rgb(colour: Option<Rgb>) -> Color {
    let [r, g, b] = colour.unwrap_or_default();
    Color::Rgb { r, g, b }
}

/// Turns the terminal's keys into the guest's. Ctrl-A is the escape key, as on the serial port.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn command(&mut self, key: &KeyEvent) -> Option<Command> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let escape = control && key.code == KeyCode::Char('a');
        if !std::mem::take(&mut self.escaped) {
            if escape {
                self.escaped = true;
                return None;
            }
            return send(&name(key)?);
        }
        match key.code {
            KeyCode::Char('x' | 'X') => Some(Command::Quit),
            KeyCode::Char('d' | 'D') => send("ctrl-alt-delete"),
            KeyCode::Char('r' | 'R') => Some(Command::Reset),
            KeyCode::Char('a' | 'A') => send("ctrl-a"),
            _ => None,
        }
    }
}

fn send(keys: &str) -> Option<Command> {
    Some(Command::SendKey {
        keys: vec![keys.parse().ok()?],
        hold_ms: None,
    })
}

/// The combination that a key of the terminal stands for.
fn name(key: &KeyEvent) -> Option<String> {
    let plain = match key.code {
        KeyCode::Char(character) => character.to_string(),
        KeyCode::F(number) => format!("f{number}"),
        KeyCode::Enter => "ret".to_owned(),
        KeyCode::Esc => "esc".to_owned(),
        KeyCode::Tab => "tab".to_owned(),
        KeyCode::BackTab => "shift-tab".to_owned(),
        KeyCode::Backspace => "backspace".to_owned(),
        KeyCode::Up => "up".to_owned(),
        KeyCode::Down => "down".to_owned(),
        KeyCode::Left => "left".to_owned(),
        KeyCode::Right => "right".to_owned(),
        KeyCode::Home => "home".to_owned(),
        KeyCode::End => "end".to_owned(),
        KeyCode::PageUp => "pgup".to_owned(),
        KeyCode::PageDown => "pgdn".to_owned(),
        KeyCode::Insert => "insert".to_owned(),
        KeyCode::Delete => "delete".to_owned(),
        _ => return None,
    };
    let character = matches!(key.code, KeyCode::Char(_) | KeyCode::BackTab);
    let modifiers = [
        (KeyModifiers::CONTROL, "ctrl-"),
        (KeyModifiers::ALT, "alt-"),
        (KeyModifiers::SHIFT, "shift-"),
    ];
    let prefix: String = modifiers
        .into_iter()
        // A character tells by itself whether Shift was held.
        .filter(|(flag, _)| !(character && *flag == KeyModifiers::SHIFT))
        .filter(|(flag, _)| key.modifiers.contains(*flag))
        .map(|(_, prefix)| prefix)
        .collect();
    Some(prefix + &plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(code, modifiers)
    }

    #[test]
    fn keys_of_the_terminal_are_keys_of_the_guest() {
        use KeyModifiers as M;
        for (code, modifiers, expected) in [
            (KeyCode::Char('a'), M::NONE, "a"),
            (KeyCode::Char('A'), M::SHIFT, "A"),
            (KeyCode::Char('c'), M::CONTROL, "ctrl-c"),
            (KeyCode::Char('x'), M::ALT, "alt-x"),
            (KeyCode::F(10), M::NONE, "f10"),
            (KeyCode::Up, M::SHIFT, "shift-up"),
            (KeyCode::BackTab, M::SHIFT, "shift-tab"),
        ] {
            let mut keys = Keys::default();
            let command = keys.command(&key(code, modifiers));
            assert_eq!(command, send(expected), "{expected}");
            assert!(command.is_some(), "{expected}");
        }
        let mut keys = Keys::default();
        assert_eq!(keys.command(&key(KeyCode::Char('ä'), M::NONE)), None);
    }

    #[test]
    fn ctrl_a_is_the_escape_key() {
        let mut keys = Keys::default();
        let escape = key(KeyCode::Char('a'), KeyModifiers::CONTROL);
        let plain = |c| key(KeyCode::Char(c), KeyModifiers::NONE);
        assert_eq!(keys.command(&escape), None);
        assert_eq!(keys.command(&plain('x')), Some(Command::Quit));
        assert_eq!(keys.command(&escape), None);
        assert_eq!(keys.command(&plain('a')), send("ctrl-a"));
        assert_eq!(keys.command(&plain('x')), send("x"));
    }
}
