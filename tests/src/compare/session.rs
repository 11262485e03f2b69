//! Programs that stay: each of the three - the host, Ringshift, QEMU TCG - runs one server of
//! `tests/bench/programs/main.c` and gets the same orders in turn.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{CompareError, Work};
use crate::console::Console;

/// More than starting takes.
const START: Duration = Duration::from_secs(120);
/// More than one order takes.
const ORDER: Duration = Duration::from_secs(120);

/// A running server.
#[derive(Debug)]
pub struct Session(Console);

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Time of an operation: the median of the rounds, nanoseconds.
    pub ns: f64,
    /// The same, of the shortest round: what other work on the host disturbs least.
    pub least_ns: f64,
    /// The same, of all rounds together.
    pub mean_ns: f64,
    /// How many rounds there were.
    pub rounds: u64,
    /// What was computed.
    pub checksum: u32,
    /// Time of the whole order by the clock of the guest, and by that of the host.
    pub elapsed: (Duration, Duration),
}

impl Session {
    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it does not come up.
    pub fn start(command: Command) -> Result<Self, CompareError> {
        let mut console = Console::start(command)?;
        console.expect("READY", START)?;
        Ok(Self(console))
    }

    /// Carries out rounds of `work` for `time`, and at least three.
    ///
    /// # Errors
    ///
    /// When the server fails or falls silent.
    pub fn order(&mut self, work: &Work, time: Duration) -> Result<Outcome, CompareError> {
        let name = work.name;
        self.0
            .send(&format!("{name} {} {}\n", work.round, time.as_millis()))?;
        self.0.expect(&format!("BEGIN {name}"), ORDER)?;
        let start = Instant::now();
        self.0.expect(&format!("END {name} "), ORDER)?;
        let host = start.elapsed();
        let line = self.0.expect("\n", ORDER)?;
        parse(&line, work, host).ok_or(CompareError::NoResult(line))
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn end(mut self) -> Result<(), CompareError> {
        self.0.send("end\n")?;
        self.0.finish(START)?;
        Ok(())
    }
}

/// `ROUNDS LEAST MEDIAN TOTAL ELAPSED CHECKSUM`.
fn parse(line: &str, work: &Work, host: Duration) -> Option<Outcome> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [rounds, least, median, total, elapsed, checksum] = words[..] else {
        return None;
    };
    let rounds: u64 = rounds.parse().ok().filter(|&rounds| rounds > 0)?;
    let operations = work.round as f64;
    Some(Outcome {
        ns: median.parse::<u64>().ok()? as f64 / operations,
        least_ns: least.parse::<u64>().ok()? as f64 / operations,
        mean_ns: total.parse::<u64>().ok()? as f64 / (operations * rounds as f64),
        rounds,
        checksum: u32::from_str_radix(checksum, 16).ok()?,
        elapsed: (Duration::from_nanos(elapsed.parse().ok()?), host),
    })
}

impl Outcome {
    /// By how much the guest's clock and the host's disagree, as a part of the host's, less what the
    /// serial port and a timer tick may take.
    #[must_use]
    pub fn clock_error(&self) -> f64 {
        let (guest, host) = self.elapsed;
        let difference = guest.abs_diff(host).saturating_sub(SLACK);
        difference.as_secs_f64() / host.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// What passes between a line printed and a line seen.
const SLACK: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::PROGRAMS;

    #[test]
    fn a_result_is_read() {
        let work = &PROGRAMS[0];
        let host = Duration::from_millis(1000);
        let round = work.round;
        let line = format!(
            " 10 {} {} {} 900000000 0000abcd\r",
            round * 6,
            round * 7,
            round * 80
        );
        let outcome = parse(&line, work, host).expect("a result");
        assert_eq!(
            (outcome.least_ns, outcome.ns, outcome.mean_ns),
            (6.0, 7.0, 8.0)
        );
        assert_eq!((outcome.rounds, outcome.checksum), (10, 0xABCD));
        assert!((outcome.clock_error() - 0.075).abs() < 1e-9);
        assert_eq!(parse("0 1 1 1 1 0", work, host), None);
        assert_eq!(parse("1 1 1 1 1", work, host), None);
    }
}
