//! Names for addresses.

use std::fmt::Write as _;

/// The symbols of a `System.map`, or of what `nm` prints.
#[derive(Debug, Clone, Default)]
pub struct Symbols(Vec<(u32, String)>);

/// A file that holds no symbols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no symbol such as 'c1000000 T _text'")]
pub struct SymbolError {
    /// Its number, from 1.
    pub line: usize,
}

impl Symbols {
    /// Reads lines of address, type and name.
    ///
    /// # Errors
    ///
    /// A line that is something else.
    pub fn parse(text: &str) -> Result<Symbols, SymbolError> {
        let mut symbols = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let words: Vec<&str> = text.split_whitespace().collect();
            match words[..] {
                // Undefined symbols have no address.
                [] | ["U" | "w", _] => {}
                [address, _, name, ..] => {
                    let address = u64::from_str_radix(address, 16);
                    let address = address.map_err(|_| SymbolError { line })?;
                    if let Ok(address) = u32::try_from(address) {
                        symbols.push((address, name.to_owned()));
                    }
                }
                _ => return Err(SymbolError { line }),
            }
        }
        symbols.sort();
        Ok(Symbols(symbols))
    }

    /// The symbol at or before an address, and the distance to it.
    pub fn name(&self, address: u32) -> Option<String> {
        /// Beyond it the address belongs to something else.
        const FARTHEST: u32 = 1 << 20;
        let next = self.0.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.0.get(next.checked_sub(1)?)?;
        let distance = address - start;
        let mut name = name.clone();
        if distance > 0 {
            write!(name, "+{distance:#x}").ok()?;
        }
        (distance <= FARTHEST).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_symbol_before_names_an_address() {
        let map =
            "c1000100 T start\n\n         U missing\nc1000000 T _text\nffffffff81000000 T far\n";
        let symbols = Symbols::parse(map).expect("symbols");
        for (address, name) in [
            (0xC0FF_FFFF, None),
            (0xC100_0000, Some("_text")),
            (0xC100_00FF, Some("_text+0xff")),
            (0xC100_0104, Some("start+0x4")),
            (0xD100_0104, None),
        ] {
            assert_eq!(symbols.name(address).as_deref(), name, "{address:#x}");
        }
        for (text, line) in [("c1000000 T a\nwhat", 2), ("xyz T a", 1)] {
            assert_eq!(Symbols::parse(text).expect_err(text), SymbolError { line });
        }
    }
}
