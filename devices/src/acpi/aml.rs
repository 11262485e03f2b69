//! An encoder for the little AML that the DSDT needs (ACPI Specification 2.0, chapter 17, and
//! section 6.4 for resource descriptors).
//!
//! Everything is a function from names and numbers to bytes; a term that contains others takes
//! them as bytes.

/// A path or name segment: up to four characters, padded with `_`; `\` before it for the root.
pub(super) fn name_string(name: &str) -> Vec<u8> {
    let (root, segment) = match name.strip_prefix('\\') {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let mut bytes = Vec::new();
    if root {
        bytes.push(b'\\');
    }
    bytes.extend(segment.bytes().chain(std::iter::repeat(b'_')).take(4));
    bytes
}

/// PkgLength of a package whose contents are `length` bytes long.
fn pkg_length(length: usize) -> Vec<u8> {
    // The encoding counts itself: 6 bits in one byte, or 4 bits and whole bytes after it.
    if length < 0x3f {
        return vec![length as u8 + 1];
    }
    let mut following = 1;
    while length + 1 + following >= 1 << (4 + 8 * following) {
        following += 1;
    }
    let total = length + 1 + following;
    let mut bytes = vec![(following as u8) << 6 | (total & 0xf) as u8];
    bytes.extend((0..following).map(|index| (total >> (4 + 8 * index)) as u8));
    bytes
}

/// An opcode, the length of what follows, and that.
fn with_length(opcode: &[u8], contents: &[u8]) -> Vec<u8> {
    [opcode, &pkg_length(contents.len()), contents].concat()
}

/// `Scope (name) { terms }`
pub(super) fn scope(name: &str, terms: &[Vec<u8>]) -> Vec<u8> {
    with_length(&[0x10], &[name_string(name), terms.concat()].concat())
}

/// `Device (name) { terms }`
pub(super) fn device(name: &str, terms: &[Vec<u8>]) -> Vec<u8> {
    with_length(&[0x5b, 0x82], &[name_string(name), terms.concat()].concat())
}

/// `Name (name, object)`
pub(super) fn name(name: &str, object: &[u8]) -> Vec<u8> {
    [&[0x08], name_string(name).as_slice(), object].concat()
}

/// An integer constant, in its shortest form.
pub(super) fn integer(value: u32) -> Vec<u8> {
    match value {
        0 | 1 => vec![value as u8],
        2..=0xff => vec![0x0a, value as u8],
        0x100..=0xffff => [&[0x0b], (value as u16).to_le_bytes().as_slice()].concat(),
        _ => [&[0x0c], value.to_le_bytes().as_slice()].concat(),
    }
}

/// `Package () { elements }`
pub(super) fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let contents = [vec![elements.len() as u8], elements.concat()].concat();
    with_length(&[0x12], &contents)
}

/// `EisaId (id)`: three letters and four hexadecimal digits, compressed.
pub(super) fn eisa_id(id: &[u8; 7]) -> Vec<u8> {
    let [a, b, c, digits @ ..] = *id;
    let letter = |byte: u8| u32::from(byte & 0x1f);
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => u32::from(byte - b'0'),
        _ => u32::from(byte & 0x1f) + 9,
    };
    let number = digits.iter().fold(0, |sum, &d| sum << 4 | digit(d));
    let packed = letter(a) << 26 | letter(b) << 21 | letter(c) << 16 | number;
    integer(packed.swap_bytes())
}

/// `ResourceTemplate () { descriptors }`
pub(super) fn resource_template(descriptors: &[Vec<u8>]) -> Vec<u8> {
    // The end tag's checksum of 0 means that there is none.
    let bytes = [descriptors.concat(), vec![0x79, 0x00]].concat();
    let contents = [integer(bytes.len() as u32), bytes].concat();
    with_length(&[0x11], &contents)
}

/// `IO (Decode16, base, base, 1, length)`
pub(super) fn io(base: u16, length: u8) -> Vec<u8> {
    let [low, high] = base.to_le_bytes();
    vec![0x47, 0x01, low, high, low, high, 0x01, length]
}

/// `IRQNoFlags () { irq }`
pub(super) fn irq(irq: u8) -> Vec<u8> {
    let [low, high] = (1u16 << (irq & 15)).to_le_bytes();
    vec![0x22, low, high]
}

/// Kind of an address space descriptor.
#[derive(Clone, Copy)]
pub(super) enum AddressSpace {
    Memory,
    Io,
    Bus,
}

impl AddressSpace {
    /// Resource type and type-specific flags.
    fn codes(self) -> [u8; 2] {
        match self {
            // Read-write, not cacheable.
            Self::Memory => [0, 0x01],
            // The whole range, ISA and other addresses.
            Self::Io => [1, 0x03],
            Self::Bus => [2, 0x00],
        }
    }
}

/// General flags: the device produces the resource, minimum and maximum are fixed.
const PRODUCER_FIXED: u8 = 0x0c;

/// A 16-bit address space descriptor for `start` to `end`.
pub(super) fn word_range(space: AddressSpace, start: u16, end: u16) -> Vec<u8> {
    let [kind, flags] = space.codes();
    let length = end.wrapping_sub(start).wrapping_add(1);
    let mut bytes = vec![0x88, 13, 0, kind, PRODUCER_FIXED, flags];
    for field in [0, start, end, 0, length] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// A 32-bit address space descriptor for `start` to `end`.
pub(super) fn dword_range(space: AddressSpace, start: u32, end: u32) -> Vec<u8> {
    let [kind, flags] = space.codes();
    let length = end.wrapping_sub(start).wrapping_add(1);
    let mut bytes = vec![0x87, 23, 0, kind, PRODUCER_FIXED, flags];
    for field in [0, start, end, 0, length] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected bytes are those that Intel's iasl produces for the same source.

    #[test]
    fn integers_take_the_shortest_form() {
        assert_eq!(integer(0), [0x00]);
        assert_eq!(integer(1), [0x01]);
        assert_eq!(integer(0x7f), [0x0a, 0x7f]);
        assert_eq!(integer(0x1234), [0x0b, 0x34, 0x12]);
        assert_eq!(integer(0x1234_5678), [0x0c, 0x78, 0x56, 0x34, 0x12]);
    }

    #[test]
    fn eisa_ids() {
        assert_eq!(eisa_id(b"PNP0A03"), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
        assert_eq!(eisa_id(b"PNP0F13"), [0x0c, 0x41, 0xd0, 0x0f, 0x13]);
    }

    #[test]
    fn names_are_padded() {
        assert_eq!(name_string("\\_S5"), b"\\_S5_");
        assert_eq!(name_string("COM1"), b"COM1");
    }

    #[test]
    fn package_lengths_count_themselves() {
        assert_eq!(pkg_length(0), [0x01]);
        assert_eq!(pkg_length(0x3e), [0x3f]);
        assert_eq!(pkg_length(0x3f), [0x41, 0x04]);
        assert_eq!(pkg_length(0xffd), [0x4f, 0xff]);
        assert_eq!(pkg_length(0xffe), [0x81, 0x00, 0x01]);
    }

    #[test]
    fn sleep_package() {
        let s5 = name("\\_S5", &package(&[0, 0, 0, 0].map(integer)));
        assert_eq!(
            s5,
            [
                0x08, b'\\', b'_', b'S', b'5', b'_', 0x12, 0x06, 0x04, 0, 0, 0, 0
            ]
        );
    }
}
