//! What the programs print.

use std::collections::HashMap;

/// The lines of one run by name, `TOPIC/NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Names in the order of appearance.
    names: Vec<String>,
    results: HashMap<String, String>,
}

impl Output {
    /// Reads what a run printed, a serial console's other lines included. The end of a topic is a
    /// line of its own, named `TOPIC/ended`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut output = Self::default();
        let mut topic = None;
        for text in text.lines() {
            let text = text.trim_end_matches('\r');
            if let Some(heading) = text.strip_prefix("== ") {
                match heading.split_once(" ended with ") {
                    Some((ended, status)) => {
                        output.insert(format!("{ended}/ended"), status);
                        topic = None;
                    }
                    None => topic = Some(heading.to_owned()),
                }
            } else if let (Some(topic), Some((name, result))) = (&topic, text.split_once(": ")) {
                output.insert(format!("{topic}/{name}"), result);
            }
        }
        output
    }

    /// A name that appears again, as a program that went astray may print it, is kept apart.
    fn insert(&mut self, mut name: String, result: &str) {
        while self.results.contains_key(&name) {
            name.push_str(" again");
        }
        self.names.push(name.clone());
        self.results.insert(name, result.to_owned());
    }

    /// The names, in the order of appearance.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Names and results, in the order of appearance.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.names()
            .filter_map(|name| Some((name, self.get(name)?)))
    }

    /// The result of a line.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.results.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_lines_and_other_text() {
        let text = "boot: noise\r\n== fpu\r\nfadd: 1\r\nfadd: 2\r\nno colon\r\n\
                    == fpu ended with status 0\r\nreboot: Power down\r\n== simd\r\nadd: x: y\r\n";
        let output = Output::parse(text);
        let names: Vec<&str> = output.names().collect();
        assert_eq!(
            names,
            ["fpu/fadd", "fpu/fadd again", "fpu/ended", "simd/add"]
        );
        assert_eq!(output.get("fpu/ended"), Some("status 0"));
        assert_eq!(output.get("simd/add"), Some("x: y"));
    }
}
