//! What the page shows of a livepool: every connection with its state, and the events of a moment added
//! up. An [`Observer`] writes it, and each frame reads it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use livepool::event::{Check, CheckVerdict, CheckoutOutcome, DialOutcome};
use livepool::{CloseReason, Event, Observer, PeerAddr, PeerState};
use serde::Serialize;

use crate::contenders::{Origins, socket_addr};
use crate::fleet::Fleet;

/// How long a connection that has ended stays on the page.
const AFTERGLOW: Duration = Duration::from_secs(3);

/// The most of these that are kept.
const MOST_ENDED: usize = 400;

/// How long a peer has to be silent for its answer to be news.
const NEWS: Duration = Duration::from_millis(300);

/// The most kinds of events that one tick tells apart.
const MOST_KINDS: usize = 64;

/// The state of a connection, as its place on the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Idle,
    InUse,
    Shared,
    Quarantined,
}

/// A connection, as the page draws it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Dot {
    pub(crate) id: u64,
    pub(crate) peer: Option<usize>,
    pub(crate) place: Place,
    pub(crate) age_ms: u64,
    /// How long ago its peer gave the last proof of life that the pool has taken note of.
    pub(crate) heard_ms: u64,
    pub(crate) uses: u64,
    pub(crate) users: u32,
}

/// A connection that has ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ended {
    pub(crate) id: u64,
    pub(crate) peer: Option<usize>,
    pub(crate) reason: &'static str,
    /// It was found dead, and not ended by rule or by its user.
    pub(crate) was_death: bool,
    pub(crate) age_ms: u64,
    pub(crate) ago_ms: u64,
}

/// Events of one kind within one tick.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) at_ms: u64,
    pub(crate) what: &'static str,
    pub(crate) why: String,
    pub(crate) peer: Option<usize>,
    pub(crate) count: u64,
    /// The first connections that it happened to.
    pub(crate) conns: Vec<u64>,
    /// How the page marks it.
    pub(crate) tone: Tone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tone {
    Good,
    Plain,
    Warn,
    Bad,
    /// Somebody pressed a button.
    Button,
}

type Kind = (&'static str, String, Option<usize>, Tone);

struct Conn {
    peer: Option<usize>,
    opened: Instant,
    heard: Instant,
    uses: u64,
    /// May be below zero for a moment: two threads tell of one connection in either order.
    users: i64,
    is_shared: bool,
    /// While its peer is being asked for a sign of life: since when.
    silent: Option<Instant>,
}

#[derive(Default)]
struct Inside {
    conns: HashMap<u64, Conn>,
    ended: Vec<(Instant, Ended)>,
    kinds: BTreeMap<Kind, (u64, Vec<u64>)>,
}

#[derive(Clone)]
pub(crate) struct Board {
    fleet: Fleet,
    inside: Arc<Mutex<Inside>>,
}

impl Board {
    pub(crate) fn new(fleet: &Fleet) -> Self {
        Self { fleet: fleet.clone(), inside: Arc::default() }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn peer(&self, peer: &PeerAddr) -> Option<usize> {
        self.fleet.peer_at(socket_addr(peer)?)
    }

    /// All connections, the oldest first.
    pub(crate) fn dots(&self) -> Vec<Dot> {
        let inside = self.inside();
        let mut dots: Vec<Dot> = inside.conns.iter().map(|(id, conn)| conn.dot(*id)).collect();
        drop(inside);
        dots.sort_unstable_by_key(|dot| dot.id);
        dots
    }

    pub(crate) fn ended(&self) -> Vec<Ended> {
        let mut inside = self.inside();
        inside.ended.retain(|(at, _)| at.elapsed() < AFTERGLOW);
        let aged =
            |(at, ended): &(Instant, Ended)| Ended { ago_ms: ms(at.elapsed()), ..ended.clone() };
        inside.ended.iter().map(aged).collect()
    }

    /// What happened since the last time.
    pub(crate) fn take_lines(&self, at_ms: u64) -> Vec<Line> {
        let kinds = std::mem::take(&mut self.inside().kinds);
        let line = |((what, why, peer, tone), (count, conns)): (Kind, (u64, Vec<u64>))| Line {
            at_ms,
            what,
            why,
            peer,
            count,
            conns,
            tone,
        };
        kinds.into_iter().map(line).collect()
    }

    /// Notes a button that was pressed.
    pub(crate) fn pressed(&self, what: &'static str, why: &str, peer: Option<usize>) {
        self.inside().note((what, why.to_owned(), peer, Tone::Button), None);
    }
}

impl Conn {
    fn dot(&self, id: u64) -> Dot {
        let place = match self.users {
            1.. if self.is_shared => Place::Shared,
            1.. => Place::InUse,
            _ if self.silent.is_some() => Place::Quarantined,
            _ => Place::Idle,
        };
        Dot {
            id,
            peer: self.peer,
            place,
            age_ms: ms(self.opened.elapsed()),
            heard_ms: ms(self.heard.elapsed()),
            uses: self.uses,
            users: u32::try_from(self.users).unwrap_or(0),
        }
    }
}

impl Inside {
    fn note(&mut self, kind: Kind, conn: Option<u64>) {
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&kind) {
            return;
        }
        let (count, conns) = self.kinds.entry(kind).or_default();
        *count += 1;
        if conns.len() < 3 {
            conns.extend(conn);
        }
    }

    fn checked(&mut self, id: u64, check: Check, verdict: CheckVerdict, heard: Option<Duration>) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let heard = heard.and_then(|ago| Instant::now().checked_sub(ago));
        conn.heard = heard.map_or(conn.heard, |heard| heard.max(conn.heard));
        let peer = conn.peer;
        match (check, verdict) {
            (Check::Life, CheckVerdict::Unproved) => {
                conn.silent.get_or_insert_with(Instant::now);
                return;
            }
            (Check::Probe | Check::Life | Check::Ping, CheckVerdict::Alive) => {}
            _ => return,
        }
        // An answer that came at once is a matter of course.
        if conn.silent.take().is_some_and(|since| since.elapsed() > NEWS) {
            self.note(("heard again", "probe answered".to_owned(), peer, Tone::Good), Some(id));
        }
    }
}

impl Origins for Board {
    fn origin(&self, conn: u64) -> Option<(usize, Instant)> {
        let inside = self.inside();
        let conn = inside.conns.get(&conn)?;
        Some((conn.peer?, conn.opened))
    }

    fn is_shared(&self, conn: u64) {
        if let Some(conn) = self.inside().conns.get_mut(&conn) {
            conn.is_shared = true;
        }
    }
}

impl Observer for Board {
    fn on_event(&self, _: &str, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Opened { conn, peer, .. } => {
                let peer = self.peer(peer);
                let (users, is_shared, silent) = (0, false, None);
                let new = Conn { peer, opened: now, heard: now, uses: 0, users, is_shared, silent };
                let mut inside = self.inside();
                inside.conns.insert(conn.get(), new);
                inside.note(("opened", String::new(), peer, Tone::Good), Some(conn.get()));
            }
            Event::CheckedOut { conn, .. } => {
                if let Some(conn) = self.inside().conns.get_mut(&conn.get()) {
                    conn.uses += 1;
                    conn.users += 1;
                    conn.silent = None;
                }
            }
            Event::Returned { conn, .. } => {
                if let Some(conn) = self.inside().conns.get_mut(&conn.get()) {
                    conn.users -= 1;
                    conn.is_shared &= conn.users > 0;
                    // Its exchange was complete, so there was an answer.
                    conn.heard = now;
                }
            }
            Event::Checked { conn, check, verdict, heard, .. } => {
                self.inside().checked(conn.get(), *check, *verdict, *heard);
            }
            Event::Closed { conn, peer, reason, age, .. } => {
                self.closed(conn.get(), peer, *reason, *age)
            }
            Event::DialFailed { outcome, .. } => {
                let tone = match outcome {
                    DialOutcome::Cancelled => Tone::Plain,
                    _ => Tone::Bad,
                };
                self.inside().note(("dial failed", outcome.to_string(), None, tone), None);
            }
            Event::CheckoutFailed { outcome, .. } if *outcome != CheckoutOutcome::Cancelled => {
                let kind = ("caller not served", outcome.to_string(), None, Tone::Bad);
                self.inside().note(kind, None);
            }
            Event::PeerChanged { peer, from, to, .. } => {
                let tone = match to {
                    PeerState::Healthy => Tone::Good,
                    PeerState::Ejected => Tone::Bad,
                    _ => Tone::Warn,
                };
                let kind = ("peer", format!("{from} → {to}"), self.peer(peer), tone);
                self.inside().note(kind, None);
            }
            Event::TimedOut { operation, conn, .. } => {
                let kind = ("timed out", operation.to_string(), None, Tone::Warn);
                self.inside().note(kind, conn.map(livepool::ConnId::get));
            }
            Event::WaitedTooLong { conn, .. } => {
                let kind = ("waited too long", String::new(), None, Tone::Warn);
                self.inside().note(kind, Some(conn.get()));
            }
            _ => {}
        }
    }
}

impl Board {
    fn closed(&self, id: u64, peer: &PeerAddr, reason: CloseReason, age: Duration) {
        let (peer, reason_name, was_death) = (self.peer(peer), reason.as_str(), reason.is_death());
        let age_ms = ms(age);
        let ended = Ended { id, peer, reason: reason_name, was_death, age_ms, ago_ms: 0 };
        let tone = if was_death { Tone::Bad } else { Tone::Plain };
        let what = if reason.is_eviction() { "evicted" } else { "closed" };
        let mut inside = self.inside();
        inside.conns.remove(&id);
        if inside.ended.len() >= MOST_ENDED {
            inside.ended.remove(0);
        }
        inside.ended.push((Instant::now(), ended));
        inside.note((what, reason_name.to_owned(), peer, tone), Some(id));
    }
}

pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
