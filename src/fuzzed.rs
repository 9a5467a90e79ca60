//! What holds for every input of whatever parses bytes, URLs or durations.
//!
//! Each property is one function. A test of its crate has [`check`] run it on a few thousand inputs;
//! libFuzzer, which `scripts/fuzz` builds with it, runs it on millions.

/// What holds for every input.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// Panics if it does not hold.
    pub holds: fn(&[u8]),
    /// Inputs that are worth being changed.
    pub seeds: &'static [&'static [u8]],
}

/// Those of this crate.
pub fn all() -> Vec<Property> {
    let all = crate::net::fuzzed::all();
    #[cfg(feature = "serde")]
    let all = [all, crate::config::fuzzed::all()].concat();
    all
}

/// Both sides of a session in one input: each piece begins with a byte that says whose it is and how
/// long, and a piece of no length is for the session itself.
pub fn pieces(mut input: &[u8]) -> Vec<(bool, &[u8])> {
    let mut pieces = Vec::new();
    while let Some((first, rest)) = input.split_first() {
        let (piece, rest) = rest.split_at(usize::from(first & 0x7f).min(rest.len()));
        pieces.push((first & 0x80 != 0, piece));
        input = rest;
    }
    pieces
}

/// Ways to cut a piece: not at all, everywhere, and at places that the input chooses.
pub fn ways(input: &[u8]) -> [Box<dyn FnMut() -> usize>; 3] {
    let sum =
        input.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    let mut random = fastrand::Rng::with_seed(sum);
    [Box::new(|| usize::MAX), Box::new(|| 1), Box::new(move || random.usize(1..=9))]
}

/// Cuts a piece so, and hands each part out.
pub fn cut(mut piece: &[u8], size: &mut dyn FnMut() -> usize, mut part: impl FnMut(&[u8])) {
    while !piece.is_empty() {
        let (first, rest) = piece.split_at(size().min(piece.len()));
        part(first);
        piece = rest;
    }
}

/// An error says something, and no more than a line.
pub fn says_something(error: &dyn std::error::Error) {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without a word");
}

/// Ways to cut `len` bytes: not at all, everywhere, and at random with fixed seeds.
pub fn splits(len: usize) -> impl Iterator<Item = Vec<usize>> {
    let random = (1..20).map(move |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let most = 1 + random.usize(..40);
        let (mut left, mut sizes) = (len, Vec::new());
        while left > 0 {
            let size = random.usize(1..=most).min(left);
            sizes.push(size);
            left -= size;
        }
        sizes
    });
    [vec![len], vec![1; len]].into_iter().chain(random)
}

/// Inputs per property and seed.
const INPUTS: usize = 1_000;

/// Runs each property on some thousand inputs, with a fixed seed and with another one each time, which a
/// failure names.
///
/// # Panics
///
/// If one does not hold.
pub fn check(properties: &[Property]) {
    for seed in [1, fastrand::u64(..)] {
        for property in properties {
            let mut random = fastrand::Rng::with_seed(seed);
            for seed in property.seeds {
                (property.holds)(seed);
            }
            for _ in 0..INPUTS {
                let input = input(&mut random, property.seeds);
                let holds = std::panic::catch_unwind(|| (property.holds)(&input));
                let (name, shown) = (property.name, input.escape_ascii());
                assert!(holds.is_ok(), "{name} does not hold for b\"{shown}\" (seed {seed})");
            }
        }
    }
}

/// A seed with some of its bytes changed, doubled, taken away or exchanged for those of another.
fn input(random: &mut fastrand::Rng, seeds: &[&[u8]]) -> Vec<u8> {
    let choose = |random: &mut fastrand::Rng| seeds[random.usize(..seeds.len())];
    let mut input = choose(random).to_vec();
    for _ in 0..random.usize(..8) {
        let at = random.usize(..=input.len());
        let end = random.usize(at..=input.len().min(at + 16));
        match random.u8(..6) {
            0 => input.insert(at, random.u8(..)),
            1 => drop(input.drain(at..end)),
            2 => {
                let doubled = input[at..end].to_vec();
                input.splice(at..at, doubled);
            }
            3 => {
                let other = choose(random);
                let from = random.usize(..=other.len());
                input.splice(at..end, other[from..].iter().copied());
            }
            4 => input.truncate(at),
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.u8(..8);
                }
            }
        }
    }
    input
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_parses_bytes_holds_its_properties_for_some_thousand_inputs() {
        super::check(&super::all());
    }
}
