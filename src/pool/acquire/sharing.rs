//! Sharing: connections that several callers use at a time, and which of them a caller joins.
//!
//! A connection that is shared is a lease that its callers hold together: the first of them has it out of
//! the idle set or the queue, and it comes back when the last one has gone, as from one of them. While
//! nobody waits, a caller joins at once, or takes an idle connection where the rule wants another one.
//! Those who wait stand in the one queue with all others. A connection may be kept for callers who want
//! one for themselves: it is joined by nobody any more, and is theirs when it comes back.

use std::fmt;
use std::panic::Location;

use tokio::time::Instant;

use crate::error::Holder;
use crate::event::{ConnId, Event};
use crate::net::PeerAddr;
use crate::pool::acquire::wait_queue::Given;
use crate::pool::conn::age::Age;
use crate::pool::conn::erased::PoolProtocol;
use crate::pool::conn::lease::Lease;
use crate::pool::health::silence::is_in_doubt;
use crate::pool::inner::PoolInner;
use crate::protocol::Conn;
use crate::report::{HolderReport, Holds};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use crate::telemetry::Span;

/// How callers who share are spread over connections.
///
/// ```
/// use livepool::protocol::Spread;
///
/// // Fill each connection up to 16 callers before another one is used.
/// let spread = Spread::Even(16);
/// assert_ne!(format!("{spread:?}"), format!("{:?}", Spread::Pack));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// As few connections as can be: another one when all others are full. For a server whose one
    /// thread does all the work, and that gains by what comes together.
    Pack,
    /// The connection with the fewest callers, and another one when each has so many. For a server
    /// with a process or thread for each connection.
    Even(usize),
}

/// What the protocol of a pool says of sharing.
#[derive(Debug, Clone, Copy)]
pub(in crate::pool) struct Rule {
    pub(in crate::pool) spread: Spread,
    /// How many callers may use a connection as it is now. It calls the protocol.
    pub(in crate::pool) most: fn(&PoolProtocol, &Conn) -> usize,
}

/// A lease that several callers hold.
pub(in crate::pool) struct SharedLease {
    lease: Lease,
    /// How many have it. Once 0, it is joined by nobody: whoever made it so ends it.
    shares: AtomicUsize,
    /// How many it may have.
    most: AtomicUsize,
    /// Kept for a caller who wants it for himself.
    is_reserved: AtomicBool,
    /// Nobody joins any more.
    is_over: AtomicBool,
    /// Who has a share: noted only if `hold_warning` is set. Nothing is dropped or called under this lock.
    holders: Mutex<Vec<Arc<SharerNote>>>,
}

/// Who has a share.
struct SharerNote {
    since: Instant,
    taken_at: &'static Location<'static>,
    span: Arc<Span>,
    reported: AtomicBool,
}

/// The connections of a pool that are shared.
#[derive(Default)]
pub(in crate::pool) struct SharedSet {
    rule: OnceLock<Rule>,
    /// Looked at, pushed and removed under this lock, nothing else. Callers only look: joining and leaving
    /// change counts.
    open: RwLock<Vec<Arc<SharedLease>>>,
    /// Some are kept for callers who want one.
    has_reserved: AtomicBool,
    /// The dialer was told that one more would be of use, and has not found otherwise since.
    wants_more: AtomicBool,
}

/// What a connection is fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shareability {
    Shareable,
    /// For as many as have it.
    Full,
    /// For those who have it already.
    Alone,
    Unfit,
}

/// What the rule sees of a connection.
#[derive(Debug, Clone, Copy)]
struct Load {
    shares: usize,
    most: usize,
    is_open: bool,
}

/// Where a caller goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Join(usize),
    /// To another connection; if there is none, to this one.
    Crowded(usize),
    /// All have as many as they may have.
    Full,
}

/// The rule: which of these connections the next caller joins.
fn choose(loads: impl Iterator<Item = Load>, spread: Spread) -> Choice {
    // One without shares is about to come back.
    let with_room =
        |(_, load): &(usize, Load)| load.is_open && load.shares > 0 && load.shares < load.most;
    let mut loads = loads.enumerate().filter(with_room);
    match spread {
        Spread::Pack => loads.next().map_or(Choice::Full, |(at, _)| Choice::Join(at)),
        Spread::Even(depth) => match loads.min_by_key(|(_, load)| load.shares) {
            Some((at, load)) if load.shares < depth => Choice::Join(at),
            Some((at, _)) => Choice::Crowded(at),
            None => Choice::Full,
        },
    }
}

/// Which connections are kept for callers who want one for themselves, besides those that are: the ones
/// that will be free the soonest.
fn to_reserve(loads: &[(usize, bool)], wanted: usize) -> Vec<usize> {
    let reserved = loads.iter().filter(|(_, is_reserved)| *is_reserved).count();
    let mut others: Vec<usize> = (0..loads.len()).filter(|at| !loads[*at].1).collect();
    others.sort_by_key(|at| loads[*at].0);
    others.truncate(wanted.saturating_sub(reserved));
    others
}

impl SharedLease {
    fn conn(&self) -> &Conn {
        self.lease.conn()
    }

    fn load(&self) -> Load {
        let is_over = self.is_over.load(Ordering::Acquire);
        Load {
            shares: self.shares.load(Ordering::Relaxed),
            most: self.most.load(Ordering::Relaxed),
            is_open: !is_over && !self.is_reserved.load(Ordering::Relaxed) && self.conn().is_well(),
        }
    }

    /// Joins, unless it has as many as it may have, or the last one has gone.
    fn join(&self) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let joined = |shares| (shares > 0 && shares < most).then_some(shares + 1);
        self.shares.fetch_update(Ordering::SeqCst, Ordering::Relaxed, joined).is_ok()
    }

    fn holders(&self) -> MutexGuard<'_, Vec<Arc<SharerNote>>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        self.lease.end_sharing();
    }
}

impl SharedSet {
    /// The rule, which is made once.
    pub(in crate::pool) fn rule(&self, make: impl FnOnce() -> Rule) -> Rule {
        if let Some(rule) = self.rule.get() {
            return *rule;
        }
        // It calls the protocol, which may ask for a share itself.
        let rule = make();
        *self.rule.get_or_init(|| rule)
    }

    /// How many connections are shared, and how many shares there are.
    pub(in crate::pool) fn counts(&self) -> (usize, usize) {
        let open = self.open();
        (open.len(), open.iter().map(|shared| shared.shares.load(Ordering::Relaxed)).sum())
    }

    /// Whether one connection more would be of use: each has as many callers as it should.
    pub(in crate::pool) fn is_crowded(&self) -> bool {
        let Some(rule) = self.rule.get() else { return false };
        // Where there is none that is joined, those who wait say how many are missing.
        let loads: Vec<_> =
            self.open().iter().map(|shared| shared.load()).filter(|load| load.is_open).collect();
        !loads.is_empty() && !matches!(choose(loads.into_iter(), rule.spread), Choice::Join(_))
    }

    /// How many connections those need who wait for a share, so many of them, where one may have up to
    /// `most`.
    pub(in crate::pool) fn needed_by(&self, sharers: usize, most: usize) -> usize {
        // A peer may take fewer.
        let taken = self.open().iter().map(|shared| shared.most.load(Ordering::Relaxed)).max();
        let most = most.min(taken.unwrap_or(most));
        let depth = match self.rule.get().map(|rule| rule.spread) {
            Some(Spread::Even(depth)) => depth.min(most),
            Some(Spread::Pack) => most,
            None => 1,
        };
        sharers.div_ceil(depth.max(1))
    }

    /// For the dialer, which has seen to it, or found that there is nothing to see to.
    pub(in crate::pool) fn has_enough(&self) {
        self.wants_more.store(false, Ordering::SeqCst);
    }

    fn all(&self) -> Vec<Arc<SharedLease>> {
        self.open().clone()
    }

    /// Joins a connection. `reserved` are kept for others. Where the rule wants another one: only if
    /// there is none.
    fn join(&self, spread: Spread, reserved: usize, may_crowd: bool) -> Option<Arc<SharedLease>> {
        if reserved > 0 || self.has_reserved.load(Ordering::Relaxed) {
            let open = self.open_mut();
            reserve(&open, reserved);
            self.has_reserved.store(reserved > 0, Ordering::Relaxed);
        }
        loop {
            let open = self.open();
            let at = match self.choose(&open, spread, may_crowd) {
                Choice::Join(at) => at,
                Choice::Crowded(at) if may_crowd => at,
                _ => return None,
            };
            // Else another caller was first, or the last one has gone.
            if open[at].join() {
                return Some(Arc::clone(&open[at]));
            }
        }
    }

    /// Of many, the better of two is nearly as good as the best, and costs a look at two.
    fn choose(&self, open: &[Arc<SharedLease>], spread: Spread, may_crowd: bool) -> Choice {
        if open.len() > FEW && !matches!(spread, Spread::Pack) {
            let two = [fastrand::usize(..open.len()), fastrand::usize(..open.len())];
            match choose(two.iter().map(|at| open[*at].load()), spread) {
                Choice::Join(at) => return Choice::Join(two[at]),
                Choice::Crowded(at) if may_crowd => return Choice::Crowded(two[at]),
                _ => {}
            }
        }
        choose(open.iter().map(|shared| shared.load()), spread)
    }

    fn add(&self, shared: &Arc<SharedLease>) {
        self.open_mut().push(Arc::clone(shared));
    }

    /// Gives a share back. The connection comes back when its last one has gone: it is returned, to be
    /// dropped when the lock is free.
    fn leave(&self, shared: &Arc<SharedLease>) -> Option<Arc<SharedLease>> {
        if shared.shares.fetch_sub(1, Ordering::SeqCst) > 1 {
            return None;
        }
        let mut open = self.open_mut();
        let at = open.iter().position(|other| Arc::ptr_eq(other, shared))?;
        Some(open.swap_remove(at))
    }

    fn open(&self) -> RwLockReadGuard<'_, Vec<Arc<SharedLease>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_mut(&self) -> RwLockWriteGuard<'_, Vec<Arc<SharedLease>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// So many connections are looked at, all of them.
const FEW: usize = 2;

/// With the set locked.
fn reserve(open: &[Arc<SharedLease>], wanted: usize) {
    let is_reserved = |shared: &Arc<SharedLease>| shared.is_reserved.load(Ordering::Relaxed);
    if wanted == 0 {
        for shared in open.iter().filter(|shared| is_reserved(shared)) {
            shared.is_reserved.store(false, Ordering::Relaxed);
        }
        return;
    }
    let loads: Vec<_> =
        open.iter().map(|shared| (shared.load().shares, is_reserved(shared))).collect();
    for at in to_reserve(&loads, wanted) {
        open[at].is_reserved.store(true, Ordering::Relaxed);
    }
}

/// One caller's part of a connection that is shared. Dropped, it is given back.
pub(in crate::pool) struct SharePart {
    /// Always there until it is dropped.
    shared: Option<Arc<SharedLease>>,
    /// The age of the connection when it was joined.
    since: Age,
    /// The place where the caller asked for it who got it. Until then nobody is told where it goes.
    taken_at: Option<&'static Location<'static>>,
    note: Option<Arc<SharerNote>>,
    /// It was joined in vain: whoever did goes on to look.
    is_void: bool,
}

impl SharePart {
    fn new(shared: Arc<SharedLease>) -> Self {
        let since = shared.lease.age();
        Self { shared: Some(shared), since, taken_at: None, note: None, is_void: false }
    }

    fn shared(&self) -> &Arc<SharedLease> {
        self.shared.as_ref().expect("a part has its connection until it is dropped")
    }

    pub(in crate::pool) fn inner(&self) -> &Arc<PoolInner> {
        self.shared().lease.inner()
    }

    pub(in crate::pool) fn conn(&self) -> &Conn {
        self.shared().conn()
    }

    pub(in crate::pool) fn id(&self) -> ConnId {
        self.shared().lease.id()
    }

    pub(in crate::pool) fn peer_addr(&self) -> &PeerAddr {
        self.shared().lease.peer_addr()
    }

    /// It does not answer in time: nobody else joins it, so that it comes back, and is put right.
    pub(in crate::pool) fn is_late(&self) {
        self.shared().is_over.store(true, Ordering::Release);
    }

    /// The caller has it.
    pub(in crate::pool) fn claim_share(&mut self, taken_at: &'static Location<'static>) {
        self.taken_at = Some(taken_at);
        if self.inner().live().notes_holders() {
            let (since, span) = (Instant::now(), Arc::new(Span::current()));
            let reported = AtomicBool::new(false);
            let note = Arc::new(SharerNote { since, taken_at, span, reported });
            self.shared().holders().push(Arc::clone(&note));
            self.note = Some(note);
        }
    }
}

impl fmt::Debug for SharePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharePart").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Drop for SharePart {
    fn drop(&mut self) {
        if let Some(note) = &self.note {
            self.shared().holders().retain(|other| !Arc::ptr_eq(other, note));
        }
        let Some(shared) = self.shared.take() else { return };
        let pool = shared.lease.inner();
        if self.taken_at.is_some() {
            pool.emitter().returned(shared.lease.id(), shared.lease.age().since(self.since));
        }
        let last = pool.shares.leave(&shared);
        // In one order with whoever joins the queue and looks at the set then.
        let serves = !self.is_void && pool.wait_queue.sharing() > 0;
        let waiting = serves.then(|| Arc::clone(pool));
        drop(shared);
        // The connection comes back, to the first in the queue, if there is one.
        drop(last);
        if let Some(pool) = waiting {
            pool.serve_sharers();
        }
    }
}

impl PoolInner {
    /// Takes a share without waiting, if one is to be had; or a connection to share, which has to be pinged.
    pub(in crate::pool) fn share_at_once(self: &Arc<Self>, rule: Rule) -> Option<Given> {
        if !self.wait_queue.is_empty() {
            // Nobody who waits for a share is overtaken. Those who wait for a connection of their own have
            // use for none that is in use, but for those that are kept for them.
            if self.wait_queue.sharing() > 0 {
                return None;
            }
            return self.join(rule, self.to_keep(), true).map(Given::Share);
        }
        // Where there is no other one to be had, that they have many is no matter.
        let is_all = !self.slots.are_free() && self.idle_set.is_empty();
        if let Some(part) = self.join(rule, 0, is_all) {
            return Some(Given::Share(part));
        }
        if let Some(lease) = self.at_once() {
            return match self.prepares() {
                true => Some(Given::Lease(lease)),
                false => self.open(lease, rule).map(Given::Share),
            };
        }
        let part = self.join(rule, 0, true)?;
        if self.slots.are_free() && !self.shares.wants_more.swap(true, Ordering::SeqCst) {
            self.slots.announce();
        }
        Some(Given::Share(part))
    }

    /// Joins a connection that is fit for it.
    fn join(self: &Arc<Self>, rule: Rule, reserved: usize, may_crowd: bool) -> Option<SharePart> {
        loop {
            let shared = self.shares.join(rule.spread, reserved, may_crowd)?;
            let mut part = SharePart::new(shared);
            if self.shareability(part.shared(), rule, part.since) == Shareability::Shareable {
                return Some(part);
            }
            part.is_void = true;
        }
    }

    /// Shares a connection that was idle, made or given back, unless there is room by now on one that is
    /// shared. Returns `None` for one that is not fit for it.
    pub(in crate::pool) fn share(self: &Arc<Self>, lease: Lease, rule: Rule) -> Option<SharePart> {
        if let Some(part) = self.join(rule, 0, false) {
            // To the next in the queue, or to the idle ones.
            drop(lease);
            return Some(part);
        }
        self.open(lease, rule)
    }

    fn open(self: &Arc<Self>, mut lease: Lease, rule: Rule) -> Option<SharePart> {
        lease.begin_sharing();
        let shared = Arc::new(SharedLease {
            lease,
            shares: AtomicUsize::new(1),
            most: AtomicUsize::new(self.live().max_shares()),
            is_reserved: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            holders: Mutex::default(),
        });
        // Not known yet, it is nobody else's: if it is not fit, it goes back. One that nobody may join is
        // good enough for one.
        let now = shared.lease.age();
        if self.shareability(&shared, rule, now) == Shareability::Unfit {
            return None;
        }
        self.shares.add(&shared);
        let part = SharePart::new(shared);
        // There is room for others now, who may have joined the queue meanwhile.
        self.serve_sharers();
        Some(part)
    }

    /// Whether a connection may be shared with one more. If not, nobody else joins, and what was found
    /// out is told.
    fn shareability(&self, shared: &SharedLease, rule: Rule, now: Age) -> Shareability {
        let entry = shared.lease.entry();
        let in_doubt = entry.peer.is_doubted()
            && is_in_doubt(entry)
            && self.silence(entry, shared.conn(), now).is_some();
        if self.is_closed() || entry.outlived(now).is_some() || in_doubt || !shared.conn().is_well()
        {
            shared.is_over.store(true, Ordering::Release);
            return Shareability::Unfit;
        }
        let most = (rule.most)(&self.protocol, shared.conn()).min(self.live().max_shares());
        if most != shared.most.load(Ordering::Relaxed) {
            shared.most.store(most, Ordering::Relaxed);
        }
        if most == 0 && !shared.is_over.swap(true, Ordering::AcqRel) {
            let (conn, peer) = (shared.lease.id(), shared.lease.peer_addr().clone());
            self.emitter().emit(Event::SharingEnded { conn, peer });
        }
        match shared.shares.load(Ordering::Relaxed) {
            _ if most == 0 => Shareability::Alone,
            shares if shares > most => Shareability::Full,
            _ => Shareability::Shareable,
        }
    }

    /// How many shared connections are kept for callers who wait for one of their own: those for whom
    /// none can be made, or who wait for longer than that should take.
    fn to_keep(&self) -> usize {
        let alone = self.wait_queue.alone();
        if alone == 0 || !self.slots.are_free() {
            return alone;
        }
        let patience = Instant::now().checked_sub(self.settings().patience);
        patience.map_or(0, |long_ago| self.wait_queue.since(long_ago).0.min(alone))
    }

    /// Gives shares to those who wait for one, as long as there are any. To be called whenever there may
    /// be one more of either. Never waits.
    #[inline(always)]
    pub(in crate::pool) fn serve_sharers(self: &Arc<Self>) {
        if self.wait_queue.sharing() > 0 {
            self.give_shares();
        }
    }

    #[inline(never)]
    fn give_shares(self: &Arc<Self>) {
        let Some(rule) = self.shares.rule.get().copied() else { return };
        while self.wait_queue.sharing() > 0 && !self.is_stopped() {
            let reserved = self.wait_queue.in_front_of_sharers().min(self.to_keep());
            let Some(part) = self.join(rule, reserved, true) else { return };
            if let Err(unused) = self.wait_queue.give_share(part) {
                // The last one has gone meanwhile.
                drop(unused);
                return;
            }
        }
    }

    /// Looks at what is shared once per tick: what it is fit for, and whether somebody waits for it.
    pub(in crate::pool) fn look_at_shares(self: &Arc<Self>) {
        let Some(rule) = self.shares.rule.get().copied() else { return };
        for shared in self.shares.all() {
            self.shareability(&shared, rule, shared.lease.age());
        }
        self.serve_sharers();
    }

    /// Reports shares that were held for too long.
    pub(in crate::pool) fn report_sharers(&self) {
        let Some(limit) = self.settings().hold_warning else { return };
        let now = Instant::now();
        for shared in self.shares.all() {
            let mut late = Vec::new();
            for note in &*shared.holders() {
                let held = now.saturating_duration_since(note.since);
                if held >= limit && !note.reported.swap(true, Ordering::Relaxed) {
                    late.push((held, Arc::clone(note)));
                }
            }
            for (held, note) in late {
                let (conn, peer) = (shared.lease.id(), shared.lease.peer_addr().clone());
                let event = Event::HeldTooLong { conn, peer, held, taken_at: note.taken_at };
                note.span.in_scope(|| self.emitter().emit(event));
            }
        }
    }

    /// Who has shares: each of whom that is noted, and once for each connection that there are others.
    pub(in crate::pool) fn report_shares(&self, now: Instant) -> Vec<HolderReport> {
        let mut shares = Vec::new();
        for shared in self.shares.all() {
            let report = |note: Option<&Arc<SharerNote>>| HolderReport {
                conn: shared.lease.id(),
                peer: shared.lease.peer_addr().clone(),
                holds: Holds::Share,
                held: note.map(|note| now.saturating_duration_since(note.since)),
                taken_at: note.map(|note| note.taken_at),
                span: note.and_then(|note| note.span.name()),
            };
            let holders = shared.holders();
            shares.extend(holders.iter().map(|note| report(Some(note))));
            let has_others = shared.shares.load(Ordering::Relaxed) > holders.len();
            if has_others || holders.is_empty() {
                shares.push(report(None));
            }
        }
        shares
    }

    /// Who has shares, if that is noted.
    pub(in crate::pool) fn sharers(&self, now: Instant) -> Vec<Holder> {
        let mut sharers = Vec::new();
        for shared in self.shares.all() {
            sharers.extend(shared.holders().iter().map(|note| Holder {
                conn: shared.lease.id(),
                held: now.saturating_duration_since(note.since),
                taken_at: note.taken_at,
            }));
        }
        sharers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(loads: &[(usize, bool)]) -> impl Iterator<Item = Load> {
        loads.iter().map(|&(shares, is_open)| Load { shares, most: 4, is_open })
    }

    #[test]
    fn a_caller_joins_the_first_with_room_or_the_one_with_the_fewest() {
        use Choice::{Crowded, Full, Join};
        let (open, closed) = (true, false);
        for (of, packed, even) in [
            (&[][..], Full, Full),
            (&[(1, open)], Join(0), Join(0)),
            (&[(2, open)], Join(0), Crowded(0)),
            (&[(4, open)], Full, Full),
            (&[(1, closed)], Full, Full),
            (&[(3, open), (1, open), (0, closed)], Join(0), Join(1)),
            (&[(4, open), (3, open), (2, open)], Join(1), Crowded(2)),
            (&[(4, open), (4, open)], Full, Full),
        ] {
            assert_eq!(choose(loads(of), Spread::Pack), packed, "{of:?}");
            assert_eq!(choose(loads(of), Spread::Even(2)), even, "{of:?}");
        }
    }

    #[test]
    fn those_that_will_be_free_the_soonest_are_kept_for_callers_who_want_one() {
        for (of, wanted, expected) in [
            (&[][..], 1, &[][..]),
            (&[(3, false), (1, false), (2, false)], 0, &[]),
            (&[(3, false), (1, false), (2, false)], 1, &[1]),
            (&[(3, false), (1, false), (2, false)], 2, &[1, 2]),
            (&[(3, true), (1, false), (2, false)], 1, &[]),
            (&[(3, true), (1, false), (2, false)], 2, &[1]),
            (&[(3, true), (1, false)], 9, &[1]),
        ] {
            assert_eq!(to_reserve(of, wanted), expected, "{of:?}, {wanted}");
        }
    }
}
