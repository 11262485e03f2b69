//! Where a run has spent its time: the translator's profile with names, and the map file that `perf`
//! reads for code made at run time.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use translator::{Profile, UnitPlace, Vcpu};

use crate::trace::Symbols;

/// Version of the JSON form; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// A place in the guest's code, with samples or events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// How many.
    pub count: u64,
    /// What happened there, if the list has more than one kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Offset in CS.
    pub eip: u32,
    /// Privilege level, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpl: Option<u8>,
    /// The symbol at or before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// Guest-linear address of the page that a fault was at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
}

/// A profile in the order to be read: what costs most first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfileReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Samples of the processor time of the vCPU's thread.
    pub samples: u64,
    /// Samples lost.
    pub lost: u64,
    /// Samples in translated code.
    pub translated: u64,
    /// Samples elsewhere, by what was done there.
    pub work: BTreeMap<&'static str, u64>,
    /// Samples by symbol, where there are symbols.
    pub symbols: Vec<(String, u64)>,
    /// Samples by unit.
    pub units: Vec<Line>,
    /// Samples in translated code by instruction.
    pub instructions: Vec<Line>,
    /// Samples in the runtime by the instruction that led there.
    pub work_by_instruction: Vec<Line>,
    /// Instructions carried out in Rust, by kind.
    pub callouts: BTreeMap<&'static str, u64>,
    /// The same by kind and place.
    pub callouts_by_place: Vec<Line>,
    /// Host faults by cause.
    pub faults: BTreeMap<&'static str, u64>,
    /// The same by cause, place and page.
    pub faults_by_place: Vec<Line>,
    /// Events at places beyond those that are told apart.
    pub elsewhere: u64,
}

/// The lines with the highest counts, `top` of them.
fn hottest(lines: impl Iterator<Item = Line>, top: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = lines.collect();
    // Stable: places of the same count stay in their order.
    lines.sort_by_key(|line| std::cmp::Reverse(line.count));
    lines.truncate(top);
    lines
}

fn add_up<K: Ord>(counts: impl Iterator<Item = (K, u64)>) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for (key, count) in counts {
        *sums.entry(key).or_default() += count;
    }
    sums
}

impl ProfileReport {
    /// The `top` places of each list of `profile`, with names from `symbols` for addresses of the
    /// kernel (privilege levels 0 to 2).
    #[must_use]
    pub fn new(profile: &Profile, symbols: &Symbols, top: usize) -> Self {
        let named = |eip: u32, cpl: Option<u8>| match cpl {
            Some(3) => None,
            _ => symbols.name(eip),
        };
        let line = |count, kind, eip, cpl, page| Line {
            count,
            kind,
            eip,
            cpl,
            symbol: named(eip, cpl),
            page,
        };
        let samples_at = || {
            profile.units.iter().flat_map(|(unit, instructions)| {
                instructions
                    .iter()
                    .map(|(eip, count)| (*eip, unit.cpl, *count))
            })
        };
        let function = |eip, cpl| {
            let name = named(eip, Some(cpl))?;
            Some(name.split('+').next().unwrap_or_default().to_owned())
        };
        let functions =
            add_up(samples_at().filter_map(|(eip, cpl, n)| Some((function(eip, cpl)?, n))));
        let mut functions: Vec<(String, u64)> = functions.into_iter().collect();
        functions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        functions.truncate(top);
        let instructions = add_up(samples_at().map(|(eip, cpl, n)| ((eip, cpl), n)));
        let units = profile.units.iter().map(|(unit, instructions)| {
            line(
                instructions.values().sum(),
                None,
                unit.eip,
                Some(unit.cpl),
                None,
            )
        });
        let work_places = profile.work_places.iter();
        let callouts = profile.callouts.iter();
        let faults = profile.faults.iter();
        Self {
            schema: SCHEMA,
            samples: profile.samples,
            lost: profile.lost,
            translated: samples_at().map(|(_, _, n)| n).sum::<u64>() + profile.stubs,
            work: add_up(profile.work.iter().map(|(work, n)| (work.name(), *n))),
            symbols: functions,
            units: hottest(units, top),
            instructions: hottest(
                instructions
                    .into_iter()
                    .map(|((eip, cpl), n)| line(n, None, eip, Some(cpl), None)),
                top,
            ),
            work_by_instruction: hottest(
                work_places.map(|((work, eip), n)| line(*n, Some(work.name()), *eip, None, None)),
                top,
            ),
            callouts: add_up(callouts.clone().map(|((kind, ..), n)| (kind.name(), *n))),
            callouts_by_place: hottest(
                callouts.map(|((kind, eip, cpl), n)| {
                    line(*n, Some(kind.name()), *eip, Some(*cpl), None)
                }),
                top,
            ),
            faults: add_up(faults.clone().map(|(place, n)| (place.cause.name(), *n))),
            faults_by_place: hottest(
                faults.map(|(place, n)| {
                    line(
                        *n,
                        Some(place.cause.name()),
                        place.eip,
                        Some(place.cpl),
                        place.page,
                    )
                }),
                top,
            ),
            elsewhere: profile.elsewhere,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10}", self.count)?;
        if let Some(kind) = self.kind {
            write!(f, "  {kind:<14}")?;
        }
        write!(f, "  {:08x}", self.eip)?;
        if let Some(cpl) = self.cpl {
            write!(f, " ring {cpl}")?;
        }
        if let Some(symbol) = &self.symbol {
            write!(f, "  {symbol}")?;
        }
        if let Some(page) = self.page {
            write!(f, "  at {page:08x}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ProfileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |count: u64| count as f64 * 100.0 / self.samples.max(1) as f64;
        writeln!(
            f,
            "{} samples of the vCPU's thread ({} lost): {:.1} % in translated code",
            self.samples,
            self.lost,
            percent(self.translated)
        )?;
        for (work, count) in &self.work {
            writeln!(f, "{count:>10}  {:>5.1} %  {work}", percent(*count))?;
        }
        if !self.symbols.is_empty() {
            writeln!(f, "\nsamples by symbol")?;
        }
        for (name, count) in &self.symbols {
            writeln!(f, "{count:>10}  {:>5.1} %  {name}", percent(*count))?;
        }
        let sums = [
            ("callouts", &self.callouts),
            ("host faults by cause", &self.faults),
        ];
        for (title, counts) in sums.iter().filter(|(_, counts)| !counts.is_empty()) {
            writeln!(f, "\n{title}")?;
            for (name, count) in *counts {
                writeln!(f, "{count:>10}  {name}")?;
            }
        }
        let lists = [
            ("samples by unit", &self.units),
            ("samples by instruction", &self.instructions),
            (
                "samples in the runtime, by instruction",
                &self.work_by_instruction,
            ),
            ("callouts by place", &self.callouts_by_place),
            ("host faults by place and page", &self.faults_by_place),
        ];
        for (title, lines) in lists.iter().filter(|(_, lines)| !lines.is_empty()) {
            writeln!(f, "\n{title}")?;
            for line in *lines {
                writeln!(f, "{line}")?;
            }
        }
        if self.elsewhere > 0 {
            writeln!(f, "\n{} events at other places", self.elsewhere)?;
        }
        Ok(())
    }
}

/// Writes the units that are in the cache in the format that `perf report` reads from
/// `/tmp/perf-PID.map`: address, size and name, a line each.
///
/// # Errors
///
/// Those of `out`.
pub fn write_perf_map(vcpu: &Vcpu, symbols: &Symbols, out: &mut impl Write) -> io::Result<()> {
    for (address, size, unit) in vcpu.units() {
        writeln!(out, "{address:x} {size:x} {}", unit_name(unit, symbols))?;
    }
    out.flush()
}

fn unit_name(unit: UnitPlace, symbols: &Symbols) -> String {
    let UnitPlace { eip, cpl } = unit;
    match symbols.name(eip).filter(|_| cpl != 3) {
        Some(name) => format!("guest:{name}"),
        None => format!("guest:{eip:08x} ring {cpl}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use translator::{CalloutKind, FaultCause, FaultPlace, Work};

    fn profile() -> Profile {
        let unit = |eip, cpl| UnitPlace { eip, cpl };
        Profile {
            samples: 100,
            units: [
                (
                    unit(0xC000_0010, 0),
                    [(0xC000_0010, 5), (0xC000_0014, 25)].into(),
                ),
                (unit(0x8048_0000, 3), [(0x8048_0004, 40)].into()),
                (unit(0xC000_0020, 0), [(0xC000_0020, 12)].into()),
            ]
            .into(),
            work: [(Work::Fault, 15), (Work::Machine, 3)].into(),
            work_places: [((Work::Fault, 0xC000_0014), 15)].into(),
            callouts: [((CalloutKind::PortIo, 0xC000_0020, 0), 7)].into(),
            faults: [(
                FaultPlace {
                    cause: FaultCause::Hidden,
                    eip: 0xC000_0014,
                    cpl: 0,
                    page: Some(0xD000_1000),
                },
                9,
            )]
            .into(),
            ..Profile::default()
        }
    }

    #[test]
    fn the_hottest_comes_first_and_has_its_name() {
        let symbols = Symbols::parse("c0000000 T first\nc0000020 T second\n").expect("symbols");
        let report = ProfileReport::new(&profile(), &symbols, 10);
        assert_eq!(report.translated, 82);
        assert_eq!(
            report.symbols,
            [("first".to_owned(), 30), ("second".to_owned(), 12)]
        );
        assert_eq!(report.units[0].eip, 0x8048_0000);
        assert_eq!(
            report.units[0].symbol, None,
            "kernel symbols name no program"
        );
        assert_eq!(report.units[1].symbol.as_deref(), Some("first+0x10"));
        let text = report.to_string();
        for line in [
            "100 samples of the vCPU's thread (0 lost): 82.0 % in translated code",
            "        25  c0000014 ring 0  first+0x14",
            "         9  hidden          c0000014 ring 0  first+0x14  at d0001000",
            "         7  port-io         c0000020 ring 0  second",
            "        15   15.0 %  fault",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert_eq!(ProfileReport::new(&profile(), &symbols, 1).units.len(), 1);
    }
}
