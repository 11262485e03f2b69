//! The `ringshift` command.
fn main() {}
