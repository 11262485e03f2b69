//! What the environment asks for.

/// How much to test, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `RINGSHIFT_SEED`, decimal or with `0x`: everything random is a function of it.
    pub seed: u64,
    /// `RINGSHIFT_CASES`: cases for each form.
    pub cases: u32,
    /// `RINGSHIFT_SEQUENCES`: sequences of instructions.
    pub sequences: u32,
    /// `RINGSHIFT_SEQUENCE`: only the sequence with this number.
    pub sequence: Option<u32>,
    /// `RINGSHIFT_FORM`: only forms whose name contains this.
    pub form: Option<String>,
    /// `RINGSHIFT_CASE`: only the case with this number.
    pub case: Option<u32>,
    /// `RINGSHIFT_SHOW`: failures printed in full.
    pub show: usize,
    /// `RINGSHIFT_TRACE`: names each case on standard error before it runs.
    pub trace: bool,
}

impl Settings {
    /// The seed where none is asked for.
    pub const SEED: u64 = 0x0052_494E_4753;

    /// Reads the environment.
    ///
    /// # Errors
    /// The name of a variable that does not hold a number.
    pub fn from_environment() -> Result<Self, String> {
        let text = |name: &str| std::env::var(name).ok();
        let number = |name: &str, default: u64| match text(name) {
            Some(value) => parse(&value).ok_or_else(|| format!("{name}: not a number: {value}")),
            None => Ok(default),
        };
        let only = |name: &str| match text(name) {
            Some(_) => number(name, 0).map(|value| Some(value as u32)),
            None => Ok(None),
        };
        Ok(Settings {
            seed: number("RINGSHIFT_SEED", Self::SEED)?,
            cases: number("RINGSHIFT_CASES", 16)? as u32,
            form: text("RINGSHIFT_FORM"),
            case: only("RINGSHIFT_CASE")?,
            sequences: number("RINGSHIFT_SEQUENCES", 50_000)? as u32,
            sequence: only("RINGSHIFT_SEQUENCE")?,
            show: number("RINGSHIFT_SHOW", 10)? as usize,
            trace: text("RINGSHIFT_TRACE").is_some(),
        })
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn seeds_are_decimal_or_hexadecimal() {
        assert_eq!(parse("0xfF"), Some(255));
        assert_eq!(parse("12"), Some(12));
        assert_eq!(parse("x"), None);
    }
}
