//! A reader of timelines in the JSON form of the Trace Event Format, as strict as those that
//! timelines are written for: the format's document, and where it leaves something open Perfetto's
//! trace processor (`docs/getting-started/other-formats.md` and its importer), which drops what it
//! cannot use and only counts it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A process and a thread: a track.
pub type TrackId = (u32, u32);

/// What a timeline shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The names of processes.
    pub processes: BTreeMap<u32, String>,
    /// What is on each track.
    pub tracks: BTreeMap<TrackId, Track>,
    /// Events without a length: time and name.
    pub instants: Vec<(u64, String)>,
}

/// One track.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Its name.
    pub name: Option<String>,
    /// Its slices by time, outer ones before inner ones.
    pub slices: Vec<Slice>,
}

/// One slice. Times are in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// What it is called.
    pub name: String,
    /// When it starts.
    pub start: u64,
    /// When it ends.
    pub end: u64,
    /// What else it says.
    pub args: Map<String, Value>,
}

/// Reads a timeline.
///
/// # Errors
///
/// What in it is against the format, or would be dropped.
pub fn read(text: &str) -> Result<Timeline, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    // The format's other form is the array alone.
    let events = match &value {
        Value::Array(events) => events,
        Value::Object(top) => {
            if !matches!(top.get("displayTimeUnit"), None | Some(Value::String(_))) {
                return Err("displayTimeUnit is no text".to_owned());
            }
            if let Some(unit) = top.get("displayTimeUnit")
                && unit != "ms"
                && unit != "ns"
            {
                return Err(format!("displayTimeUnit is {unit}"));
            }
            let events = top.get("traceEvents").and_then(Value::as_array);
            events.ok_or("traceEvents is no array")?
        }
        _ => return Err("neither an object nor an array".to_owned()),
    };
    let mut timeline = Timeline::default();
    for event in events {
        add(&mut timeline, event).map_err(|error| format!("{error}: {event}"))?;
    }
    for (id, track) in &mut timeline.tracks {
        let slices = &mut track.slices;
        slices.sort_by_key(|slice| (slice.start, std::cmp::Reverse(slice.end)));
        nested(slices).map_err(|error| format!("track {id:?}: {error}"))?;
        if track.name.is_none() {
            return Err(format!("track {id:?} has no name"));
        }
    }
    Ok(timeline)
}

fn add(timeline: &mut Timeline, event: &Value) -> Result<(), String> {
    let fields = event.as_object().ok_or("an event is no object")?;
    let text = |name: &str| {
        let value = fields.get(name).and_then(Value::as_str);
        value.ok_or_else(|| format!("{name} is no text"))
    };
    let number = |name: &str| {
        let value = fields.get(name).and_then(Value::as_u64);
        let value = value.and_then(|value| u32::try_from(value).ok());
        value.ok_or_else(|| format!("{name} is no number of 32 bits"))
    };
    let time = |name: &str| {
        let value = fields.get(name).and_then(Value::as_f64);
        let value = value.filter(|value| *value >= 0.0 && value.is_finite());
        // As the trace processor does: what is behind the nanoseconds is cut off.
        value
            .map(|microseconds| (microseconds * 1000.0) as u64)
            .ok_or_else(|| format!("{name} is no time"))
    };
    let args = match fields.get("args") {
        None => Map::new(),
        Some(Value::Object(args)) => args.clone(),
        Some(_) => return Err("args is no object".to_owned()),
    };
    if fields.get("cat").is_some_and(|cat| !cat.is_string()) {
        return Err("cat is no text".to_owned());
    }
    let (pid, tid) = (number("pid")?, number("tid")?);
    if pid == 0 || tid == 0 {
        return Err("0 is the idle thread".to_owned());
    }
    let name = text("name")?.to_owned();
    match text("ph")? {
        // The only ones that need no time.
        "M" => {
            let argument = |what: &str| {
                let value = args.get(what).and_then(Value::as_str);
                let value = value.filter(|value| !value.is_empty());
                value
                    .map(str::to_owned)
                    .ok_or_else(|| format!("args has no {what}"))
            };
            match name.as_str() {
                "process_name" => {
                    timeline.processes.insert(pid, argument("name")?);
                }
                "thread_name" => {
                    let track = timeline.tracks.entry((pid, tid)).or_default();
                    track.name = Some(argument("name")?);
                }
                other => return Err(format!("metadata {other} is not for this")),
            }
        }
        "X" => {
            let start = time("ts")?;
            let end = start + time("dur")?;
            let track = timeline.tracks.entry((pid, tid)).or_default();
            track.slices.push(Slice {
                name,
                start,
                end,
                args,
            });
        }
        "i" => {
            if !["g", "p", "t"].contains(&text("s")?) {
                return Err("a scope that does not exist".to_owned());
            }
            timeline.instants.push((time("ts")?, name));
        }
        other => return Err(format!("phase {other} is not for this")),
    }
    Ok(())
}

/// Slices of a track lie one in another or one after another.
fn nested(slices: &[Slice]) -> Result<(), String> {
    let mut open: Vec<&Slice> = Vec::new();
    for slice in slices {
        while open.last().is_some_and(|outer| outer.end <= slice.start) {
            open.pop();
        }
        if let Some(outer) = open.last()
            && slice.end > outer.end
        {
            return Err(format!("{slice:?} begins in {outer:?} and ends behind it"));
        }
        open.push(slice);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(events: &str) -> Result<Timeline, String> {
        const NAME: &str =
            r#"{"ph":"M","pid":1,"tid":1,"name":"thread_name","args":{"name":"vCPU 0"}}"#;
        read(&format!(
            r#"{{"displayTimeUnit":"ns","traceEvents":[{NAME},{events}]}}"#
        ))
    }

    fn slice(ts: f64, dur: f64) -> String {
        format!(r#"{{"ph":"X","pid":1,"tid":1,"name":"s","ts":{ts},"dur":{dur}}}"#)
    }

    #[test]
    fn slices_may_nest_and_follow_and_not_overlap() {
        let (outer, inner, next) = (slice(1.0, 2.0), slice(1.5, 1.5), slice(3.0, 1.0));
        let found = timeline(&format!("{next},{inner},{outer}")).expect("right");
        let times: Vec<_> = found.tracks[&(1, 1)]
            .slices
            .iter()
            .map(|slice| (slice.start, slice.end))
            .collect();
        assert_eq!(times, [(1000, 3000), (1500, 3000), (3000, 4000)]);
        let error = timeline(&format!("{outer},{}", slice(2.0, 2.0))).expect_err("an overlap");
        assert!(error.contains("ends behind it"), "{error}");
        // 1.001 us are 1000 ns to a reader that cuts off.
        let error = timeline(&format!("{},{}", slice(0.5, 0.501), slice(1.001, 1.0)));
        error.expect_err("an overlap of a nanosecond");
    }

    #[test]
    fn what_readers_drop_is_an_error() {
        for event in [
            r#"{"ph":"X","pid":1,"tid":1,"name":"s","ts":1}"#,
            r#"{"ph":"X","pid":1,"tid":1,"name":"s","dur":1}"#,
            r#"{"ph":"X","pid":1,"tid":1,"name":"s","ts":-1,"dur":1}"#,
            r#"{"ph":"X","pid":1,"tid":0,"name":"s","ts":1,"dur":1}"#,
            r#"{"ph":"X","pid":1,"tid":1,"name":"s","ts":1,"dur":1,"args":[]}"#,
            r#"{"ph":"X","pid":1,"tid":2,"name":"s","ts":1,"dur":1}"#, // no name
            r#"{"ph":"X","tid":1,"name":"s","ts":1,"dur":1}"#,
            r#"{"pid":1,"tid":1,"name":"s","ts":1,"dur":1}"#,
            r#"{"ph":"i","pid":1,"tid":1,"name":"s","ts":1,"s":"x"}"#,
            r#"{"ph":"M","pid":1,"tid":1,"name":"thread_name","args":{}}"#,
            "1",
        ] {
            timeline(event).expect_err(event);
        }
        for text in [
            "",
            "1",
            "{}",
            r#"{"traceEvents":1}"#,
            r#"{"traceEvents":[],"displayTimeUnit":"s"}"#,
        ] {
            read(text).expect_err(text);
        }
    }
}
