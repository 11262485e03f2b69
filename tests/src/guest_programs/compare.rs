//! What each line has to be, from two references: QEMU TCG running the same guest, and the same
//! program run natively.
//!
//! Where they agree, that is it. Where they do not, one of the [`DIFFERENCES`] has to say which is
//! right and why; a difference that nothing explains is a failure, and so is a line that is missing.

use std::fmt;

use super::Output;
use super::differences::{DIFFERENCES, Difference, Right};

/// One line that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `TOPIC/NAME`.
    pub name: String,
    /// What is wrong.
    pub reason: &'static str,
    /// Ringshift's result.
    pub ringshift: Option<String>,
    /// QEMU's.
    pub qemu: Option<String>,
    /// The host's.
    pub native: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.reason)?;
        for (who, what) in [
            ("Ringshift", &self.ringshift),
            ("QEMU", &self.qemu),
            ("native", &self.native),
        ] {
            writeln!(f, "    {who:9} {}", what.as_deref().unwrap_or("(nothing)"))?;
        }
        Ok(())
    }
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Lines that all sides agree on.
    pub agreed: usize,
    /// Lines that were compared with one reference, because the other is known to be wrong there or
    /// does not have them.
    pub explained: usize,
    /// Lines without a reference: the one that would be right is not there.
    pub unchecked: usize,
    /// Lines that are wrong.
    pub failures: Vec<Failure>,
}

/// Compares Ringshift's output with one or two references.
#[must_use]
pub fn compare(ringshift: &Output, qemu: Option<&Output>, native: Option<&Output>) -> Comparison {
    compare_by(DIFFERENCES, ringshift, qemu, native)
}

fn compare_by(
    differences: &[Difference],
    ringshift: &Output,
    qemu: Option<&Output>,
    native: Option<&Output>,
) -> Comparison {
    let mut result = Comparison::default();
    let references = [qemu, native].into_iter().flatten();
    let mut names: Vec<&str> = Vec::new();
    for name in references.flat_map(Output::names).chain(ringshift.names()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    for name in names {
        let ours = ringshift.get(name);
        let theirs = qemu.and_then(|output| output.get(name));
        let hosts = native.and_then(|output| output.get(name));
        let mut fail = |reason| {
            result.failures.push(Failure {
                name: name.to_owned(),
                reason,
                ringshift: ours.map(str::to_owned),
                qemu: theirs.map(str::to_owned),
                native: hosts.map(str::to_owned),
            });
        };
        if theirs.is_some() && theirs == hosts {
            if ours == theirs {
                result.agreed += 1;
            } else {
                fail("differs from both references");
            }
            continue;
        }
        let right = differences
            .iter()
            .find(|each| each.is_about(name, hosts))
            .map(|each| each.right);
        let expected = match (right, theirs, hosts) {
            (Some(Right::Text(text)), ..) => Some(text),
            (Some(Right::Qemu), Some(text), _) | (None, Some(text), None) => Some(text),
            (Some(Right::Native), _, Some(text)) | (None, None, Some(text)) => Some(text),
            (Some(Right::Qemu | Right::Native), ..) => None,
            (None, None, None) => {
                fail("no reference has this line");
                continue;
            }
            (None, Some(_), Some(_)) => {
                fail("the references differ, and no known difference explains it");
                continue;
            }
        };
        match expected {
            None => result.unchecked += 1,
            Some(text) if ours == Some(text) => result.explained += 1,
            Some(_) => fail("differs from the reference that is right here"),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Difference; 2] = [
        Difference {
            lines: &["a/limit*"],
            native_has: "trap 13",
            right: Right::Native,
            reason: "",
        },
        Difference {
            lines: &["a/kernel"],
            native_has: "",
            right: Right::Qemu,
            reason: "",
        },
    ];

    fn output(lines: &str) -> Output {
        Output::parse(&format!("== a\n{lines}"))
    }

    fn failures(ours: &str, theirs: &str, hosts: &str) -> Vec<String> {
        let result = compare_by(
            &KNOWN,
            &output(ours),
            Some(&output(theirs)),
            Some(&output(hosts)),
        );
        result.failures.into_iter().map(|each| each.name).collect()
    }

    #[test]
    fn agreement_and_known_differences_pass() {
        let ours = "x: 1\nlimit 3: trap 13\nkernel: 5\n";
        let theirs = "x: 1\nlimit 3: none\nkernel: 5\n";
        let hosts = "x: 1\nlimit 3: trap 13\nkernel: 4\n";
        assert!(failures(ours, theirs, hosts).is_empty());
    }

    #[test]
    fn everything_else_fails() {
        let same = |text| failures(text, "x: 1\n", "x: 1\n");
        assert_eq!(same("x: 2\n"), ["a/x"]);
        assert_eq!(same(""), ["a/x"]);
        assert_eq!(same("x: 1\ny: 1\n"), ["a/y"]);
        // Known, but Ringshift has the wrong one; and known for another fault only.
        assert_eq!(
            failures("limit: none\n", "limit: none\n", "limit: trap 13\n"),
            ["a/limit"]
        );
        assert_eq!(
            failures("limit: trap 12\n", "limit: 0\n", "limit: trap 12\n"),
            ["a/limit"]
        );
        // Unknown, although Ringshift agrees with one of them.
        assert_eq!(failures("x: 1\n", "x: 1\n", "x: 2\n"), ["a/x"]);
    }

    #[test]
    fn one_reference_is_enough_where_it_is_right() {
        let ours = output("limit: trap 13\nx: 1\n");
        let qemu = output("limit: none\nx: 1\n");
        let result = compare_by(&KNOWN, &ours, None, Some(&ours));
        assert_eq!((result.explained, result.failures.len()), (2, 0));
        let kernel = output("kernel: 5\n");
        let result = compare_by(&KNOWN, &kernel, None, Some(&output("kernel: 4\n")));
        assert_eq!((result.unchecked, result.failures.len()), (1, 0));
        let result = compare_by(&KNOWN, &ours, Some(&qemu), Some(&ours));
        assert_eq!((result.agreed, result.explained), (1, 1));
    }
}
