//! The text of a report: what is asked first comes first, and no line is wider than a terminal.

use std::fmt::{self, Write};
use std::time::Duration;

use super::{
    COLUMNS, DialerReport, DialerWait, ErrorReport, HolderReport, Holds, PeerReport, Report,
    WaiterReport,
};
use crate::event::PeerState;
use crate::text::Escaped;

/// So many of each kind are in the text.
const SHOWN: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, status, dialer, .. } = self;
        line(f, 0, &format!("pool {}: {status}", Escaped(pool)))?;
        section(f, "held, the longest first", &self.holders, self.more_holders, SHOWN)?;
        section(f, "waiting, the next first", &self.waiting, self.more_waiting, SHOWN)?;
        section(f, "peers", &self.peers, self.more_peers, SHOWN)?;
        line(f, 0, &format!("dialer: {dialer}"))?;
        // All: they are few kinds.
        section(f, "errors of late, the last first", &self.errors, 0, usize::MAX)
    }
}

/// A heading, and one entry for each; nothing where there is none.
fn section<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    heading: &str,
    entries: &[T],
    more: usize,
    shown: usize,
) -> fmt::Result {
    if entries.is_empty() {
        return Ok(());
    }
    line(f, 0, &format!("{heading}:"))?;
    let shown = entries.len().min(shown);
    for entry in &entries[..shown] {
        line(f, 2, &entry.to_string())?;
    }
    match more + entries.len() - shown {
        0 => Ok(()),
        more => line(f, 2, &format!("and {more} more")),
    }
}

/// One line, or more where it is too wide: broken between words if it can be, and indented further.
fn line(f: &mut fmt::Formatter<'_>, indent: usize, text: &str) -> fmt::Result {
    let (mut width, mut is_first) = (0, true);
    for word in text.split(' ') {
        let mut word: &str = word;
        loop {
            let needed = word.chars().count() + usize::from(width > 0);
            if is_first || (width > 0 && width + needed > COLUMNS) {
                if !is_first {
                    f.write_char('\n')?;
                }
                let indent = if is_first { indent } else { indent + 4 };
                write!(f, "{:indent$}", "")?;
                (width, is_first) = (indent, false);
            } else if width > 0 {
                f.write_char(' ')?;
                width += 1;
            }
            // A word that is wider than all there is.
            let room = COLUMNS - width;
            match word.char_indices().nth(room) {
                Some((at, _)) => {
                    f.write_str(&word[..at])?;
                    word = &word[at..];
                    width = COLUMNS;
                }
                None => {
                    f.write_str(word)?;
                    width += word.chars().count();
                    break;
                }
            }
        }
    }
    f.write_char('\n')
}

impl fmt::Display for HolderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { conn, peer, holds, held, taken_at, span } = self;
        write!(f, "{conn} to {peer}, ")?;
        match (holds, held) {
            (Holds::Reset, _) => f.write_str("being reset")?,
            (Holds::Connection, None) => f.write_str("on its way to or from a caller")?,
            (Holds::Connection, Some(held)) => write!(f, "{}", Time(*held))?,
            (Holds::Share, None) => f.write_str("shared")?,
            (Holds::Share, Some(held)) => write!(f, "shared {}", Time(*held))?,
        }
        if let Some(place) = taken_at {
            write!(f, ", taken at {place}")?;
        }
        match span {
            Some(span) => write!(f, ", in span {span}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for WaiterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waited, left, wants_share, asked_at } = self;
        write!(f, "{}", Time(*waited))?;
        match left {
            Some(left) => write!(f, ", {} left", Time(*left))?,
            None => f.write_str(", for ever")?,
        }
        f.write_str(if *wants_share { ", for a share" } else { "" })?;
        write!(f, ", asked at {asked_at}")
    }
}

impl fmt::Display for PeerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addr, state, connections, heard, attempt, death, pause } = self;
        write!(f, "{addr} {state}, {connections} open")?;
        if let Some(heard) = heard {
            write!(f, ", heard {} ago", Time(*heard))?;
        }
        if let Some(death) = death {
            write!(f, ", last death {} {} ago", death.what, Time(death.ago))?;
        }
        if let Some(attempt) = attempt {
            write!(f, ", last attempt {} {} ago", attempt.what, Time(attempt.ago))?;
        }
        match pause {
            Some(pause) if *state != PeerState::Draining => {
                write!(f, ", left alone for {}", Time(*pause))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for DialerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { under_way, waits_for, left } = self;
        match under_way.first() {
            None => f.write_str("no dial under way; ")?,
            Some(longest) => {
                let count = under_way.len();
                write!(f, "{count} under way, the longest for {}; ", Time(*longest))?;
            }
        }
        write!(f, "{waits_for}")?;
        match left {
            Some(left) => write!(f, ", {} left", Time(*left)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for DialerWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Demand => "waits for demand",
            Self::Dials => "waits for a dial to end (max_connecting)",
            Self::OneDial => "waits for the one dial that finds out whether the upstream is back",
            Self::Pause => "waits for the end of the pause after failed dials",
            Self::Slot => "waits for a connection to come back or end (max_size)",
            Self::Silent => "waits for connections that are being asked or reset",
            Self::Resume => "waits for resume()",
            Self::Runtime => "waits for the first checkout",
            Self::Closed => "has ended with the pool",
            Self::Turn => "is about to dial",
        })
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, peer, text, count, first, last } = self;
        f.write_str(what)?;
        if let Some(peer) = peer {
            write!(f, " of {peer}")?;
        }
        match count {
            1 => write!(f, ", {} ago", Time(*last))?,
            _ => {
                write!(f, ", {count} times in {}, the last {} ago", Time(*first), Time(*last))?;
            }
        }
        match text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

/// A time with as much as one reads.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0..120 => write!(f, "{:.1}s", self.0.as_secs_f64()),
            seconds @ 120..7200 => write!(f, "{}min", seconds / 60),
            seconds => write!(f, "{}h", seconds / 3600),
        }
    }
}
