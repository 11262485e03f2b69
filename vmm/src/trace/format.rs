//! The layout of a trace file.
//!
//! ```text
//! offset  bytes
//!      0      8  "RSTRACE\n"
//!      8      4  version of the format
//!     12      4  length of the header, a multiple of 8
//!     16      .  the header: JSON, filled up with spaces
//!      .     64  records, each eight 64-bit words; the highest byte of the last word is the kind:
//!                1 switch, 2 loss (time, count), 3 end (length of the JSON that follows)
//!      .      .  the end: JSON
//! ```
//!
//! All numbers are little-endian. Fields can be added to the JSON parts, and kinds of records (which
//! a reader skips) without a new version.

use std::collections::BTreeMap;

use decision::{
    Engine, EngineCosts, ExitKind, HostSupport, Reasons, Statistics, Stay, SwitchRecord,
};
use serde::{Deserialize, Serialize};

/// The version of the format that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

pub(super) const MAGIC: [u8; 8] = *b"RSTRACE\n";

/// Words of a record.
pub(super) const WORDS: usize = 8;
/// Bytes of a record.
pub(super) const RECORD_BYTES: usize = WORDS * 8;

/// A header longer than this is none.
pub(super) const LONGEST_JSON: u64 = 1 << 20;

/// A record as it lies in the file.
pub(super) type Words = [u64; WORDS];

/// The kinds of records.
pub(super) mod kind {
    pub(in super::super) const SWITCH: u8 = 1;
    pub(in super::super) const LOSS: u8 = 2;
    pub(in super::super) const END: u8 = 3;
}

/// Stands for instructions that were not counted.
const NOT_COUNTED: u64 = u64::MAX;

/// What is known when a run starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Version of the program.
    pub program: String,
    /// Seconds since 1970 in UTC.
    pub started: u64,
    /// How many vCPUs there are.
    pub vcpus: u16,
    /// Memory of the guest, bytes.
    pub memory_bytes: u64,
    /// The policy with its parameters.
    pub policy: String,
    /// Direct execution is there.
    pub direct: bool,
    /// What the engines cost on this host.
    pub costs: EngineCosts,
    /// What the host's KVM was found to run.
    pub support: HostSupport,
    /// The host's processor.
    pub host_cpu: String,
    /// The processor model that the guest is shown.
    pub guest_cpu: String,
}

/// What is known when a run ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// How the run ended, in words.
    pub ending: String,
    /// Length of the run, nanoseconds.
    pub total_ns: u64,
    /// Switches in the file.
    pub written: u64,
    /// Switches that are not in it.
    pub lost: u64,
    /// Decisions made.
    pub evaluations: u64,
    /// Evaluations that found the translator running and left it so, by each of their reasons.
    pub refusals_by_reason: BTreeMap<String, u64>,
    /// Runs by the exit that ended them.
    pub exits: BTreeMap<String, u64>,
    /// The stay of each vCPU that the end of the run cut off.
    pub last: Vec<EndOfVcpu>,
}

/// The stay that the end of the run cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOfVcpu {
    /// The engine; `None` if the vCPU never ran.
    pub engine: Option<Engine>,
    /// The stay.
    pub stay: Stay,
}

impl End {
    /// The end of a run of one vCPU with these counters. The drain thread adds what was written and
    /// lost.
    pub fn new(ending: &str, total_ns: u64, statistics: &Statistics, last: EndOfVcpu) -> End {
        let reasons = statistics.refusals_by_reason.iter();
        End {
            ending: ending.to_owned(),
            total_ns,
            evaluations: statistics.evaluations,
            refusals_by_reason: reasons
                .filter(|(_, _, count)| *count > 0)
                .map(|(name, _, count)| (name.to_owned(), count))
                .collect(),
            last: vec![last],
            ..End::default()
        }
    }
}

/// A word of two 32-bit halves, the lower first.
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The last word of a record of this kind.
pub(super) const fn tagged(kind: u8, rest: u64) -> u64 {
    (kind as u64) << 56 | rest
}

/// The record of `count` switches that were lost after the one at `time_ns`.
pub(super) const fn loss(time_ns: u64, count: u64) -> Words {
    let mut words = [0; WORDS];
    (words[0], words[1]) = (time_ns, count);
    words[WORDS - 1] = tagged(kind::LOSS, 0);
    words
}

/// The kind of a record.
pub(super) const fn kind_of(words: &Words) -> u8 {
    (words[WORDS - 1] >> 56) as u8
}

/// Packs a switch.
pub(super) fn encode(record: &SwitchRecord) -> Words {
    let SwitchRecord {
        time_ns,
        stay,
        reasons,
        eip,
        eflags,
        cr3,
        cs,
        vcpu,
        cpl,
        from,
        to,
        exit,
    } = *record;
    let engines = from as u64 | (to as u64) << 1;
    let rest = u64::from(cs)
        | u64::from(vcpu) << 16
        | u64::from(cpl) << 32
        | engines << 40
        | (exit as u64) << 48;
    [
        time_ns,
        stay.run_ns,
        stay.halted_ns,
        stay.instructions.unwrap_or(NOT_COUNTED),
        pair(stay.runs, stay.reasons.bits()),
        pair(reasons.bits(), eip),
        pair(eflags, cr3),
        tagged(kind::SWITCH, rest),
    ]
}

/// Unpacks a switch; `None` if the words are none.
pub(super) fn decode(words: &Words) -> Option<SwitchRecord> {
    let [
        time_ns,
        run_ns,
        halted_ns,
        instructions,
        stay,
        at,
        state,
        rest,
    ] = *words;
    let engine = |bit: u32| match rest >> 40 >> bit & 1 {
        0 => Engine::Translator,
        _ => Engine::Direct,
    };
    let (runs, stay_reasons) = halves(stay);
    let (reasons, eip) = halves(at);
    let (eflags, cr3) = halves(state);
    let (from, to) = (engine(0), engine(1));
    let record = SwitchRecord {
        time_ns,
        stay: Stay {
            runs,
            run_ns,
            halted_ns,
            instructions: (instructions != NOT_COUNTED).then_some(instructions),
            reasons: Reasons::from_bits(stay_reasons)?,
        },
        reasons: Reasons::from_bits(reasons)?,
        eip,
        eflags,
        cr3,
        cs: rest as u16,
        vcpu: (rest >> 16) as u16,
        cpl: (rest >> 32) as u8,
        from,
        to,
        exit: ExitKind::from_number((rest >> 48) as u8)?,
    };
    (from != to && kind_of(words) == kind::SWITCH).then_some(record)
}

/// The bytes of a record.
pub(super) fn bytes(words: &Words) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The words of a record.
pub(super) fn words(bytes: &[u8; RECORD_BYTES]) -> Words {
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// The bytes before the first record.
pub(super) fn start(header: &Header) -> serde_json::Result<Vec<u8>> {
    let mut json = serde_json::to_vec(header)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json);
    Ok(bytes)
}

/// The bytes after the last record.
pub(super) fn end(end: &End) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_vec(end)?;
    let mut words = [0; WORDS];
    words[0] = json.len() as u64;
    words[WORDS - 1] = tagged(kind::END, 0);
    let mut all = bytes(&words).to_vec();
    all.extend(json);
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A switch to `to` at `time_ns`.
    pub(in super::super) fn record(to: Engine, time_ns: u64) -> SwitchRecord {
        let from = to.other();
        let translated = from == Engine::Translator;
        SwitchRecord {
            time_ns,
            stay: Stay {
                runs: 3,
                run_ns: 900,
                halted_ns: 17,
                instructions: translated.then_some(1234),
                reasons: if translated {
                    Reasons::NOT_RING_3 | Reasons::INTERRUPTS_OFF
                } else {
                    Reasons::empty()
                },
            },
            reasons: if translated {
                Reasons::empty()
            } else {
                Reasons::REPLAY
            },
            eip: 0xB7F0_1234,
            eflags: 0x246,
            cr3: 0x0123_4000,
            cs: 0x73,
            vcpu: 5,
            cpl: 3,
            from,
            to,
            exit: ExitKind::SystemCall,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for to in [Engine::Direct, Engine::Translator] {
            let record = record(to, 1 << 50);
            let encoded = encode(&record);
            assert_eq!(words(&bytes(&encoded)), encoded);
            assert_eq!(decode(&encoded), Some(record));
        }
        for reason in Reasons::all() {
            let record = SwitchRecord {
                reasons: reason,
                ..record(Engine::Translator, 1)
            };
            assert_eq!(decode(&encode(&record)), Some(record));
        }
    }

    #[test]
    fn what_is_no_switch_does_not_decode() {
        let good = encode(&record(Engine::Direct, 1));
        for (word, bits) in [
            (4, 1 << 63),         // an unknown reason
            (7, 3u64 << 40),      // from direct to direct
            (7, 0xFFu64 << 48),   // an unknown exit
            (7, tagged(0xFF, 0)), // an unknown kind
        ] {
            let mut bad = good;
            bad[word] |= bits;
            assert_eq!(decode(&bad), None, "{word}: {bits:#x}");
        }
    }
}
