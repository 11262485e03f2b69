//! Writes the image of some generated ring-3 programs, to look into a difference that the suite
//! `equivalence` reports:
//!
//! ```text
//! cargo run --release -p ringshift-tests --example ring3_image -- SEED FIRST COUNT ordinary|hostile|process|sweep FILE [events|memory] [times=N]
//! ringshift run --kernel FILE --memory 64M --policy translate
//! ```
//!
//! With `events` the guest prints a line for each - `!`, then GS FS ES DS EDI ESI EBP EBX EDX ECX EAX,
//! vector, error code, EIP CS EFLAGS ESP SS, CR2 - and with `memory` all of its memory at the end, too.
//! `times=N` repeats the programs: for a difference that depends on when interrupts come.

use std::process::ExitCode;

use ringshift_tests::ring3::{self, Character, Detail};

const USAGE: &str =
    "SEED FIRST COUNT ordinary|hostile|process|sweep FILE [events|memory] [times=N]";

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
        "sweep" => Character::Sweep,
        _ => return Err(USAGE.to_owned()),
    };
    let (mut detail, mut times) = (Detail::Sums, 1_u64);
    for word in rest {
        match word.as_str() {
            "events" => detail = Detail::Events,
            "memory" => detail = Detail::Memory,
            _ => match word.strip_prefix("times=").map(str::parse) {
                Some(Ok(number)) => times = number,
                _ => return Err(USAGE.to_owned()),
            },
        }
    }
    if u64::from(count) * times > ring3::MOST_PROGRAMS as u64 {
        return Err(format!("at most {} programs", ring3::MOST_PROGRAMS));
    }
    let numbers = (0..times).flat_map(|_| first..first + count);
    let image = ring3::image(seed.into(), numbers, character, detail);
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
