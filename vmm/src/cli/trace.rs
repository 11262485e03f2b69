//! `ringshift trace`: what a trace comes to, and its export.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::args::{ExportArgs, SummaryArgs, TraceCommand};
use super::{CliError, Status, complain, read_text};
use crate::trace::{ExportError, Summary, Symbols, TraceReader, export};

/// Runs the subcommand.
pub(super) fn main(command: &TraceCommand) -> Result<Status, CliError> {
    match command {
        TraceCommand::Summary(args) => summary(args),
        TraceCommand::Export(args) => to_file(args),
    }
}

fn open(path: &Path) -> Result<TraceReader<io::BufReader<File>>, CliError> {
    TraceReader::open(path).map_err(|source| CliError::Trace {
        path: path.to_owned(),
        source,
    })
}

/// The symbols of a file, or none.
pub(super) fn read_symbols(path: Option<&Path>) -> Result<Symbols, CliError> {
    let Some(path) = path else {
        return Ok(Symbols::default());
    };
    let text = read_text("the symbols", path)?;
    Symbols::parse(&text).map_err(|source| CliError::Symbols {
        path: path.to_owned(),
        source,
    })
}

fn summary(args: &SummaryArgs) -> Result<Status, CliError> {
    let symbols = read_symbols(args.symbols.as_deref())?;
    let mut reader = open(&args.file)?;
    let summary = Summary::read(&mut reader, &symbols, args.top);
    warn(&reader);
    let text = if args.json {
        serde_json::to_string_pretty(&summary).map_err(|error| CliError::Stdout(error.into()))?
    } else {
        summary.to_string()
    };
    writeln!(io::stdout(), "{}", text.trim_end()).map_err(CliError::Stdout)?;
    Ok(Status::Done)
}

fn to_file(args: &ExportArgs) -> Result<Status, CliError> {
    let mut reader = open(&args.file)?;
    let result = match &args.output {
        None => export(&mut reader, args.format, io::stdout().lock()),
        Some(path) => File::create(path)
            .map_err(ExportError::Write)
            .and_then(|file| export(&mut reader, args.format, file)),
    };
    result.map_err(CliError::Export)?;
    warn(&reader);
    Ok(Status::Done)
}

/// Tells what is wrong with a file that gave something all the same.
fn warn<R>(reader: &TraceReader<R>)
where
    R: io::Read,
{
    if let Some(warning) = reader.warning() {
        complain(format_args!("warning: {warning}"));
    }
}
