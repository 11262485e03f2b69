//! Debian's unmodified 686 kernel under ringshift.
//!
//! Everything is strict: the first instruction that is not translated ends the test.

use std::process::Command;
use std::time::Duration;

use ringshift_tests::console::{self, Console, Finished};
use ringshift_tests::guests::{self, Guest, Session};
use ringshift_tests::{programs, shell_session};

/// What `ringshift` itself is told, and somewhat more for the test, so that a hang is reported by
/// ringshift.
const LIMIT_SECONDS: &str = "240";
const LIMIT: Duration = Duration::from_secs(270);

fn guest(session: Session) -> Guest {
    guests::debian_686(session).unwrap_or_else(|error| panic!("{error}"))
}

fn ringshift(guest: &Guest) -> Command {
    let mut command = programs::ringshift_run(guest).unwrap_or_else(|error| panic!("{error}"));
    command.args(["--strict", "--audit", "--timeout", LIMIT_SECONDS]);
    command
}

fn run(command: Command) -> Finished {
    console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

/// Fails with everything there is to see.
fn assert_ended(end: &Finished, code: i32, text: &str) {
    assert!(
        end.code() == Some(code) && end.stdout.contains(text),
        "{:?}, expected {code} and {text:?}\n{}\n{}",
        end.status,
        end.stdout,
        end.stderr
    );
}

#[test]
fn boots_passes_its_checks_and_powers_off() {
    let end = run(ringshift(&guest(Session::Scripted)));
    assert_ended(&end, 0, guests::PASSED);
    assert!(
        end.stderr.contains("the shadow tables agree"),
        "no audit: {}",
        end.stderr
    );
    eprintln!("Debian 686, scripted: {:.1} s", end.elapsed.as_secs_f64());
}

/// Most memory that the monitor takes for itself, beside that of the guest.
const MONITOR_BYTES: u64 = 256 << 20;

#[test]
fn the_pae_kernel_passes_them_too() {
    let guest = guests::debian_686_pae(Session::Scripted).unwrap_or_else(|error| panic!("{error}"));
    let stats = std::env::temp_dir().join(format!("ringshift-pae-{}.json", std::process::id()));
    let mut command = ringshift(&guest);
    command.arg("--stats").arg(&stats);
    let end = run(command);
    assert_ended(&end, 0, guests::PASSED);
    assert_ended(&end, 0, "NX (Execute Disable) protection: active");
    let text = std::fs::read_to_string(&stats).unwrap_or_else(|error| panic!("{error}"));
    let _ = std::fs::remove_file(&stats);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}"));
    let memory = |name: &str| report["host_memory"][name].as_u64().expect("a figure");
    let (monitor, of_guest) = (memory("monitor_bytes"), memory("guest_bytes"));
    assert!(of_guest > 16 << 20, "{of_guest}: no guest memory was found");
    assert!(monitor < MONITOR_BYTES, "{monitor}");
    assert!(
        end.stderr.contains("the shadow tables agree"),
        "{}",
        end.stderr
    );
    eprintln!(
        "Debian 686-pae, scripted: {:.1} s",
        end.elapsed.as_secs_f64()
    );
}

/// As little memory as the kernel, the system and its shell can live in, and as much as a machine can have.
#[test]
fn boots_to_a_shell_with_little_and_with_much_memory() {
    for memory in ["40M", "3G"] {
        let mut guest = guest(Session::Interactive);
        guest.memory = memory;
        let mut command = ringshift(&guest);
        command.args(["--until", guests::SHELL]);
        assert_ended(&run(command), 0, guests::SHELL);
    }
}

#[test]
fn answers_typed_commands_and_powers_off() {
    let guest = guest(Session::Interactive);
    let console = Console::start(ringshift(&guest)).unwrap_or_else(|error| panic!("{error}"));
    let end = shell_session::converse(console, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_ended(&end, 0, "status-130");
}

/// The end of standard input does not end the run; `--until` does.
#[test]
fn runs_without_input_until_a_text_appears() {
    let mut command = ringshift(&guest(Session::Interactive));
    command.args(["--until", guests::SHELL]);
    let mut console = Console::start(command).unwrap_or_else(|error| panic!("{error}"));
    console.close_input();
    let end = console
        .finish(LIMIT)
        .unwrap_or_else(|error| panic!("{error}"));
    assert_ended(&end, 0, guests::SHELL);
}

#[test]
fn power_off_before_the_text_is_status_4() {
    let mut command = ringshift(&guest(Session::Scripted));
    command.args(["--until", "this is never printed"]);
    assert_ended(&run(command), 4, guests::PASSED);
}

#[test]
fn a_reboot_ends_the_run_if_asked_to() {
    let guest = guest(Session::Interactive);
    let mut command = ringshift(&guest);
    command.arg("--no-reboot");
    let mut console = Console::start(command).unwrap_or_else(|error| panic!("{error}"));
    let mut talk = |send: &str, expect: &str| {
        console.send(send).unwrap_or_else(|error| panic!("{error}"));
        console
            .expect(expect, LIMIT)
            .unwrap_or_else(|error| panic!("{error}"));
    };
    talk("", guests::SHELL);
    talk("", "# ");
    talk("reboot -f\n", "reboot -f");
    let end = console
        .finish(LIMIT)
        .unwrap_or_else(|error| panic!("{error}"));
    assert_ended(&end, 0, guests::SHELL);
}

#[test]
fn a_time_limit_ends_the_run() {
    let mut command =
        programs::ringshift_run(&guest(Session::Interactive)).unwrap_or_else(|e| panic!("{e}"));
    command.args(["--timeout", "2"]);
    let end = run(command);
    assert_ended(&end, 124, "");
    assert!(end.elapsed < Duration::from_secs(20), "{:?}", end.elapsed);
}
