//! Writes inputs for the fuzz targets to start from: `fuzz-seeds DIRECTORY [COUNT]` fills
//! `DIRECTORY/TARGET` with the inputs that are kept and COUNT (200) random ones.

use ringshift_tests::fuzz::{TARGETS, corpus};
use ringshift_tests::generate::Rng;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

const SEED: u64 = 0x5345_4544;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let count: u64 = arguments.next().map_or(Ok(200), |text| text.parse())?;
    for target in TARGETS {
        let directory = directory.join(target.name);
        fs::create_dir_all(&directory)?;
        for (path, input) in corpus::kept(target.name)? {
            let name = path.file_name().ok_or("a file without a name")?;
            fs::write(directory.join(name), input)?;
        }
        for index in 0..count {
            let input = (target.make)(&mut Rng::new(SEED ^ index << 32));
            fs::write(directory.join(format!("seed-{index}")), input)?;
        }
    }
    Ok(())
}
