//! Runs shell commands inside the machine with a real KVM, with files of the host in `/payload`:
//!
//! ```text
//! cargo run --release -p ringshift-tests --example hwvirt -- [npt=0] FILE... -- COMMAND...
//! ```
//!
//! `/payload/ringshift` is there always. Prints what each command printed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use ringshift_tests::hwvirt::{self, Payload, Step};
use ringshift_tests::programs;

const LIMIT: Duration = Duration::from_secs(590);

fn run(args: Vec<String>) -> Result<(), String> {
    let mut halves = args.split(|arg| arg == "--");
    let files = halves.next().unwrap_or_default();
    let commands = halves.next().ok_or("no commands: FILE... -- COMMAND...")?;
    let nested_paging = !files.iter().any(|file| file == "npt=0");
    let program = programs::ringshift_path().map_err(|error| error.to_string())?;
    let mut payloads = vec![Payload::Program(program.to_path_buf())];
    for file in files.iter().filter(|file| *file != "npt=0") {
        let path = PathBuf::from(file);
        let name = path.file_name().ok_or("a file without a name")?;
        payloads.push(Payload::File(name.to_string_lossy().into_owned(), path));
    }
    let steps: Vec<Step> = (0..)
        .zip(commands)
        .map(|(number, command): (usize, _)| Step {
            name: number.to_string(),
            command: command.clone(),
        })
        .collect();
    let results =
        hwvirt::run(nested_paging, &payloads, &steps, LIMIT).map_err(|error| error.to_string())?;
    for (step, result) in steps.iter().zip(results) {
        println!("== {} (status {})", step.command, result.status);
        print!("{}", result.stdout);
        eprint!("{}", result.stderr);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hwvirt: {error}");
            ExitCode::FAILURE
        }
    }
}
