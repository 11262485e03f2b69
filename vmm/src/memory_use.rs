//! What a run takes of the host's memory, from `/proc/self`.

use std::fs;
use std::io;

use serde::Serialize;

/// Name of the memory file of guest RAM, as the host shows it.
const GUEST_RAM: &str = "memfd:ringshift-ram";

/// Resident memory of the process, in bytes. A page that is mapped twice counts twice, as in the host's own figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// All that is resident.
    pub resident_bytes: u64,
    /// Of that, pages of guest memory, wherever they are mapped.
    pub guest_bytes: u64,
    /// The rest: what the monitor needs for itself.
    pub monitor_bytes: u64,
    /// The host's page tables for the process, which are not part of the above.
    pub page_table_bytes: u64,
}

impl MemoryUse {
    /// The state of this process. Takes some milliseconds.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_this_process() -> io::Result<MemoryUse> {
        Ok(MemoryUse::parse(
            &fs::read_to_string("/proc/self/smaps")?,
            &fs::read_to_string("/proc/self/status")?,
        ))
    }

    fn parse(smaps: &str, status: &str) -> MemoryUse {
        let mut sum = MemoryUse::default();
        let mut guest = false;
        for line in smaps.lines() {
            if let Some(bytes) = field(line, "Rss:") {
                sum.resident_bytes += bytes;
                sum.guest_bytes += if guest { bytes } else { 0 };
            } else if line
                .split(' ')
                .next()
                .is_some_and(|range| range.contains('-'))
            {
                guest = line.contains(GUEST_RAM);
            }
        }
        sum.monitor_bytes = sum.resident_bytes - sum.guest_bytes;
        sum.page_table_bytes = status
            .lines()
            .find_map(|line| field(line, "VmPTE:"))
            .unwrap_or(0);
        sum
    }
}

/// The value in bytes of a line `name 123 kB`.
fn field(line: &str, name: &str) -> Option<u64> {
    let value = line.strip_prefix(name)?.trim().strip_suffix("kB")?;
    value.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_from_the_rest() {
        let smaps = "\
7f00-7f10 rw-s 00000000 00:01 12   /memfd:ringshift-ram (deleted)
Size:                 64 kB
Rss:                  40 kB
7f20-7f30 r--s 00000000 00:01 12   /memfd:ringshift-ram (deleted)
Rss:                   4 kB
7f40-7f50 rw-p 00000000 00:00 0    [heap]
Rss:                 100 kB
Pss:                  90 kB
";
        let status = "Name:\tringshift\nVmPTE:\t     212 kB\n";
        assert_eq!(
            MemoryUse::parse(smaps, status),
            MemoryUse {
                resident_bytes: 144 << 10,
                guest_bytes: 44 << 10,
                monitor_bytes: 100 << 10,
                page_table_bytes: 212 << 10,
            }
        );
    }

    #[test]
    fn this_process_uses_memory() {
        let now = MemoryUse::of_this_process().expect("/proc");
        assert!(now.monitor_bytes > 0 && now.page_table_bytes > 0, "{now:?}");
    }
}
