//! Numbers from the environment.

/// The number in a variable, decimal or with `0x`, or `default` if it is not set.
///
/// # Panics
///
/// When it is not a number: somebody has mistyped it.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return default;
    };
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.unwrap_or_else(|error| panic!("{name}={text}: {error}"))
}
