//! A conversation with the shell of the interactive Debian guest, whatever runs it.

use std::time::Duration;

use crate::console::{Console, ConsoleError, Finished};
use crate::guests;

/// The end of the shell's prompt.
const PROMPT: &str = "# ";

/// Types commands at the shell and checks the answers, then powers off.
///
/// What is typed is echoed, so each command is written such that its answer is not in it.
///
/// # Errors
///
/// When an answer is not the right one or does not come within `limit`.
pub fn converse(mut console: Console, limit: Duration) -> Result<Finished, ConsoleError> {
    console.expect(guests::SHELL, limit)?;
    console.expect(PROMPT, limit)?;
    for (command, answer) in [
        ("echo typed-$((6 * 7))\n", "typed-42"),
        ("seq 1 100 | wc -l | sed s/^/lines-/\n", "lines-100"),
        // Backspace and the line editor.
        ("echo mistakf\x7fe | tr a-z A-Z\n", "MISTAKE"),
        ("awk 'BEGIN { printf \"%.4f-\\n\", 22 / 7 }'\n", "3.1429-"),
    ] {
        console.send(command)?;
        console.expect(answer, limit)?;
        console.expect(PROMPT, limit)?;
    }

    // A signal from the keyboard, through the line discipline and job control. The process to be
    // interrupted says itself that it runs: between its fork and its becoming the foreground job the
    // signal would go to the shell.
    console.send("sh -c \"echo be''gun; exec sleep 100\"\n")?;
    console.expect("begun", limit)?;
    console.send("\x03")?;
    console.expect(PROMPT, limit)?;
    console.send("echo status-$?\n")?;
    console.expect("status-130", limit)?;
    console.expect(PROMPT, limit)?;

    // Lines and the end of a file.
    console.send("echo go''ing; cat >copy\n")?;
    console.expect("going", limit)?;
    console.send("first\nsecond\n\x04")?;
    console.expect(PROMPT, limit)?;
    console.send("rev copy\n")?;
    console.expect("dnoces", limit)?;
    console.expect(PROMPT, limit)?;

    console.send("poweroff -f\n")?;
    console.finish(limit)
}
