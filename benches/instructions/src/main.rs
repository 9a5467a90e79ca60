//! One hot path, so many times: for callgrind, which counts the instructions of [`measured`] alone.
//!
//! `scripts/instructions` runs all of them, divides, and compares with `counts.txt`.

mod by_hand;
mod paths;

use std::env;

fn main() {
    let mut args = env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let rounds = args.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(1000);
    let Some((_, path)) = paths::ALL.iter().find(|(one, _)| *one == name) else {
        for (name, _) in paths::ALL {
            println!("{name}");
        }
        return;
    };
    path(rounds);
}

/// What is counted. Never inlined: its name is what callgrind switches on.
#[inline(never)]
pub(crate) fn measured(run: &mut dyn FnMut()) {
    run();
}
