//! Random histories against the model, audited as they go.

mod common;

use common::Rng;
use common::history::History;

/// `RINGSHIFT_SEEDS` asks for more than the usual number of histories.
fn histories(pae: bool, first: u64, steps: u32) {
    let seeds = std::env::var("RINGSHIFT_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(12);
    let mut hidden = 0;
    for seed in first..first + seeds {
        eprintln!("seed {seed}");
        let seed = seed * 0x9e37_79b9 + 1;
        hidden += History::new(Rng(seed), pae)
            .run(&mut Rng(!seed), steps)
            .hidden_faults;
    }
    assert!(
        hidden > seeds * 80,
        "the histories fill next to nothing: {hidden}"
    );
}

#[test]
fn random_histories_32_bit() {
    histories(false, 0, 6000);
}

#[test]
fn random_histories_pae() {
    // The last one loads a PDPTE with reserved bits, which `audit` once took for part of the address.
    histories(true, 1043, 6000);
}
