//! The parser of the MOO format, version 1.

use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Registers in the order of the mask in a `REGS` chunk.
#[allow(missing_docs)] // the names are the processor's
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Register {
    Ax,
    Bx,
    Cx,
    Dx,
    Cs,
    Ss,
    Ds,
    Es,
    Sp,
    Bp,
    Si,
    Di,
    Ip,
    Flags,
}

impl Register {
    /// All of them, in order.
    pub const ALL: [Register; 14] = [
        Register::Ax,
        Register::Bx,
        Register::Cx,
        Register::Dx,
        Register::Cs,
        Register::Ss,
        Register::Ds,
        Register::Es,
        Register::Sp,
        Register::Bp,
        Register::Si,
        Register::Di,
        Register::Ip,
        Register::Flags,
    ];
}

/// A state of the processor, or what of it has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    registers: [Option<u16>; 14],
    /// Guest-physical addresses and the bytes there.
    pub memory: Vec<(u32, u8)>,
}

impl State {
    /// A register, if the recording has it.
    #[must_use]
    pub fn get(&self, register: Register) -> Option<u16> {
        self.registers[register as usize]
    }

    /// Sets a register.
    pub fn set(&mut self, register: Register, value: u16) {
        self.registers[register as usize] = Some(value);
    }

    /// A byte of memory; zero where the recording has none.
    #[must_use]
    pub fn byte(&self, address: u32) -> u8 {
        let known = self.memory.iter().find(|&&(known, _)| known == address);
        known.map_or(0, |&(_, value)| value)
    }

    /// Sets a byte of memory.
    pub fn set_byte(&mut self, address: u32, value: u8) {
        match self.memory.iter_mut().find(|(known, _)| *known == address) {
            Some(byte) => byte.1 = value,
            None => self.memory.push((address, value)),
        }
    }

    /// This state with the changes of `after` made.
    #[must_use]
    pub fn overlaid_by(&self, after: &State) -> State {
        let mut registers = self.registers;
        for (register, new) in registers.iter_mut().zip(after.registers) {
            *register = new.or(*register);
        }
        let mut state = State {
            registers,
            memory: self.memory.clone(),
        };
        for &(address, value) in &after.memory {
            state.set_byte(address, value);
        }
        state
    }
}

/// An exception or software interrupt that the instruction raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its number.
    pub vector: u8,
}

/// One recorded instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its number in the original collection.
    pub index: u32,
    /// The disassembly.
    pub name: String,
    /// The instruction and the HLT behind it.
    pub bytes: Vec<u8>,
    /// The state before.
    pub initial: State,
    /// The state after the HLT, whole.
    pub expected: State,
    /// What it raised.
    pub exception: Option<Exception>,
}

#[cfg(test)]
impl Case {
    /// `bytes` with `registers`, which raises `vector` and leaves everything else as it was.
    pub(super) fn of(bytes: &[u8], registers: &[(Register, u16)], vector: Option<u8>) -> Case {
        let mut initial = State::default();
        for &(register, value) in registers {
            initial.set(register, value);
        }
        Case {
            index: 0,
            name: String::new(),
            bytes: bytes.to_vec(),
            expected: initial.clone(),
            initial,
            exception: vector.map(|vector| Exception { vector }),
        }
    }
}

/// Why a file is not a recording.
#[derive(Debug, thiserror::Error)]
pub enum MooError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The data ends in the middle of something.
    #[error("the recording ends early, in {0}")]
    Short(&'static str),
    /// The first chunk is not a header.
    #[error("not a MOO file")]
    Magic,
    /// Another version of the format.
    #[error("version {0} of the MOO format is not known")]
    Version(u8),
    /// The header promises another number of cases.
    #[error("{found} cases where the header promises {promised}")]
    Count {
        /// By the header.
        promised: u32,
        /// In the file.
        found: usize,
    },
}

/// Reads a file compressed by gzip.
///
/// # Errors
///
/// When it cannot be read or is not a recording.
pub fn read_gz(path: &Path) -> Result<Vec<Case>, MooError> {
    let at = |source| MooError::File {
        path: path.to_path_buf(),
        source,
    };
    let mut data = Vec::new();
    let file = File::open(path).map_err(at)?;
    GzDecoder::new(file).read_to_end(&mut data).map_err(at)?;
    parse(&data)
}

/// The cases of a recording.
///
/// # Errors
///
/// When `data` is not one.
pub fn parse(data: &[u8]) -> Result<Vec<Case>, MooError> {
    let mut reader = Reader { data };
    let (tag, mut header) = reader.chunk()?;
    if tag != *b"MOO " {
        return Err(MooError::Magic);
    }
    let version = header.bytes(4, "the header")?[0];
    if version != 1 {
        return Err(MooError::Version(version));
    }
    let promised = header.u32("the header")?;
    let mut cases = Vec::new();
    while !reader.data.is_empty() {
        let (tag, body) = reader.chunk()?;
        if tag == *b"TEST" {
            cases.push(case(body)?);
        }
    }
    if cases.len() != promised as usize {
        return Err(MooError::Count {
            promised,
            found: cases.len(),
        });
    }
    Ok(cases)
}

fn case(mut body: Reader<'_>) -> Result<Case, MooError> {
    let index = body.u32("the number of a case")?;
    let (mut name, mut bytes) = (String::new(), Vec::new());
    let (mut initial, mut changed) = (State::default(), State::default());
    let mut exception = None;
    while !body.data.is_empty() {
        let (tag, mut chunk) = body.chunk()?;
        match &tag {
            b"NAME" => name = String::from_utf8_lossy(chunk.counted("a name")?).into_owned(),
            b"BYTS" => bytes = chunk.counted("an instruction")?.to_vec(),
            b"INIT" => initial = state(chunk)?,
            b"FINA" => changed = state(chunk)?,
            b"EXCP" => {
                // The address of the pushed flags follows, rounded down to an even one.
                let vector = chunk.bytes(1, "an exception")?[0];
                exception = Some(Exception { vector });
            }
            _ => {}
        }
    }
    Ok(Case {
        index,
        name,
        bytes,
        expected: initial.overlaid_by(&changed),
        initial,
        exception,
    })
}

fn state(mut body: Reader<'_>) -> Result<State, MooError> {
    let mut state = State::default();
    while !body.data.is_empty() {
        let (tag, mut chunk) = body.chunk()?;
        match &tag {
            b"REGS" => {
                let mask = chunk.u16("registers")?;
                for register in Register::ALL {
                    if mask >> (register as usize) & 1 != 0 {
                        state.set(register, chunk.u16("registers")?);
                    }
                }
            }
            b"RAM " => {
                for _ in 0..chunk.u32("memory")? {
                    let address = chunk.u32("memory")?;
                    state.memory.push((address, chunk.bytes(1, "memory")?[0]));
                }
            }
            _ => {}
        }
    }
    Ok(state)
}

/// What is left to read.
struct Reader<'a> {
    data: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], MooError> {
        let (bytes, rest) = self
            .data
            .split_at_checked(count)
            .ok_or(MooError::Short(what))?;
        self.data = rest;
        Ok(bytes)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, MooError> {
        let bytes = self.bytes(2, what)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, MooError> {
        let low = self.u16(what)?;
        Ok(u32::from(low) | u32::from(self.u16(what)?) << 16)
    }

    /// Bytes behind their count.
    fn counted(&mut self, what: &'static str) -> Result<&'a [u8], MooError> {
        let count = self.u32(what)?;
        self.bytes(count as usize, what)
    }

    fn chunk(&mut self) -> Result<([u8; 4], Reader<'a>), MooError> {
        let tag = self.bytes(4, "a tag")?;
        let tag = [tag[0], tag[1], tag[2], tag[3]];
        let data = self.counted("a chunk")?;
        Ok((tag, Reader { data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(tag: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut out = tag.to_vec();
        out.extend((body.len() as u32).to_le_bytes());
        out.extend(body);
        out
    }

    /// INC AX at 1000:0000.
    fn recording() -> Vec<u8> {
        let mut init = chunk(
            b"REGS",
            &[0x11, 0x30, 7, 0, 0, 0x10, 0, 0, 0x02, 0x00], // AX, CS, IP, FLAGS
        );
        init.extend(chunk(
            b"RAM ",
            &[2, 0, 0, 0, 0, 0, 1, 0, 0x40, 1, 0, 1, 0, 0xF4],
        ));
        let fina = chunk(b"REGS", &[0x01, 0x10, 8, 0, 2, 0]);
        let mut test = 5u32.to_le_bytes().to_vec();
        test.extend(chunk(b"GMET", &[1, 2, 3]));
        test.extend(chunk(b"NAME", b"\x06\0\0\0inc ax"));
        test.extend(chunk(b"BYTS", &[2, 0, 0, 0, 0x40, 0xF4]));
        test.extend(chunk(b"INIT", &init));
        test.extend(chunk(b"FINA", &fina));
        test.extend(chunk(b"EXCP", &[6, 0, 1, 0, 0]));
        let mut data = chunk(b"MOO ", b"\x01\0\0\0\x01\0\0\0C286");
        data.extend(chunk(b"META", &[0; 4]));
        data.extend(chunk(b"TEST", &test));
        data
    }

    #[test]
    fn a_case_is_read() {
        let cases = parse(&recording()).unwrap();
        let [case] = &cases[..] else { panic!() };
        assert_eq!((case.index, case.name.as_str()), (5, "inc ax"));
        assert_eq!(case.bytes, [0x40, 0xF4]);
        assert_eq!(case.initial.get(Register::Ax), Some(7));
        assert_eq!(case.expected.get(Register::Ax), Some(8));
        assert_eq!(case.expected.get(Register::Ip), Some(2));
        assert_eq!(case.expected.get(Register::Cs), Some(0x1000));
        assert_eq!(case.expected.get(Register::Bx), None);
        assert_eq!(case.expected.memory, [(0x1_0000, 0x40), (0x1_0001, 0xF4)]);
        assert_eq!(case.exception, Some(Exception { vector: 6 }));
    }

    #[test]
    fn damaged_recordings_are_refused() {
        let whole = recording();
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end} bytes");
        }
        let mut other = whole.clone();
        other[8] = 2;
        assert!(matches!(parse(&other), Err(MooError::Version(2))));
        other[0] = b'm';
        assert!(matches!(parse(&other), Err(MooError::Magic)));
    }
}
