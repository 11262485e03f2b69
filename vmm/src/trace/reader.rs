//! Reads a trace file.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use decision::SwitchRecord;

use super::format::{self, End, Header, LONGEST_JSON, MAGIC, RECORD_BYTES, VERSION, kind, kind_of};

/// A file that is no trace that this program can read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// it cannot be read
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// something else
    #[error("it is no trace of Ringshift")]
    Foreign,
    /// too new
    #[error(
        "it was written by a newer Ringshift: its format is version {0}, this program reads up to {VERSION}"
    )]
    Newer(u32),
    /// cut off before the first record
    #[error("it ends within its header")]
    NoHeader,
    /// broken
    #[error("its header is damaged")]
    Header(#[source] serde_json::Error),
}

/// What a trace holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Item {
    /// A switch.
    Switch(SwitchRecord),
    /// Switches that are missing here.
    Loss {
        /// Time of the last switch before.
        time_ns: u64,
        /// How many.
        count: u64,
    },
}

/// An iterator over what a trace holds. A file that ends early gives what is there, and a warning.
#[derive(Debug)]
pub struct TraceReader<R> {
    input: R,
    header: Header,
    end: Option<End>,
    warning: Option<String>,
    done: bool,
}

impl TraceReader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// It is no trace, or a newer one.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<R: Read> TraceReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// As for [`TraceReader::open`].
    pub fn new(mut input: R) -> Result<Self, TraceError> {
        let mut magic = [0; 8];
        if fill(&mut input, &mut magic)? < magic.len() || magic != MAGIC {
            return Err(TraceError::Foreign);
        }
        let version = number(&mut input)?;
        if version > VERSION {
            return Err(TraceError::Newer(version));
        }
        let length = u64::from(number(&mut input)?);
        if length > LONGEST_JSON {
            return Err(TraceError::Foreign);
        }
        let mut json = Vec::new();
        input.by_ref().take(length).read_to_end(&mut json)?;
        if (json.len() as u64) < length {
            return Err(TraceError::NoHeader);
        }
        let header = serde_json::from_slice(&json).map_err(TraceError::Header)?;
        Ok(TraceReader {
            input,
            header,
            end: None,
            warning: None,
            done: false,
        })
    }

    /// What was known when the run started.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was known when it ended, once everything is read; `None` if the file ends early.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// What is wrong with the file, once everything is read.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn stop(&mut self, warning: impl Into<String>) {
        self.done = true;
        self.warning = Some(warning.into());
    }

    /// Reads the JSON behind the end record.
    fn read_end(&mut self, length: u64) {
        self.done = true;
        let mut json = Vec::new();
        let read = self
            .input
            .by_ref()
            .take(length.min(LONGEST_JSON))
            .read_to_end(&mut json);
        match read
            .map_err(|error| error.to_string())
            .and_then(|_| serde_json::from_slice(&json).map_err(|error| error.to_string()))
        {
            Ok(end) => self.end = Some(end),
            Err(error) => self.stop(format!("the end of the trace is damaged: {error}")),
        }
    }
}

impl<R: Read> Iterator for TraceReader<R> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        while !self.done {
            let mut bytes = [0; RECORD_BYTES];
            match fill(&mut self.input, &mut bytes) {
                Ok(RECORD_BYTES) => {}
                Ok(0) => {
                    self.stop("the trace has no end: the run was cut off, or the disk was full")
                }
                Ok(_) => self.stop("the trace is cut off within a record"),
                Err(error) => self.stop(format!("the trace cannot be read on: {error}")),
            }
            if self.done {
                break;
            }
            let words = format::words(&bytes);
            match kind_of(&words) {
                kind::SWITCH => match format::decode(&words) {
                    Some(record) => return Some(Item::Switch(record)),
                    None => self.stop("the trace is damaged: a record makes no sense"),
                },
                kind::LOSS => {
                    let [time_ns, count, ..] = words;
                    return Some(Item::Loss { time_ns, count });
                }
                kind::END => self.read_end(words[0]),
                0 => self.stop("the trace is damaged: a record is empty"),
                _ => {} // of a later version that this one can do without
            }
        }
        None
    }
}

/// Reads as much as there is.
fn fill(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match input.read(&mut bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn number(input: &mut impl Read) -> Result<u32, TraceError> {
    let mut bytes = [0; 4];
    if fill(input, &mut bytes)? < bytes.len() {
        return Err(TraceError::NoHeader);
    }
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::format::tests::record;
    use decision::Engine;

    fn file() -> Vec<u8> {
        let mut bytes = format::start(&Header {
            policy: "vmware".into(),
            ..Header::default()
        })
        .expect("plain data");
        for time in 0..10 {
            bytes.extend(format::bytes(&format::encode(&record(
                Engine::Direct,
                time,
            ))));
        }
        let end = End {
            written: 10,
            ..End::default()
        };
        bytes.extend(format::end(&end).expect("plain data"));
        bytes
    }

    #[test]
    fn every_cut_of_a_file_is_an_error_or_a_warning() {
        let whole = file();
        let start = format::start(&Header {
            policy: "vmware".into(),
            ..Header::default()
        })
        .expect("plain data")
        .len();
        for length in 0..whole.len() {
            match TraceReader::new(&whole[..length]) {
                Err(TraceError::Foreign) => assert!(length < 8),
                Err(TraceError::NoHeader) => assert!((8..start).contains(&length), "{length}"),
                Err(error) => panic!("{length}: {error}"),
                Ok(mut reader) => {
                    let count = (&mut reader).count();
                    assert_eq!(count, ((length - start) / RECORD_BYTES).min(10));
                    assert!(reader.warning().is_some(), "{length}");
                    assert!(reader.end().is_none());
                }
            }
        }
        let mut reader = TraceReader::new(&whole[..]).expect("a trace");
        assert_eq!((&mut reader).count(), 10);
        assert_eq!(reader.warning(), None);
        assert_eq!(reader.header().policy, "vmware");
        assert_eq!(reader.end().map(|end| end.written), Some(10));
    }

    #[test]
    fn foreign_newer_and_damaged_files_are_told_apart() {
        let text = |bytes: &[u8]| match TraceReader::new(bytes) {
            Err(error) => error.to_string(),
            Ok(mut reader) => {
                let _ = (&mut reader).count();
                reader.warning().unwrap_or("fine").to_owned()
            }
        };
        assert!(text(b"\x7FELF and so on and so on").contains("no trace"));
        let with = |at: usize, bytes: &[u8]| {
            let mut file = file();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        let newer = text(&with(8, &2u32.to_le_bytes()));
        assert!(
            newer.contains("version 2") && newer.contains("up to 1"),
            "{newer}"
        );
        assert!(text(&with(12, &u32::MAX.to_le_bytes())).contains("no trace"));
        assert!(text(&with(16, b"?")).contains("header is damaged"));
        let start = file().len()
            - 64
            - serde_json::to_vec(&End {
                written: 10,
                ..End::default()
            })
            .unwrap()
            .len();
        assert!(text(&with(start - 64, &[0xFF; 55])).contains("makes no sense"));
        assert!(text(&with(start - 64, &[0; 64])).contains("is empty"));
        assert!(text(&with(start + 64, b"?")).contains("end of the trace is damaged"));
        // A record of a kind that is not known yet is passed over.
        assert_eq!(text(&with(start - 1, &[77])), "fine");
    }
}
