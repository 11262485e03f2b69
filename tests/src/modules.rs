//! Kernel modules and what they need, from an unpacked kernel package (which has no `modules.dep`:
//! that is made when the package is installed).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why modules could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// There is no such module.
    #[error("the kernel has no module {0}")]
    Missing(String),
}

/// The modules of a kernel, by name (with `_` for `-`, as the kernel does).
#[derive(Debug)]
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Finds the modules of the kernel package unpacked in `root`.
    ///
    /// # Errors
    ///
    /// When a directory cannot be read.
    pub fn find(root: &Path) -> Result<Self, ModuleError> {
        let mut files = BTreeMap::new();
        let mut directories = vec![root.join("lib/modules")];
        while let Some(dir) = directories.pop() {
            for entry in fs::read_dir(&dir).map_err(at(&dir))? {
                let path = entry.map_err(at(&dir))?.path();
                if path.is_dir() && !path.is_symlink() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko")
                    && let Some(stem) = path.file_stem()
                {
                    files.insert(normal(&stem.to_string_lossy()), path);
                }
            }
        }
        Ok(Self { files })
    }

    /// The files to insert, in this order, to have `module`; it is the last one.
    ///
    /// # Errors
    ///
    /// When it or something it needs is not there.
    pub fn with_dependencies(&self, module: &str) -> Result<Vec<PathBuf>, ModuleError> {
        let mut order = Vec::new();
        self.collect(module, &mut order)?;
        Ok(order)
    }

    fn collect(&self, module: &str, order: &mut Vec<PathBuf>) -> Result<(), ModuleError> {
        let path = self
            .files
            .get(&normal(module))
            .ok_or_else(|| ModuleError::Missing(module.to_owned()))?;
        if order.contains(path) {
            return Ok(());
        }
        let contents = fs::read(path).map_err(at(path))?;
        for dependency in dependencies(&contents) {
            self.collect(&dependency, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// The `depends=` string of a module's `.modinfo` section, which holds zero-terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .map(|list| {
            String::from_utf8_lossy(list)
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default()
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ModuleError {
    let path = path.to_path_buf();
    move |source| ModuleError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(
            dependencies(b"\x7fELF\0license=GPL\0depends=kvm,ccp\0name=x\0"),
            ["kvm", "ccp"]
        );
        assert!(dependencies(b"license=GPL\0depends=\0").is_empty());
        assert!(dependencies(b"x__UNIQUE_ID_depends195\0").is_empty());
    }
}
