//! Measuring side by side: contenders take turns in short slices, so that what disturbs the machine
//! disturbs all of them, and what counts is the ratio within a turn.

use std::time::Duration;

/// One who is measured: does something so many times, and says how long it took.
pub struct Entry<'a> {
    pub name: &'static str,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Entry<'a> {
    pub fn new(name: &'static str, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub turns: usize,
    pub slice: Duration,
}

/// Nanoseconds each, for every turn.
#[derive(Debug)]
pub struct Times {
    names: Vec<&'static str>,
    turns: Vec<Vec<f64>>,
}

/// The middle of some numbers, and its quartiles.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let at = |part: f64| numbers[((numbers.len() - 1) as f64 * part).round() as usize];
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

impl Plan {
    /// The first slices warm up, and find out how many times fit into one.
    pub fn run(self, mut entries: Vec<Entry<'_>>) -> Times {
        let times: Vec<u64> = entries.iter_mut().map(|entry| self.fit(entry)).collect();
        let mut turns = Vec::with_capacity(self.turns);
        for turn in 0..self.turns {
            let mut row = vec![0.0; entries.len()];
            // Nobody always comes after the same one.
            for step in 0..entries.len() {
                let at = (turn + step) % entries.len();
                let took = (entries[at].run)(times[at]);
                row[at] = took.as_nanos() as f64 / times[at] as f64;
            }
            turns.push(row);
        }
        Times { names: entries.iter().map(|entry| entry.name).collect(), turns }
    }

    fn fit(self, entry: &mut Entry<'_>) -> u64 {
        let mut times = 1;
        loop {
            let took = (entry.run)(times);
            if took * 2 > self.slice {
                let fit = times as f64 * self.slice.as_secs_f64() / took.as_secs_f64();
                return (fit as u64).max(1);
            }
            times *= 2;
        }
    }
}

impl Times {
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Nanoseconds of one of them.
    pub fn of(&self, name: &str) -> Spread {
        self.map(|time| time(name))
    }

    /// Some figure of every turn.
    pub fn map(&self, figure: impl Fn(&dyn Fn(&str) -> f64) -> f64) -> Spread {
        let turns = self.turns.iter().map(|row| {
            figure(&|name| {
                let at = self.names.iter().position(|one| *one == name);
                row[at.unwrap_or_else(|| panic!("nobody is called {name:?}"))]
            })
        });
        Spread::of(turns.collect())
    }

    pub fn ratio(&self, ours: &str, theirs: &str) -> Spread {
        self.map(|time| time(ours) / time(theirs))
    }
}
