//! For tests: the same bytes in pieces of every kind.

/// Ways to cut `len` bytes: not at all, everywhere, and at random with fixed seeds.
pub(super) fn ways(len: usize) -> impl Iterator<Item = Vec<usize>> {
    let random = (1..20).map(move |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let most = 1 + random.usize(..40);
        pieces(len, || random.usize(1..=most))
    });
    [vec![len], vec![1; len]].into_iter().chain(random)
}

fn pieces(len: usize, mut size: impl FnMut() -> usize) -> Vec<usize> {
    let mut left = len;
    let mut sizes = Vec::new();
    while left > 0 {
        let size = size().min(left);
        sizes.push(size);
        left -= size;
    }
    sizes
}
