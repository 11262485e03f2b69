//! Writes the DSDT, or with `all` every table as it lies in guest memory, to standard output, for
//! a look with `iasl -d`.

use std::io::Write;

use devices::acpi::{AcpiConfig, build};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tables = build(&AcpiConfig::default())?;
    let all = std::env::args().nth(1).is_some_and(|arg| arg == "all");
    let bytes = &tables.bytes;
    let dsdt = bytes.windows(4).position(|w| w == b"DSDT").unwrap_or(0);
    let length = bytes
        .get(dsdt + 4..dsdt + 8)
        .and_then(|field| field.try_into().ok())
        .map_or(0, u32::from_le_bytes) as usize;
    let part = bytes.get(dsdt..dsdt + length).filter(|_| !all);
    std::io::stdout().write_all(part.unwrap_or(bytes))?;
    Ok(())
}
