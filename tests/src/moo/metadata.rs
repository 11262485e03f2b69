//! What the recording's authors say of each opcode: `metadata.json`.

use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The opcodes of a collection.
#[derive(Clone, Debug, Deserialize)]
pub struct Metadata {
    opcodes: HashMap<String, Opcode>,
}

#[derive(Clone, Debug, Deserialize)]
struct Opcode {
    #[serde(rename = "flags-mask")]
    flags_mask: Option<u16>,
    #[serde(default)]
    reg: HashMap<String, Opcode>,
}

/// Why there is no metadata.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It has another form.
    #[error("{path}: {source}")]
    Json {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: serde_json::Error,
    },
}

impl Metadata {
    /// Reads `metadata.json`.
    ///
    /// # Errors
    ///
    /// When it cannot be read or has another form.
    pub fn read(path: &Path) -> Result<Metadata, MetadataError> {
        let text = fs::read_to_string(path).map_err(|source| MetadataError::File {
            path: path.to_path_buf(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| MetadataError::Json {
            path: path.to_path_buf(),
            source,
        })
    }

    /// The flags that the 80286 defines after the opcode form `form`, such as `F7.4` (opcode and
    /// the reg field of its ModR/M byte) or `00`.
    #[must_use]
    pub fn defined_flags(&self, form: &str) -> u16 {
        let (opcode, reg) = form.split_once('.').unwrap_or((form, ""));
        let Some(opcode) = self.opcodes.get(opcode) else {
            return u16::MAX;
        };
        let reg = opcode.reg.get(reg).and_then(|reg| reg.flags_mask);
        reg.or(opcode.flags_mask).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_by_opcode_and_reg_field() {
        let metadata: Metadata = serde_json::from_str(
            r#"{"opcodes": {"08": {"status": "normal", "flags-mask": 65519},
                            "F7": {"reg": {"4": {"flags-mask": 65323}}}}}"#,
        )
        .unwrap();
        assert_eq!(metadata.defined_flags("08"), 0xFFEF);
        assert_eq!(metadata.defined_flags("F7.4"), 0xFF2B);
        assert_eq!(metadata.defined_flags("F7.0"), 0xFFFF);
        assert_eq!(metadata.defined_flags("90"), 0xFFFF);
    }
}
