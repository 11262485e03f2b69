//! A trace in the formats of other programs.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use decision::{Engine, Reasons, Stay, SwitchRecord};
use serde::Serialize;
use serde_json::json;

use super::reader::{Item, TraceReader};

/// A format to export to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for each switch
    Csv,
    /// A timeline for ui.perfetto.dev or chrome://tracing: a track for each vCPU, a slice for each
    /// stay in an engine
    Perfetto,
}

/// An export that failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// the output cannot be written
    #[error("the output cannot be written")]
    Write(#[from] io::Error),
    /// a line of CSV cannot be written
    #[error("the output cannot be written")]
    Csv(#[from] csv::Error),
}

impl From<serde_json::Error> for ExportError {
    fn from(error: serde_json::Error) -> Self {
        ExportError::Write(error.into())
    }
}

/// Writes everything that the trace has.
///
/// # Errors
///
/// The output cannot be written.
pub fn export<R: Read>(
    reader: &mut TraceReader<R>,
    format: Format,
    output: impl Write,
) -> Result<(), ExportError> {
    match format {
        Format::Csv => to_csv(reader, output),
        Format::Perfetto => to_perfetto(reader, output),
    }
}

/// A line. Reasons are names joined by `|`, and `-` if there are none.
#[derive(Debug, Serialize)]
struct Line {
    time_ns: u64,
    vcpu: u16,
    from: &'static str,
    to: &'static str,
    exit: &'static str,
    reasons: String,
    run_ns: u64,
    halted_ns: u64,
    runs: u32,
    instructions: Option<u64>,
    stay_reasons: String,
    cs: String,
    eip: String,
    cpl: u8,
    eflags: String,
    cr3: String,
}

fn to_csv<R: Read>(reader: &mut TraceReader<R>, output: impl Write) -> Result<(), ExportError> {
    let mut writer = csv::Writer::from_writer(output);
    for item in reader {
        let Item::Switch(record) = item else {
            continue; // a line has no place for it; the reader's caller tells
        };
        writer.serialize(Line {
            time_ns: record.time_ns,
            vcpu: record.vcpu,
            from: record.from.name(),
            to: record.to.name(),
            exit: record.exit.name(),
            reasons: record.reasons.to_string(),
            run_ns: record.stay.run_ns,
            halted_ns: record.stay.halted_ns,
            runs: record.stay.runs,
            instructions: record.stay.instructions,
            stay_reasons: record.stay.reasons.to_string(),
            cs: format!("{:#06x}", record.cs),
            eip: format!("{:#010x}", record.eip),
            cpl: record.cpl,
            eflags: format!("{:#010x}", record.eflags),
            cr3: format!("{:#010x}", record.cr3),
        })?;
    }
    writer.flush()?;
    Ok(())
}

/// The events of the JSON form of the Trace Event Format (the Chromium project's document of that
/// name), which Perfetto reads as well: `M` names a track, `X` is a slice, `i` an instant.
struct Events<W> {
    output: W,
    first: bool,
}

/// All events are of one process.
const PROCESS: u32 = 1;

impl<W: Write> Events<W> {
    fn start(mut output: W) -> io::Result<Self> {
        output.write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n")?;
        Ok(Self {
            output,
            first: true,
        })
    }

    fn event(&mut self, event: &serde_json::Value) -> Result<(), ExportError> {
        if !std::mem::take(&mut self.first) {
            self.output.write_all(b",\n")?;
        }
        serde_json::to_writer(&mut self.output, event)?;
        Ok(())
    }

    fn name(&mut self, what: &str, vcpu: u16, name: &str) -> Result<(), ExportError> {
        self.event(&json!({
            "ph": "M", "pid": PROCESS, "tid": thread(vcpu), "name": what, "args": { "name": name },
        }))
    }

    /// A stay as a slice.
    fn stay(
        &mut self,
        vcpu: u16,
        began_ns: u64,
        ended_ns: u64,
        engine: Engine,
        args: &serde_json::Value,
    ) -> Result<(), ExportError> {
        self.event(&json!({
            "ph": "X",
            "pid": PROCESS,
            "tid": thread(vcpu),
            "name": engine.name(),
            "cat": "stay",
            "ts": timestamp(began_ns),
            "dur": timestamp(ended_ns.saturating_sub(began_ns)),
            "args": args,
        }))
    }

    fn finish(mut self) -> Result<(), ExportError> {
        self.output.write_all(b"\n]}\n")?;
        self.output.flush()?;
        Ok(())
    }
}

/// The thread of a vCPU. Perfetto takes a thread 0 for the idle thread, and mixes it up with others.
const fn thread(vcpu: u16) -> u32 {
    vcpu as u32 + 1
}

/// A time or a length in the format's unit, microseconds. Readers multiply by 1000 and cut off what is
/// behind the point, so that 1.001 would become 1000 nanoseconds, and a slice begin before the one
/// in front of it has ended: a quarter of a nanosecond more makes them get the number that is meant.
fn timestamp(ns: u64) -> f64 {
    (ns as f64 + 0.25) / 1000.0
}

/// For people to read.
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// What a slice says of its stay. `before` is the switch that began it.
fn arguments(stay: &Stay, before: Option<&SwitchRecord>, ended_by: &str) -> serde_json::Value {
    let began = before.map_or(Reasons::empty(), |record| record.reasons);
    let mut args = json!({
        "began because of": began.to_string(),
        "reasons met": stay.reasons.to_string(),
        "ended by": ended_by,
        "runs": stay.runs,
        "ran us": microseconds(stay.run_ns),
        "halted us": microseconds(stay.halted_ns),
    });
    if let Some(record) = before {
        args["at"] = json!(format!("{:04x}:{:08x}", record.cs, record.eip));
        args["cr3"] = json!(format!("{:#010x}", record.cr3));
    }
    if let Some(count) = stay.instructions {
        args["instructions"] = json!(count);
    }
    args
}

fn to_perfetto<R: Read>(
    reader: &mut TraceReader<R>,
    output: impl Write,
) -> Result<(), ExportError> {
    let header = reader.header().clone();
    let mut events = Events::start(io::BufWriter::new(output))?;
    events.name("process_name", 0, &format!("ringshift ({})", header.policy))?;
    for vcpu in 0..header.vcpus.max(1) {
        events.name("thread_name", vcpu, &format!("vCPU {vcpu}"))?;
    }
    let mut last: HashMap<u16, SwitchRecord> = HashMap::new();
    for item in &mut *reader {
        match item {
            Item::Switch(record) => {
                let before = last.insert(record.vcpu, record);
                let began = before.map_or(0, |before| before.time_ns);
                let args = arguments(&record.stay, before.as_ref(), record.exit.name());
                events.stay(record.vcpu, began, record.time_ns, record.from, &args)?;
            }
            Item::Loss { time_ns, count } => events.event(&json!({
                "ph": "i",
                "s": "g",
                "pid": PROCESS,
                "tid": thread(0),
                "name": format!("{count} switches lost"),
                "cat": "loss",
                "ts": timestamp(time_ns),
            }))?,
        }
    }
    if let Some(end) = reader.end() {
        for (vcpu, rest) in (0..).zip(&end.last) {
            if let Some(engine) = rest.engine {
                let before = last.get(&vcpu);
                let began = before.map_or(0, |before| before.time_ns);
                let args = arguments(&rest.stay, before, &end.ending);
                events.stay(vcpu, began, end.total_ns, engine, &args)?;
            }
        }
    }
    events.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::format::tests::record;
    use crate::trace::format::{self, End, EndOfVcpu, Header};

    fn exported(format: Format) -> String {
        let mut bytes = format::start(&Header {
            policy: "ring".into(),
            vcpus: 1,
            ..Header::default()
        })
        .expect("plain data");
        for (to, time) in [
            (Engine::Direct, 1_500),
            (Engine::Translator, 2_750),
            (Engine::Direct, 3_000),
        ] {
            let record = SwitchRecord {
                vcpu: 0,
                ..record(to, time)
            };
            bytes.extend(format::bytes(&format::encode(&record)));
        }
        bytes.extend(format::bytes(&format::loss(3_500, 7)));
        let last = EndOfVcpu {
            engine: Some(Engine::Direct),
            stay: Stay::default(),
        };
        let end = End {
            ending: "power off".into(),
            total_ns: 5_000,
            last: vec![last],
            ..End::default()
        };
        bytes.extend(format::end(&end).expect("plain data"));
        let mut reader = TraceReader::new(&bytes[..]).expect("a trace");
        let mut output = Vec::new();
        export(&mut reader, format, &mut output).expect("a vector takes everything");
        String::from_utf8(output).expect("text")
    }

    #[test]
    fn csv_has_a_line_for_each_switch() {
        let text = exported(Format::Csv);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("time_ns,vcpu,from,to,exit,reasons,"));
        assert_eq!(
            lines[1],
            "1500,0,translator,direct,system_call,-,900,17,3,1234,INTERRUPTS_OFF|NOT_RING_3,\
             0x0073,0xb7f01234,3,0x00000246,0x01234000"
        );
        assert!(lines[2].starts_with("2750,0,direct,translator,system_call,REPLAY,900,17,3,,-,"));
    }

    /// As Perfetto reads a number of microseconds.
    fn nanoseconds(value: &serde_json::Value) -> u64 {
        (value.as_f64().expect("a number") * 1000.0) as u64
    }

    #[test]
    fn times_survive_a_reader_that_cuts_them_off() {
        // Up to four days.
        for ns in (0..10_000).chain((0..400_000).map(|number| number * 864_000_007)) {
            assert_eq!(nanoseconds(&json!(timestamp(ns))), ns);
        }
    }

    #[test]
    fn the_timeline_has_a_slice_for_each_stay_without_gaps() {
        let json: serde_json::Value =
            serde_json::from_str(&exported(Format::Perfetto)).expect("JSON");
        let events = json["traceEvents"].as_array().expect("events");
        let named: Vec<_> = events.iter().filter(|event| event["ph"] == "M").collect();
        assert_eq!(named[1]["args"]["name"], "vCPU 0");
        let slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        let shape: Vec<_> = slices
            .iter()
            .map(|slice| {
                (
                    slice["name"].as_str().expect("a name"),
                    nanoseconds(&slice["ts"]),
                    nanoseconds(&slice["dur"]),
                )
            })
            .collect();
        assert_eq!(
            shape,
            [
                ("translator", 0, 1_500),
                ("direct", 1_500, 1_250),
                ("translator", 2_750, 250),
                ("direct", 3_000, 2_000),
            ]
        );
        assert_eq!(slices[2]["args"]["began because of"], "REPLAY");
        assert_eq!(
            slices[2]["args"]["reasons met"],
            "INTERRUPTS_OFF|NOT_RING_3"
        );
        assert_eq!(slices[3]["args"]["ended by"], "power off");
    }

    /// The document's rules for each phase that is used.
    #[test]
    fn every_event_has_the_fields_of_its_phase_and_no_others() {
        let json: serde_json::Value =
            serde_json::from_str(&exported(Format::Perfetto)).expect("JSON");
        let mut top: Vec<&String> = json.as_object().expect("an object").keys().collect();
        top.sort();
        assert_eq!(top, ["displayTimeUnit", "traceEvents"]);
        assert_eq!(json["displayTimeUnit"], "ns", "that, or ms");
        let events = json["traceEvents"].as_array().expect("an array");
        for event in events {
            let fields = event.as_object().expect("an object");
            let phase = event["ph"].as_str().expect("a phase");
            let expected: &[&str] = match phase {
                "M" => &["args", "name", "ph", "pid", "tid"],
                "X" => &["args", "cat", "dur", "name", "ph", "pid", "tid", "ts"],
                "i" => &["cat", "name", "ph", "pid", "s", "tid", "ts"],
                other => panic!("an unknown phase: {other}"),
            };
            let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{event}");
            assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()));
            for number in ["pid", "tid"] {
                assert!(event[number].as_u64() > Some(0), "{event}");
            }
            for time in ["ts", "dur"] {
                let value = fields.get(time);
                assert!(
                    value.is_none_or(|value| value.as_f64() >= Some(0.0)),
                    "{event}"
                );
            }
            match phase {
                "M" => {
                    let what = event["name"].as_str().expect("a name");
                    assert!(["process_name", "thread_name"].contains(&what), "{event}");
                    assert!(event["args"]["name"].is_string(), "{event}");
                }
                "i" => assert_eq!(event["s"], "g", "global; p and t are the others"),
                _ => assert!(event["args"].is_object(), "{event}"),
            }
        }
        let phases = |phase| events.iter().filter(|event| event["ph"] == phase).count();
        assert_eq!((phases("M"), phases("X"), phases("i")), (2, 4, 1));
    }
}
