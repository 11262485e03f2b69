//! Writes the image of some generated ring-3 programs, to look into a difference that the suite
//! `equivalence` reports:
//!
//! ```text
//! cargo run --release -p ringshift-tests --example ring3_image -- SEED FIRST COUNT ordinary|hostile|process FILE [events|memory]
//! ringshift run --kernel FILE --memory 64M --policy translate
//! ```
//!
//! With `events` the guest prints a line for each - `!`, then GS FS ES DS EDI ESI EBP EBX EDX ECX EAX,
//! vector, error code, EIP CS EFLAGS ESP SS, CR2 - and with `memory` all of its memory at the end, too.

use std::process::ExitCode;

use ringshift_tests::ring3::{self, Character, Detail};

const USAGE: &str = "SEED FIRST COUNT ordinary|hostile|process FILE [events|memory]";

fn run(args: &[String]) -> Result<(), String> {
    let [seed, first, count, character, file, rest @ ..] = args else {
        return Err(USAGE.to_owned());
    };
    let number = |text: &String| {
        text.parse::<u32>()
            .map_err(|error| format!("{text}: {error}"))
    };
    let (seed, first, count) = (number(seed)?, number(first)?, number(count)?);
    let character = match character.as_str() {
        "ordinary" => Character::Ordinary,
        "hostile" => Character::Hostile,
        "process" => Character::Process,
        _ => return Err(USAGE.to_owned()),
    };
    let detail = match rest.first().map(String::as_str) {
        None => Detail::Sums,
        Some("events") => Detail::Events,
        Some("memory") => Detail::Memory,
        Some(_) => return Err(USAGE.to_owned()),
    };
    let image = ring3::image(seed.into(), first..first + count, character, detail);
    std::fs::write(file, image).map_err(|error| format!("{file}: {error}"))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ring3_image: {error}");
            ExitCode::FAILURE
        }
    }
}
