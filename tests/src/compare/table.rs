//! The results as a table: for the terminal, for the README, for programs.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{Outcome, Work, median};

/// One run of one kind of work: nanoseconds for an operation.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Times {
    /// On the host itself.
    pub native: Option<f64>,
    /// In Ringshift.
    pub ringshift: f64,
    /// In QEMU TCG.
    pub qemu: Option<f64>,
}

/// A part or multiple, and what it should be at least.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of the ratios of each run.
    pub median: f64,
    /// What is asked for.
    pub bar: Option<f64>,
}

impl Ratio {
    /// It is what it should be.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.bar.is_none_or(|bar| self.median >= bar)
    }
}

/// All runs of one kind of work.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its group.
    pub group: &'static str,
    /// Its name.
    pub work: &'static str,
    /// What one operation is.
    pub operation: &'static str,
    /// Medians.
    pub times: Times,
    /// Speed in Ringshift as a part of the native speed.
    pub of_native: Option<Ratio>,
    /// Speed in Ringshift as a multiple of QEMU's.
    pub times_qemu: Option<Ratio>,
    /// All results that were compared are the same.
    pub agree: bool,
    /// The largest part by which the clock of a guest was wrong, less the time of a tick.
    pub clock_error: f64,
    /// Each run.
    pub runs: Vec<Times>,
}

impl Row {
    /// The medians of `runs`; nothing has been compared yet.
    #[must_use]
    pub fn new(work: &Work, runs: Vec<Times>) -> Self {
        let all =
            |value: fn(&Times) -> Option<f64>| median(runs.iter().filter_map(value).collect());
        let ratio =
            |value: fn(&Times) -> Option<f64>, bar| all(value).map(|median| Ratio { median, bar });
        Self {
            group: work.group.name(),
            work: work.name,
            operation: work.operation,
            times: Times {
                native: all(|run| run.native),
                ringshift: all(|run| Some(run.ringshift)).unwrap_or(f64::NAN),
                qemu: all(|run| run.qemu),
            },
            of_native: ratio(|run| Some(run.native? / run.ringshift), work.bars.of_native),
            times_qemu: ratio(|run| Some(run.qemu? / run.ringshift), work.bars.times_qemu),
            agree: true,
            clock_error: 0.0,
            runs,
        }
    }

    /// Takes note of what the three computed in one run, and of their clocks.
    pub fn compare(&mut self, outcomes: &[Outcome]) {
        self.agree &= outcomes
            .windows(2)
            .all(|pair| pair[0].checksum == pair[1].checksum);
        for outcome in outcomes {
            self.clock_error = self.clock_error.max(outcome.clock_error());
        }
    }

    /// What is wrong with the measurement, if anything is.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if !self.agree {
            return Some(format!("{}: the results differ", self.work));
        }
        (self.clock_error > 0.1).then(|| {
            let percent = self.clock_error * 100.0;
            format!("{}: a guest's clock is wrong by {percent:.0} %", self.work)
        })
    }
}

/// Where the figures come from.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// The processor.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// The command line that measured them.
    pub command: String,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Where.
    pub host: Host,
    /// How often.
    pub runs: usize,
    /// By kind of work.
    pub rows: Vec<Row>,
}

impl Results {
    /// The table of the README.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "| work | native | Ringshift | QEMU TCG | of native (bar) | times QEMU (bar) |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        for row in &self.rows {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.work,
                Nanoseconds(row.times.native),
                Nanoseconds(Some(row.times.ringshift)),
                Nanoseconds(row.times.qemu),
                Shown(row.of_native),
                Shown(row.times_qemu),
            );
        }
        let host = &self.host;
        let _ = write!(
            text,
            "\nTime of one operation; medians of {} runs on {} processors ({}){}. Made by\n`{}`.\n",
            self.runs,
            host.processors,
            host.processor,
            host.qemu
                .as_ref()
                .map(|qemu| format!(", {qemu}"))
                .unwrap_or_default(),
            host.command,
        );
        text
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<24} {:>9} {:>9} {:>9}  {:>13} {:>13}  {}",
            self.work,
            Nanoseconds(self.times.native).to_string(),
            Nanoseconds(Some(self.times.ringshift)).to_string(),
            Nanoseconds(self.times.qemu).to_string(),
            Shown(self.of_native).to_string(),
            Shown(self.times_qemu).to_string(),
            self.operation,
        )
    }
}

/// The heading of the lines that a [`Row`] displays.
pub const HEADING: &str =
    "work                        native Ringshift      QEMU      of native    times QEMU  each";

/// A time with three digits and its unit.
struct Nanoseconds(Option<f64>);

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ns) = self.0 else {
            return f.write_str("-");
        };
        let (value, unit) = match ns {
            ..1e3 => (ns, "ns"),
            ..1e6 => (ns / 1e3, "us"),
            ..1e9 => (ns / 1e6, "ms"),
            _ => (ns / 1e9, "s"),
        };
        let digits = match value {
            ..10.0 => 2,
            ..100.0 => 1,
            _ => 0,
        };
        write!(f, "{value:.digits$} {unit}")
    }
}

struct Shown(Option<Ratio>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("-"),
            Some(Ratio { median, bar: None }) => write!(f, "{median:.2}"),
            Some(
                ratio @ Ratio {
                    median,
                    bar: Some(bar),
                },
            ) => {
                let mark = if ratio.reached() { "" } else { "!" };
                write!(f, "{median:.2} ({bar}){mark}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::PROGRAMS;
    use std::time::Duration;

    fn row() -> Row {
        let run = |native, ringshift, qemu| Times {
            native: Some(native),
            ringshift,
            qemu: Some(qemu),
        };
        let runs = vec![
            run(1.0, 2.0, 6.0),
            run(9.0, 10.0, 40.0),
            run(1.0, 1.25, 500.0),
        ];
        Row::new(&PROGRAMS[0], runs)
    }

    #[test]
    fn ratios_are_of_each_run() {
        let row = row();
        assert_eq!(row.of_native.map(|ratio| ratio.median), Some(0.8));
        assert_eq!(row.times_qemu.map(|ratio| ratio.median), Some(4.0));
        assert_eq!(row.times.ringshift, 2.0);
        assert!(row.of_native.is_some_and(|ratio| ratio.reached()));
    }

    #[test]
    fn differing_results_and_clocks_are_complained_of() {
        let outcome = |checksum, guest| Outcome {
            ns: 1.0,
            least_ns: 1.0,
            mean_ns: 1.0,
            rounds: 3,
            checksum,
            elapsed: (Duration::from_secs(guest), Duration::from_secs(2)),
        };
        let mut row = row();
        row.compare(&[outcome(1, 2), outcome(1, 2)]);
        assert_eq!(row.complaint(), None);
        row.compare(&[outcome(1, 2), outcome(1, 1)]);
        assert!(row.complaint().is_some_and(|text| text.contains("clock")));
        row.compare(&[outcome(1, 2), outcome(2, 2)]);
        assert!(row.complaint().is_some_and(|text| text.contains("differ")));
    }

    #[test]
    fn the_table_shows_what_was_measured() {
        let results = Results {
            host: Host {
                processor: "Some processor".into(),
                processors: 2,
                qemu: Some("QEMU 7.2".into()),
                command: "bench-compare".into(),
            },
            runs: 3,
            rows: vec![row()],
        };
        let text = results.markdown();
        let line = "| integer-mix | 1.00 ns | 2.00 ns | 40.0 ns | 0.80 (0.8) | 4.00 (3.7) |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("medians of 3 runs"), "{text}");
    }
}
