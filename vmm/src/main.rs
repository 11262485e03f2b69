//! The `ringshift` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringshift::cli::main()
}
