//! What a machine reports for a case, and how it differs from what the manual says.

use std::collections::BTreeMap;
use std::fmt;

use super::case::Case;
use super::layout as at;
use super::model::Expected;
use super::{Field, State};

/// What changed in a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Fields that differ from those that the case started with.
    pub fields: BTreeMap<usize, u32>,
    /// Words of the world that differ, by address.
    pub words: BTreeMap<u32, u32>,
    /// The machine did not get to the next case.
    pub stopped: bool,
}

/// A line of a report is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of a report: {0:?}")]
pub struct BadLine(pub String);

/// The outcomes in a report, by the number of the case. Lines before the first are ignored; the
/// last one is END.
///
/// # Errors
///
/// [`BadLine`].
pub fn parse(report: &str) -> Result<Vec<Outcome>, BadLine> {
    let mut outcomes = Vec::new();
    let start = report.find("00000000").unwrap_or(0);
    for line in report[start..].lines().map(str::trim_end) {
        if line == "END" {
            break;
        }
        let (number, outcome) = parse_line(line).ok_or_else(|| BadLine(line.to_owned()))?;
        if number != outcomes.len() {
            return Err(BadLine(line.to_owned()));
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

fn parse_line(line: &str) -> Option<(usize, Outcome)> {
    let mut items = line.split(' ');
    let number = usize::from_str_radix(items.next()?, 16).ok()?;
    let mut outcome = Outcome::default();
    for item in items {
        if let Some(item) = item.strip_prefix('@') {
            let (address, value) = item.split_at_checked(4)?;
            let address = u32::from_str_radix(address, 16).ok()?;
            let value = u32::from_str_radix(value, 16).ok()?;
            outcome.words.insert(address, value);
        } else {
            let (field, value) = item.split_at_checked(2)?;
            let field = usize::from_str_radix(field, 16).ok()?;
            let value = u32::from_str_radix(value, 16).ok()?;
            outcome.fields.insert(field, value);
        }
    }
    Some((number, outcome))
}

/// A value that is not as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The machine did not get to the next case.
    Stopped,
    /// A field.
    Field {
        /// Which.
        field: Field,
        /// By the manual.
        expected: u32,
        /// By the machine.
        found: u32,
    },
    /// A word of the world.
    Word {
        /// Its address.
        address: u32,
        /// By the manual.
        expected: u32,
        /// By the machine.
        found: u32,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Stopped => f.write_str("stopped"),
            Difference::Field {
                field,
                expected,
                found,
            } => write!(f, "{field:?} {found:x} for {expected:x}"),
            Difference::Word {
                address,
                expected,
                found,
            } => write!(f, "[{address:04x}] {found:08x} for {expected:08x}"),
        }
    }
}

impl Outcome {
    /// The value of a field.
    #[must_use]
    pub fn field(&self, start: &State, field: Field) -> u32 {
        let value = self.fields.get(&(field as usize)).copied();
        value.unwrap_or(start[field])
    }

    /// How it differs from what is expected.
    #[must_use]
    pub fn differences(&self, case: &Case, expected: &Expected) -> Vec<Difference> {
        if self.stopped {
            return vec![Difference::Stopped];
        }
        let mut differences = Vec::new();
        for field in Field::ALL {
            if case.undefined.contains(&field) {
                continue;
            }
            let ignored = if field == Field::Eflags {
                case.undefined_flags
            } else {
                0
            };
            let found = self.field(&case.state, field);
            let expected = expected.state[field];
            if (found ^ expected) & !ignored != 0 {
                differences.push(Difference::Field {
                    field,
                    expected,
                    found,
                });
            }
        }
        let start = case.world();
        for address in (at::COMPARED..at::WORLD).step_by(4) {
            if expected.frame.contains(&address) {
                continue;
            }
            let found = self.words.get(&address).copied();
            let found = found.unwrap_or_else(|| start.read(address, 4));
            let expected = expected.memory.read(address, 4);
            let ignored = case.undefined_memory.get(&address).copied();
            if (found ^ expected) & !ignored.unwrap_or(0) != 0 {
                differences.push(Difference::Word {
                    address,
                    expected,
                    found,
                });
            }
        }
        differences
    }
}
