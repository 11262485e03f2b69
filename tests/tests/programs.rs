//! Programs that use the whole of the unprivileged processor and of Linux's process interface, under
//! Debian's kernels in Ringshift, in QEMU TCG and natively: the same output, line by line.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use ringshift_tests::console::{self, Finished};
use ringshift_tests::guest_programs::{self, BuildError, Output};
use ringshift_tests::{guests, programs};
use std::path::{Path, PathBuf};

const LIMIT: Duration = Duration::from_secs(180);

/// The processor model, that of [`guests::Guest::qemu_options`].
const MODEL: &str = "coreduo";

/// The executable and what it prints on the host, once for all tests.
struct Native {
    program: PathBuf,
    output: Option<Output>,
}

/// Not through `eprintln`, whose output is lost when the test passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn native() -> Option<&'static Native> {
    static NATIVE: OnceLock<Option<Native>> = OnceLock::new();
    NATIVE
        .get_or_init(|| {
            let program = match guest_programs::build() {
                Ok(program) => program,
                Err(error @ BuildError::NoCompiler) => {
                    say(&format!("SKIPPED: the guest programs: {error}"));
                    return None;
                }
                Err(error) => panic!("{error}"),
            };
            let output = guest_programs::run_natively(&program).unwrap_or_else(|e| panic!("{e}"));
            if output.is_none() {
                say("SKIPPED: comparison with the host, which runs no 32-bit programs");
            }
            Some(Native { program, output })
        })
        .as_ref()
}

fn run(command: Command) -> Finished {
    let end = console::run(command, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        end.code() == Some(0) && end.stdout.contains(guests::PASSED),
        "{:?}\n{}\n{}",
        end.status,
        end.stdout,
        end.stderr
    );
    end
}

fn check(pae: bool, program: &Path, native: Option<&Output>) {
    let guest = guests::debian_programs(pae, program).unwrap_or_else(|error| panic!("{error}"));
    let mut command = programs::ringshift_run(&guest).unwrap_or_else(|error| panic!("{error}"));
    command.args(["--cpu", MODEL, "--policy", "translate"]);
    command.args(["--strict", "--audit", "--timeout", "150"]);
    let ours = run(command);
    assert!(
        ours.stderr.contains("the shadow tables agree"),
        "{}",
        ours.stderr
    );
    let theirs = programs::installed("qemu-system-i386").then(|| run(programs::qemu_run(&guest)));
    let qemu = theirs.as_ref().map(|end| Output::parse(&end.stdout));
    let result = guest_programs::compare(&Output::parse(&ours.stdout), qemu.as_ref(), native);
    say(&format!(
        "guest programs, {}: {} lines agree, {} compared with one reference, {} with none; \
         Ringshift {:.1} s, QEMU {:.1} s",
        if pae { "686-pae" } else { "686" },
        result.agreed,
        result.explained,
        result.unchecked,
        ours.elapsed.as_secs_f64(),
        theirs.map_or(0.0, |end| end.elapsed.as_secs_f64()),
    ));
    let mut text = String::new();
    for failure in &result.failures {
        let _ = write!(text, "{failure}");
    }
    assert!(
        result.failures.is_empty(),
        "{} lines\n{text}",
        result.failures.len()
    );
    // The programs did run.
    assert!(result.agreed + result.explained > 1000);
}

#[test]
fn same_output_under_the_686_kernel() {
    if let Some(native) = native() {
        check(false, &native.program, native.output.as_ref());
    }
}

#[test]
fn same_output_under_the_pae_kernel() {
    if let Some(native) = native() {
        check(true, &native.program, native.output.as_ref());
    }
}
