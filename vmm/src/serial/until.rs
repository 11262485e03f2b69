//! Looks for a text in a stream of bytes.

/// A search for a text that may arrive in any pieces (Knuth, Morris and Pratt 1977).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    needle: Vec<u8>,
    /// For each length of a matched prefix, the length of its longest proper border.
    border: Vec<usize>,
    /// How much of the needle the last bytes match.
    state: usize,
    matched: bool,
}

impl Until {
    /// A search for `text`; none for an empty one.
    pub fn new(text: &str) -> Option<Until> {
        let needle = text.as_bytes().to_vec();
        if needle.is_empty() {
            return None;
        }
        let mut border = vec![0; needle.len() + 1];
        let mut length = 0;
        for index in 1..needle.len() {
            while length > 0 && needle[index] != needle[length] {
                length = border[length];
            }
            if needle[index] == needle[length] {
                length += 1;
            }
            border[index + 1] = length;
        }
        Some(Until {
            needle,
            border,
            state: 0,
            matched: false,
        })
    }

    /// Looks at the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.matched {
            return;
        }
        for &byte in bytes {
            while self.state > 0 && self.needle[self.state] != byte {
                self.state = self.border[self.state];
            }
            if self.needle[self.state] == byte {
                self.state += 1;
            }
            if self.state == self.needle.len() {
                self.matched = true;
                return;
            }
        }
    }

    /// The text has come.
    pub fn matched(&self) -> bool {
        self.matched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_cut_the_stream_finds_the_text() {
        let stream = b"abababac abababaca";
        for needle in ["abababaca", "a", "bac a", "abababac abababaca"] {
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let mut until = Until::new(needle).expect("not empty");
                    until.push(&stream[..first]);
                    until.push(&stream[first..second]);
                    until.push(&stream[second..]);
                    assert!(until.matched(), "{needle}, cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn agrees_with_a_plain_search() {
        // Every stream of 10 bytes over two letters.
        for bits in 0u32..1 << 10 {
            let stream: String = (0..10)
                .map(|i| if bits >> i & 1 == 0 { 'a' } else { 'b' })
                .collect();
            for needle in ["aab", "abab", "bbbb", "abba"] {
                let mut until = Until::new(needle).expect("not empty");
                stream
                    .bytes()
                    .for_each(|byte| until.push(std::slice::from_ref(&byte)));
                assert_eq!(
                    until.matched(),
                    stream.contains(needle),
                    "{needle} in {stream}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_not_looked_for() {
        assert_eq!(Until::new(""), None);
    }
}
