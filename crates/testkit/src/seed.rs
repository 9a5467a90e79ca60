//! Random choices that can be made again.

/// The seed of this run: `LIVEPOOL_SEED`, or a new one. Printed, so that a failure shows it.
pub fn seed() -> u64 {
    let given = std::env::var("LIVEPOOL_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("to repeat the same choices: LIVEPOOL_SEED={seed}");
    seed
}
