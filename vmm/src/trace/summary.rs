//! What a trace comes to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::Read;

use decision::{Engine, Reasons, SwitchRecord};
use serde::Serialize;

use super::format::{End, Header};
use super::reader::{Item, TraceReader};
use super::symbols::Symbols;

/// Version of the JSON form of [`Summary`].
const SCHEMA: u32 = 1;

/// What an engine did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Work {
    /// Stays: from one switch to the next.
    pub stays: u64,
    /// From switch to switch, halts and the run loop included, nanoseconds.
    pub stay_ns: u64,
    /// Time that the engine ran, nanoseconds.
    pub run_ns: u64,
    /// Runs: exits to the run loop that led back to the same engine divide a stay.
    pub runs: u64,
    /// Guest instructions; `None` if they were not counted.
    pub instructions: Option<u64>,
    /// How long the engine ran in a stay.
    pub stay_lengths: Histogram,
}

/// Counts by powers of two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Histogram {
    /// The buckets that are not empty, in order.
    pub buckets: Vec<Bucket>,
}

/// Values from `from` to below `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Lowest value, nanoseconds.
    pub from: u64,
    /// First value beyond, nanoseconds.
    pub to: u64,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    fn add(&mut self, value: u64) {
        let from = match value {
            0 => 0,
            value => 1 << value.ilog2(),
        };
        match self
            .buckets
            .binary_search_by_key(&from, |bucket| bucket.from)
        {
            Ok(index) => self.buckets[index].count += 1,
            Err(index) => {
                let to = from.saturating_mul(2).max(1);
                self.buckets.insert(index, Bucket { from, to, count: 1 });
            }
        }
    }

    /// The bucket that the middle value is in.
    pub fn median(&self) -> Option<Bucket> {
        let all: u64 = self.buckets.iter().map(|bucket| bucket.count).sum();
        let mut before = 0;
        self.buckets.iter().copied().find(|bucket| {
            before += bucket.count;
            before * 2 >= all
        })
    }
}

/// An address at which the engine is switched often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HotAddress {
    /// CS selector.
    pub cs: u16,
    /// Instruction pointer.
    pub eip: u32,
    /// Symbol, if there are symbols.
    pub symbol: Option<String>,
    /// Switches to direct execution.
    pub to_direct: u64,
    /// Switches to the translator.
    pub to_translator: u64,
    /// What spoke against direct execution in any of these.
    pub reasons: Reasons,
}

/// What a trace comes to.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Version of this structure.
    pub schema: u32,
    /// The header of the file.
    pub header: Header,
    /// The file has its end.
    pub complete: bool,
    /// How the run ended, in words.
    pub ending: Option<String>,
    /// Length of the run, or of the part that the file has, nanoseconds.
    pub total_ns: u64,
    /// Switches in the file.
    pub switches: u64,
    /// Switches that are missing in it.
    pub lost: u64,
    /// Switches for each second.
    pub switches_per_second: f64,
    /// The translator's work.
    pub translator: Work,
    /// Direct execution's work.
    pub direct: Work,
    /// The vCPU slept, nanoseconds.
    pub halted_ns: u64,
    /// Switches to the translator by each of their reasons.
    pub switches_by_reason: BTreeMap<String, u64>,
    /// What kept the vCPU in the translator: its stays by each of the reasons met in them.
    pub stays_by_reason: BTreeMap<String, u64>,
    /// Evaluations that left the translator running, by each of their reasons; empty if the file has
    /// no end.
    pub refusals_by_reason: BTreeMap<String, u64>,
    /// Switches to the translator by the exit that ended direct execution.
    pub switches_by_exit: BTreeMap<String, u64>,
    /// Addresses at which switches happened.
    pub addresses: u64,
    /// Those with most switches.
    pub hottest: Vec<HotAddress>,
}

#[derive(Debug, Default)]
struct Hot {
    to_direct: u64,
    to_translator: u64,
    reasons: Reasons,
}

impl Summary {
    /// Reads a trace to its end. `top` is how many of the hottest addresses to list.
    pub fn read<R: Read>(reader: &mut TraceReader<R>, symbols: &Symbols, top: usize) -> Summary {
        let mut summary = Summary {
            schema: SCHEMA,
            header: reader.header().clone(),
            complete: false,
            ending: None,
            total_ns: 0,
            switches: 0,
            lost: 0,
            switches_per_second: 0.0,
            translator: Work::default(),
            direct: Work::default(),
            halted_ns: 0,
            switches_by_reason: BTreeMap::new(),
            stays_by_reason: BTreeMap::new(),
            refusals_by_reason: BTreeMap::new(),
            switches_by_exit: BTreeMap::new(),
            addresses: 0,
            hottest: Vec::new(),
        };
        let mut addresses = HashMap::new();
        // When the stay of each vCPU began.
        let mut since: HashMap<u16, u64> = HashMap::new();
        for item in &mut *reader {
            match item {
                Item::Switch(record) => {
                    let began = since.insert(record.vcpu, record.time_ns).unwrap_or(0);
                    summary.add(&record, record.time_ns.saturating_sub(began));
                    let hot: &mut Hot = addresses.entry((record.cs, record.eip)).or_default();
                    match record.to {
                        Engine::Direct => hot.to_direct += 1,
                        Engine::Translator => hot.to_translator += 1,
                    }
                    hot.reasons |= record.reasons;
                }
                Item::Loss { count, .. } => summary.lost += count,
            }
        }
        if let Some(end) = reader.end() {
            summary.close(end, &since);
        }
        let seconds = summary.total_ns as f64 / 1e9;
        if seconds > 0.0 {
            summary.switches_per_second = summary.switches as f64 / seconds;
        }
        summary.addresses = addresses.len() as u64;
        summary.hottest = hottest(addresses, symbols, top);
        summary
    }

    fn work(&mut self, engine: Engine) -> &mut Work {
        match engine {
            Engine::Translator => &mut self.translator,
            Engine::Direct => &mut self.direct,
        }
    }

    fn add(&mut self, record: &SwitchRecord, stay_ns: u64) {
        self.switches += 1;
        self.total_ns = self.total_ns.max(record.time_ns);
        self.add_stay(record.from, &record.stay, stay_ns);
        if record.to == Engine::Translator {
            count(&mut self.switches_by_reason, record.reasons);
            *self
                .switches_by_exit
                .entry(record.exit.name().to_owned())
                .or_default() += 1;
        }
    }

    fn add_stay(&mut self, engine: Engine, stay: &decision::Stay, stay_ns: u64) {
        self.halted_ns += stay.halted_ns;
        count(&mut self.stays_by_reason, stay.reasons);
        let work = self.work(engine);
        work.stays += 1;
        work.stay_ns += stay_ns;
        work.run_ns += stay.run_ns;
        work.runs += u64::from(stay.runs);
        if let Some(instructions) = stay.instructions {
            work.instructions = Some(work.instructions.unwrap_or(0) + instructions);
        }
        work.stay_lengths.add(stay.run_ns);
    }

    fn close(&mut self, end: &End, since: &HashMap<u16, u64>) {
        self.complete = true;
        self.ending = Some(end.ending.clone());
        self.total_ns = end.total_ns;
        // Those for which there was no room in the file have no record in it.
        self.lost = end.lost;
        self.refusals_by_reason = end.refusals_by_reason.clone();
        for (vcpu, last) in (0..).zip(&end.last) {
            if let Some(engine) = last.engine {
                let began = since.get(&vcpu).copied().unwrap_or(0);
                self.add_stay(engine, &last.stay, end.total_ns.saturating_sub(began));
            }
        }
    }
}

fn count(counters: &mut BTreeMap<String, u64>, reasons: Reasons) {
    for (name, _) in reasons.iter_names() {
        *counters.entry(name.to_owned()).or_default() += 1;
    }
}

fn hottest(addresses: HashMap<(u16, u32), Hot>, symbols: &Symbols, top: usize) -> Vec<HotAddress> {
    let mut all: Vec<_> = addresses.into_iter().collect();
    all.sort_by_key(|(address, hot)| {
        (
            std::cmp::Reverse(hot.to_direct + hot.to_translator),
            *address,
        )
    });
    let hottest = all.into_iter().take(top);
    hottest
        .map(|((cs, eip), hot)| HotAddress {
            cs,
            eip,
            symbol: symbols.name(eip),
            to_direct: hot.to_direct,
            to_translator: hot.to_translator,
            reasons: hot.reasons,
        })
        .collect()
}

/// A time with its unit.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        writeln!(f, "policy         {}", header.policy)?;
        writeln!(f, "host           {}", header.host_cpu)?;
        let cost = |value: Option<u64>| {
            value.map_or("unknown".to_owned(), |value| {
                format!("{:.2} ns", value as f64 / 1e3)
            })
        };
        writeln!(
            f,
            "costs          an instruction {} direct, {} translated; there and back {}",
            cost(header.costs.direct_ps),
            cost(header.costs.translated_ps),
            header
                .costs
                .round_trip_ns
                .map_or("unknown".to_owned(), time),
        )?;
        let ending = self
            .ending
            .as_deref()
            .unwrap_or("the trace does not say how the run ended");
        writeln!(f, "run            {}, {ending}", time(self.total_ns))?;
        write!(
            f,
            "switches       {}, {:.0} a second, at {} addresses",
            self.switches, self.switches_per_second, self.addresses
        )?;
        match self.lost {
            0 => writeln!(f)?,
            lost => writeln!(f, "; {lost} more are LOST, times and counts are too low")?,
        }
        for (name, work) in [("translator", &self.translator), ("direct", &self.direct)] {
            self.write_work(f, name, work)?;
        }
        let percent = self.halted_ns as f64 * 100.0 / self.total_ns.max(1) as f64;
        writeln!(
            f,
            "halted         {percent:.1} % of the time, {}",
            time(self.halted_ns)
        )?;
        write_counters(f, "to the translator, by reason", &self.switches_by_reason)?;
        write_counters(f, "to the translator, by exit", &self.switches_by_exit)?;
        write_counters(
            f,
            "stays in the translator, by reasons met",
            &self.stays_by_reason,
        )?;
        write_counters(f, "refusals, by reason", &self.refusals_by_reason)?;
        if !self.hottest.is_empty() {
            writeln!(f, "hottest addresses (to direct, to the translator)")?;
        }
        for hot in &self.hottest {
            writeln!(
                f,
                "  {:04x}:{:08x} {:>10} {:>10}  {} {}",
                hot.cs,
                hot.eip,
                hot.to_direct,
                hot.to_translator,
                hot.symbol.as_deref().unwrap_or(""),
                hot.reasons
            )?;
        }
        Ok(())
    }
}

impl Summary {
    fn write_work(&self, f: &mut fmt::Formatter<'_>, name: &str, work: &Work) -> fmt::Result {
        let percent = work.run_ns as f64 * 100.0 / self.total_ns.max(1) as f64;
        write!(
            f,
            "{name:<14} {percent:.1} % of the time, {} in {} stays and {} runs",
            time(work.run_ns),
            work.stays,
            work.runs
        )?;
        if let Some(count) = work.instructions {
            write!(f, ", {count} instructions")?;
        }
        writeln!(f)?;
        let most = work
            .stay_lengths
            .buckets
            .iter()
            .map(|bucket| bucket.count)
            .max();
        for bucket in &work.stay_lengths.buckets {
            const WIDTH: u64 = 40;
            let bar = (bucket.count * WIDTH).div_ceil(most.unwrap_or(1).max(1)) as usize;
            writeln!(
                f,
                "  {:>9} .. {:<9} {:>10}  {}",
                time(bucket.from),
                time(bucket.to),
                bucket.count,
                "#".repeat(bar)
            )?;
        }
        Ok(())
    }
}

fn write_counters(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    counters: &BTreeMap<String, u64>,
) -> fmt::Result {
    if counters.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    let mut sorted: Vec<_> = counters.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (name, count) in sorted {
        writeln!(f, "  {count:>12}  {name}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::format::tests::record;
    use crate::trace::format::{self, EndOfVcpu};
    use decision::Stay;

    fn summary(with_end: bool) -> Summary {
        let mut bytes = format::start(&Header {
            policy: "ring".into(),
            vcpus: 1,
            ..Header::default()
        })
        .expect("plain data");
        for round in 0..100u64 {
            for (to, time, run) in [
                (Engine::Direct, round * 10_000 + 4_000, 900),
                (Engine::Translator, round * 10_000 + 9_000, 4_500),
            ] {
                let mut record = SwitchRecord {
                    vcpu: 0,
                    ..record(to, time)
                };
                record.stay.run_ns = run;
                bytes.extend(format::bytes(&format::encode(&record)));
            }
        }
        let last = EndOfVcpu {
            engine: Some(Engine::Translator),
            stay: Stay {
                runs: 1,
                run_ns: 100,
                ..Stay::default()
            },
        };
        let end = End {
            total_ns: 1_000_000,
            lost: 7,
            refusals_by_reason: [("IOPL".to_owned(), 3)].into(),
            last: vec![last],
            ..End::default()
        };
        if with_end {
            bytes.extend(format::end(&end).expect("plain data"));
        }
        let mut reader = TraceReader::new(&bytes[..]).expect("a trace");
        let symbols = Symbols::parse("b7f01000 t vdso").expect("symbols");
        Summary::read(&mut reader, &symbols, 3)
    }

    #[test]
    fn time_and_work_go_to_the_engine_that_did_them() {
        let summary = summary(true);
        assert!(summary.complete);
        assert_eq!((summary.switches, summary.lost), (200, 7));
        assert_eq!(summary.switches_per_second, 200_000.0);
        let (direct, translator) = (&summary.direct, &summary.translator);
        assert_eq!((direct.stays, direct.run_ns), (100, 450_000));
        assert_eq!(direct.stay_ns, 500_000);
        assert_eq!(direct.instructions, None);
        assert_eq!((translator.stays, translator.run_ns), (101, 90_100));
        assert_eq!(translator.stay_ns + direct.stay_ns, 1_000_000);
        assert_eq!(translator.instructions, Some(123_400));
        assert_eq!(summary.halted_ns, 200 * 17);
        assert_eq!(summary.switches_by_reason["REPLAY"], 100);
        assert_eq!(summary.stays_by_reason["NOT_RING_3"], 100);
        assert_eq!(summary.switches_by_exit["system_call"], 100);
        assert_eq!(summary.refusals_by_reason["IOPL"], 3);
        assert_eq!(
            direct.stay_lengths.buckets,
            [Bucket {
                from: 4096,
                to: 8192,
                count: 100
            }]
        );
        assert_eq!(summary.addresses, 1);
        let hot = &summary.hottest[0];
        assert_eq!(
            (hot.eip, hot.to_direct, hot.to_translator),
            (0xB7F0_1234, 100, 100)
        );
        assert_eq!(hot.symbol.as_deref(), Some("vdso+0x234"));
    }

    #[test]
    fn without_an_end_there_is_what_there_is() {
        let summary = summary(false);
        assert!(!summary.complete);
        assert_eq!((summary.switches, summary.total_ns), (200, 999_000));
        let text = summary.to_string();
        for part in [
            "200, ",
            "45.0 % of the time, 450.0 us in 100 stays",
            "4.1 us .. 8.2 us",
            "100  REPLAY",
            "0073:b7f01234",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_histogram_counts_by_powers_of_two() {
        let mut histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, 7, 1000, u64::MAX] {
            histogram.add(value);
        }
        let found: Vec<_> = histogram
            .buckets
            .iter()
            .map(|b| (b.from, b.count))
            .collect();
        assert_eq!(
            found,
            [(0, 1), (1, 1), (2, 2), (4, 2), (512, 1), (1 << 63, 1)]
        );
        assert_eq!(histogram.median().map(|bucket| bucket.from), Some(2));
        assert_eq!(Histogram::default().median(), None);
    }
}
