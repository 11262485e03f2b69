//! The kinds of work that are measured, and what is asked of each.

/// What is asked of a kind of work, as medians of ratios.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bars {
    /// At least this part of the native speed.
    pub of_native: Option<f64>,
    /// At least so many times as fast as QEMU TCG.
    pub times_qemu: Option<f64>,
}

/// Who carries a kind of work out, and so how it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A program on Linux: natively, in Ringshift and in QEMU (`tests/bench/programs`).
    Program,
    /// A kernel of its own in protected mode (`tests/bench/ring0`).
    Ring0,
    /// A kernel of its own in real mode ([`super::real_mode`]).
    RealMode,
    /// Debian's kernel from start to `init`.
    Boot,
}

impl Group {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Program, Self::Ring0, Self::RealMode, Self::Boot];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Program => "programs",
            Self::Ring0 => "ring0",
            Self::RealMode => "real-mode",
            Self::Boot => "boot",
        }
    }
}

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its name.
    pub name: &'static str,
    /// How it is measured.
    pub group: Group,
    /// Operations of one round, which takes a fraction of a millisecond natively, or longer where a round
    /// starts processes of its own; of a whole run where there are no rounds.
    pub round: u64,
    /// Operations of a run whose counters are shown.
    pub counted: u64,
    /// What one operation is.
    pub operation: &'static str,
    /// What is asked of it.
    pub bars: Bars,
}

const NO_BARS: Bars = Bars {
    of_native: None,
    times_qemu: None,
};

const fn bars(of_native: f64, times_qemu: f64) -> Bars {
    Bars {
        of_native: Some(of_native),
        times_qemu: Some(times_qemu),
    }
}

const fn times_qemu(times: f64) -> Bars {
    Bars {
        of_native: None,
        times_qemu: Some(times),
    }
}

const fn program(name: &'static str, round: u64, operation: &'static str, bars: Bars) -> Work {
    Work {
        name,
        group: Group::Program,
        round,
        counted: round * 100,
        operation,
        bars,
    }
}

/// What has to last, as it sets something up in each round.
const fn lasting(name: &'static str, round: u64, operation: &'static str, bars: Bars) -> Work {
    Work {
        counted: round * 5,
        ..program(name, round, operation, bars)
    }
}

const fn ring0(name: &'static str, round: u64, operation: &'static str) -> Work {
    Work {
        name,
        group: Group::Ring0,
        round,
        counted: round,
        operation,
        bars: NO_BARS,
    }
}

/// The programs, by the names that they have in `tests/bench/programs`.
pub const PROGRAMS: &[Work] = &[
    program("integer-mix", 8, "round of the mix", bars(0.8, 3.7)),
    program("records", 8_000, "round", NO_BARS),
    program("switch", 65_536, "jump", bars(0.6, 4.0)),
    program("vtable", 65_536, "call", bars(0.6, 4.0)),
    program("function-pointers", 65_536, "call", bars(0.6, 4.0)),
    program("call-return", 100_000, "call", bars(0.6, 4.0)),
    program("deep-calls", 100_000, "call", bars(0.6, 4.0)),
    program("recursion", 83_610, "call", bars(0.6, 4.0)),
    program("x87", 51_200, "term", bars(0.9, 10.0)),
    program("sin", 4_000, "call", bars(0.9, 10.0)),
    program("libm", 4_000, "call", bars(0.9, 10.0)),
    program("sse2", 102_400, "term", bars(0.9, 10.0)),
    program("memcpy", 4_800, "KiB", bars(0.85, 20.0)),
    program("memset", 4_800, "KiB", bars(0.85, 20.0)),
    program("string-instructions", 8_000, "KiB", bars(0.85, 20.0)),
    program("strings", 4_000, "line", bars(0.85, 20.0)),
    program("pointer-chase", 81_920, "step", NO_BARS),
    program("sorting", 4_096, "number", bars(0.7, 3.0)),
    program("interpreter", 100_000, "instruction", bars(0.7, 3.0)),
    program("compression", 65_536, "byte", bars(0.7, 3.0)),
    program("system-call", 2_000, "call", times_qemu(3.0)),
    program("signals", 200, "signal", NO_BARS),
    program("files", 4, "file", NO_BARS),
    program("demand-fault", 1_024, "page", times_qemu(1.3)),
    program("mprotect", 200, "pair of calls", NO_BARS),
    lasting("table-write", 4_000, "unmap and fault", NO_BARS),
    program("steady", 100_000, "access", NO_BARS),
    program("fork-wait", 4, "process", times_qemu(1.5)),
    program("fork-exec-wait", 4, "process", times_qemu(1.5)),
    lasting("ping-pong", 4_000, "round trip", times_qemu(6.0)),
    lasting("context-switch", 20_000, "hand-over", times_qemu(6.0)),
];

/// The nanobenchmarks, in the order of `tests/bench/ring0/ring0.c`.
pub const RING0: &[Work] = &[
    ring0("sysenter", 200_000, "call from ring 3 and return"),
    ring0("int-80h", 200_000, "call from ring 3 and return"),
    ring0("in", 500_000, "IN"),
    ring0("control-register", 500_000, "write of CR0"),
    ring0("call-ret", 100_000_000, "call and return"),
    ring0("page-fault", 100_000, "fault and return"),
    ring0("divide-by-zero", 100_000, "fault and return"),
    ring0("pte-change", 200_000, "write"),
    ring0("pte-change-used", 100_000, "write, INVLPG and read"),
];

/// From start to `init`.
pub const BOOT: Work = Work {
    name: "kernel-to-init",
    group: Group::Boot,
    round: 1,
    counted: 1,
    operation: "start",
    bars: times_qemu(2.0),
};

/// Everything, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Work> {
    PROGRAMS
        .iter()
        .chain(RING0)
        .chain(super::real_mode::WORK.iter().map(|program| &program.work))
        .chain(std::iter::once(&BOOT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_tell_works_and_groups_apart() {
        let mut names: BTreeSet<&str> = Group::ALL.iter().map(|group| group.name()).collect();
        for work in all() {
            assert!(names.insert(work.name), "{} is there twice", work.name);
            assert!(work.round > 0, "{}", work.name);
        }
    }
}
