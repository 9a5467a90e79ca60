//! What the callers saw, as a table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::load::Asked;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pool: &'static str,
    pub(crate) away: Duration,
    /// Of who asked before it was back, by kind.
    meanwhile: BTreeMap<String, usize>,
    /// Of who asked when it was back.
    after: BTreeMap<String, usize>,
    served_meanwhile: usize,
    pub(crate) first_after: Duration,
    pub(crate) longest: Duration,
}

impl Row {
    pub(crate) fn new(
        name: &'static str,
        pool: &'static str,
        asked: Vec<Asked>,
        away: Instant,
        back: Instant,
    ) -> Self {
        let (mut meanwhile, mut after) = (BTreeMap::new(), BTreeMap::new());
        let mut served_meanwhile = 0;
        let (mut first, mut longest) = (None, Duration::ZERO);
        for Asked { begun, ended, error } in asked {
            longest = longest.max(ended - begun);
            match error {
                Some(error) if begun < back => *meanwhile.entry(error).or_default() += 1,
                Some(error) => *after.entry(error).or_default() += 1,
                None if ended < back => served_meanwhile += usize::from(ended > away),
                None => first = Some(first.map_or(ended, |first: Instant| first.min(ended))),
            }
        }
        let first_after = first.expect("somebody was served") - back;
        let away = back - away;
        Self { name, pool, away, meanwhile, after, served_meanwhile, first_after, longest }
    }

    pub(crate) fn errors_meanwhile(&self) -> usize {
        self.meanwhile.values().sum()
    }

    pub(crate) fn errors_after(&self) -> usize {
        self.after.values().sum()
    }
}

/// As Markdown has it.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text =
        "| the database | pool | served meanwhile | errors of who asked before it was back \
                    | errors of who asked after that | first answer after that | longest wait |\n\
                    |---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} ms | {:.1} s |\n",
            row.name,
            row.pool,
            row.served_meanwhile,
            kinds(&row.meanwhile),
            kinds(&row.after),
            row.first_after.as_millis(),
            row.longest.as_secs_f64()
        );
    }
    text
}

fn kinds(errors: &BTreeMap<String, usize>) -> String {
    if errors.is_empty() {
        return "0".to_owned();
    }
    let each = errors.iter().map(|(kind, count)| format!("{count} {kind}"));
    each.collect::<Vec<_>>().join(", ")
}
