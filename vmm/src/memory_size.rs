//! Amounts of guest memory, as a user writes them.

use std::fmt;
use std::str::FromStr;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The size of a machine's memory in bytes: whole mebibytes between [`MemorySize::MIN`] and
/// [`MemorySize::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

/// Why a text is not an amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemorySizeError {
    /// not a number with an optional suffix
    #[error(
        "'{0}' is not an amount of memory; write a number of MiB, or one with a suffix: 64, 131072K, 128M, 1G"
    )]
    Malformed(String),
    /// too small
    #[error(
        "{asked} is too little memory; a machine has {} to {}",
        MemorySize::MIN,
        MemorySize::MAX
    )]
    TooSmall {
        /// What was asked for.
        asked: String,
    },
    /// too large
    #[error(
        "{asked} is too much memory; a machine has {} to {}",
        MemorySize::MIN,
        MemorySize::MAX
    )]
    TooLarge {
        /// What was asked for.
        asked: String,
    },
    /// not whole mebibytes
    #[error("{asked} is not a whole number of MiB")]
    Uneven {
        /// What was asked for.
        asked: String,
    },
}

impl MemorySize {
    /// The least: conventional memory and one megabyte above it.
    pub const MIN: MemorySize = MemorySize(2 * MIB);
    /// The most: what lies below the addresses of the PCI devices.
    pub const MAX: MemorySize = MemorySize(3 * GIB);

    /// What a machine has if nobody says otherwise.
    pub const DEFAULT: MemorySize = MemorySize(128 * MIB);

    /// What the demo guest uses.
    pub const DEMO: MemorySize = MemorySize(crate::demo::MEMORY_BYTES);

    /// Checks an amount.
    pub fn from_bytes(bytes: u64) -> Result<MemorySize, MemorySizeError> {
        Self::check(bytes, &bytes.to_string())
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    fn check(bytes: u64, asked: &str) -> Result<MemorySize, MemorySizeError> {
        let asked = asked.to_owned();
        if bytes < Self::MIN.0 {
            Err(MemorySizeError::TooSmall { asked })
        } else if bytes > Self::MAX.0 {
            Err(MemorySizeError::TooLarge { asked })
        } else if !bytes.is_multiple_of(MIB) {
            Err(MemorySizeError::Uneven { asked })
        } else {
            Ok(MemorySize(bytes))
        }
    }
}

impl FromStr for MemorySize {
    type Err = MemorySizeError;

    fn from_str(text: &str) -> Result<Self, MemorySizeError> {
        let malformed = || MemorySizeError::Malformed(text.to_owned());
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(split);
        let unit = match suffix.to_ascii_uppercase().as_str() {
            "K" | "KB" | "KIB" => KIB,
            "" | "M" | "MB" | "MIB" => MIB,
            "G" | "GB" | "GIB" => GIB,
            "T" | "TB" | "TIB" => GIB << 10,
            _ => return Err(malformed()),
        };
        if digits.is_empty() {
            return Err(malformed());
        }
        // A number too long for 64 bits is too large, whatever its unit.
        let bytes = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .unwrap_or(u64::MAX);
        Self::check(bytes, text)
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(GIB) {
            write!(f, "{}G", self.0 / GIB)
        } else {
            write!(f, "{}M", self.0 / MIB)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_mebibytes_and_suffixes_scale() {
        for (text, mib) in [
            ("128", 128),
            ("128M", 128),
            ("128m", 128),
            ("65536K", 64),
            ("1G", 1024),
            ("3GiB", 3072),
            ("2", 2),
        ] {
            let size: MemorySize = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(size.bytes(), mib << 20, "{text}");
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused_with_a_reason() {
        for text in ["", "M", "abc", "-5", "1.5G", "12X", "12 M", "0x10"] {
            let error = text.parse::<MemorySize>().unwrap_err();
            assert!(
                matches!(error, MemorySizeError::Malformed(_)),
                "{text}: {error}"
            );
        }
        for text in ["0", "1M", "1", "0G", "2047K"] {
            let error = text.parse::<MemorySize>().unwrap_err();
            assert!(
                matches!(error, MemorySizeError::TooSmall { .. }),
                "{text}: {error}"
            );
        }
        for text in ["1T", "3073M", "4G", "99999999999999999999G"] {
            let error = text.parse::<MemorySize>().unwrap_err();
            assert!(
                matches!(error, MemorySizeError::TooLarge { .. }),
                "{text}: {error}"
            );
        }
        assert!(matches!(
            "2049K".parse::<MemorySize>(),
            Err(MemorySizeError::Uneven { .. })
        ));
    }

    #[test]
    fn what_is_printed_parses_back() {
        for text in ["2M", "128M", "1G", "1025M"] {
            assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
        }
    }
}
