//! A lease that its owner keeps for as long as the connection lives, whether it is in use or not: that
//! of a plain deadpool, which tells nobody of a return.
//!
//! While nobody uses the connection its entry is idle and has a second handle to its socket, lent to
//! whoever looks after idle connections. The client stays with the owner, who can use it at any moment:
//! he has the handle back first. The entry is in no idle set, so that no other caller meets it. Its state
//! says who may touch it, as for all.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::{Lease, Leased};
use crate::deadline::Deadline;
use crate::event::{CloseReason, ConnId};
use crate::pool::acquire::ping::Proof;
use crate::pool::conn::entry::{Entry, Listing, State};
use crate::pool::conn::reset;
use crate::pool::health::quarantine::ProbeStart;
use crate::pool::inner::{PoolInner, has_runtime};
use crate::protocol::{Conn, Verdict};
use crate::stream::Ending;
use crate::sync::Arc;

/// A look at an idle connection takes microseconds, and its end is told to nobody.
const LOOK: Duration = Duration::from_millis(2);

/// A peer that was silent so short a time ago may be so still: a verdict takes two seconds.
const SILENT: Duration = Duration::from_secs(3);

/// Why a kept connection is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Lost {
    /// It has been closed now, for this reason.
    Closed(CloseReason),
    /// It was closed before, by whoever looks after idle connections.
    Ended,
    /// Its peer did not answer in time.
    Silent,
}

impl Lost {
    pub(in crate::pool) fn as_str(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.as_str(),
            Self::Ended => "it was closed while it was idle",
            Self::Silent => "its peer is silent",
        }
    }
}

impl From<CloseReason> for Lost {
    fn from(reason: CloseReason) -> Self {
        Self::Closed(reason)
    }
}

impl Lease {
    /// Whether it is looked after as an idle one, or has ended.
    pub(in crate::pool) fn is_parked(&self) -> bool {
        !self.entry.is(State::InUse)
    }

    pub(in crate::pool) fn has_ended(&self) -> bool {
        self.entry.is(State::Closed)
    }

    /// Its owner uses it. One that is being looked at this very moment stays with whoever looks: at
    /// worst it is closed under its user.
    #[inline]
    pub(in crate::pool) fn call_back(&self) {
        if self.is_parked() {
            self.unpark();
        }
    }

    #[cold]
    fn unpark(&self) {
        if let Some((lent, _)) = self.entry.claim_for_owner() {
            lent.set_idle(false);
        }
    }

    /// Makes it fit for its next user, or ends it: what the last user left is judged and reset, and it
    /// passes the checks of a checkout, the ping among them.
    ///
    /// Dropped in the middle, the lease stays where it is, or, during a ping, goes to the pool.
    pub(in crate::pool) async fn renew(kept: &mut Option<Self>) -> Result<(), Lost> {
        let Some(lease) = kept else { return Err(Lost::Ended) };
        if let Err(lost) = lease.refit_for_owner().await {
            if let Some(lease) = kept.take() {
                lease.lose(lost);
            }
            return Err(lost);
        }
        let Some(lease) = kept.take() else { return Err(Lost::Ended) };
        let (pool, entry) = (Arc::clone(lease.inner()), lease.entry_arc());
        match pool.proved(lease, Deadline::NEVER).await {
            Proof::Given(lease) => {
                *kept = Some(lease);
                Ok(())
            }
            Proof::Refused | Proof::RefusedByHook(_) | Proof::Late => {
                Err(Lost::Closed(entry.retired().unwrap_or(CloseReason::PingFailed)))
            }
        }
    }

    async fn refit_for_owner(&mut self) -> Result<(), Lost> {
        let lent = self.claim_back().await?;
        let was_parked = lent.is_some();
        if was_parked {
            self.look(lent).await?;
        }
        let has_reset = self.put_right().await?;
        if !was_parked && !has_reset {
            // Since when it was idle nobody knows: not before it was handed out.
            self.entry.skip_idle(self.since);
            self.look(None).await?;
        }
        let now = self.entry.age();
        // Of the next user, and nobody's until then.
        self.since = now;
        self.taken_at = None;
        match self.inner().unwanted(&self.entry, now) {
            Some(reason) => Err(reason.into()),
            None => Ok(()),
        }
    }

    /// Judges what the last user has left behind, and undoes it. Returns whether that took a reset.
    async fn put_right(&mut self) -> Result<bool, Lost> {
        let (reuse, unfit) = self.judge(Ending::Silent);
        if let Some(reason) = unfit {
            return Err(reason.into());
        }
        if reuse != Verdict::NeedsReset {
            self.note_end_of_use();
            return Ok(false);
        }
        self.reset_now().await?;
        Ok(true)
    }

    async fn reset_now(&mut self) -> Result<(), CloseReason> {
        let pool = Arc::clone(self.inner());
        self.conn.stream_mut().lift_limits();
        self.conn.wake_reader();
        let outcome = reset::put_right(&pool, &mut self.conn).await;
        if outcome.is_condemned {
            self.condemn();
        }
        if let Some(reason) = outcome.failed {
            return Err(reason);
        }
        self.note_end_of_use();
        self.begin_anew()
    }

    /// What a checkout looks at: limits, the peek, how long the peer was silent. Where that is too long
    /// the peer is asked, and waited for with patience. `lent` is the handle that it was parked with.
    async fn look(&mut self, lent: Option<Conn>) -> Result<(), Lost> {
        let pool = Arc::clone(self.inner());
        let Leased { conn, entry, .. } = &mut **self;
        conn.set_idle(true);
        entry.end_exchange(conn)?;
        let now = entry.age();
        // As if its sentinel had fired: the runtime of its socket may have ended.
        if let Some(reason) = pool.unusable(entry, conn, true, now) {
            return Err(reason.into());
        }
        if let Some(info) = pool.silence(entry, conn, now) {
            // Without a descriptor nobody can ask.
            let lent = lent.or_else(|| lend(conn)).ok_or(CloseReason::Superseded)?;
            entry.ask_for_owner();
            pool.quarantine(Arc::clone(entry), lent, ProbeStart::Reading(info));
            pool.maintain();
            drop(self.claim_back().await?);
            // It was heard. What came is looked at, too.
            if let Some(reason) = pool.unusable(&self.entry, &self.conn, true, self.entry.age()) {
                return Err(reason.into());
            }
        }
        self.conn.set_idle(false);
        Ok(())
    }

    /// Takes it from whoever looks after it, within the time that a silent peer has. Returns the handle that
    /// it was parked with; `None`, if it is not.
    async fn claim_back(&self) -> Result<Option<Conn>, Lost> {
        if !self.is_parked() {
            return Ok(None);
        }
        let pool = self.inner();
        let began = Instant::now();
        let end = began + self.patience(began);
        loop {
            let mut news = pin!(pool.dials.news());
            news.as_mut().enable();
            if let Some((lent, _)) = self.entry.claim_for_owner() {
                return Ok(Some(lent));
            }
            // Or whoever was about to park it has left it as it was.
            if !self.is_parked() {
                return Ok(None);
            }
            if self.has_ended() {
                return Err(Lost::Ended);
            }
            let now = Instant::now();
            if now >= end {
                pool.probing.note_impatience(began);
                return Err(Lost::Silent);
            }
            let _ = Deadline::at(end.min(now + LOOK)).run(news).await;
        }
    }

    /// How long a caller waits for a silent peer. deadpool has one connection after the other judged for
    /// one caller: only the first has the whole time, and those that were not heard since then need no
    /// more than an answer takes.
    fn patience(&self, now: Instant) -> Duration {
        let pool = self.inner();
        let whole = pool.patience();
        let heard = self.entry.moment(self.entry.heard());
        let is_known = |silent: Instant| heard < silent && now - silent < SILENT;
        match pool.probing.impatience().is_some_and(is_known) {
            true => (whole / 16).max(pool.probing.round_trip()),
            false => whole,
        }
    }

    fn lose(self, lost: Lost) {
        self.end_kept(match lost {
            Lost::Closed(reason) => reason,
            Lost::Silent => CloseReason::Superseded,
            Lost::Ended => CloseReason::Discarded,
        });
    }

    /// Ends it, whatever it is doing.
    pub(in crate::pool) fn end_kept(mut self, reason: CloseReason) {
        let mut leased = self.take();
        // How long of the time since then it was in use nobody knows.
        leased.taken_at = None;
        let lent = leased.entry.claim_for_owner();
        if lent.is_some() || leased.entry.is(State::InUse) {
            drop(lent);
            let reason = leased.conn.stream().tainted().unwrap_or(reason);
            leased.throw_away(reason);
        } else if !leased.entry.is(State::Closed) {
            // Whoever looks at it has a handle to it, and keeps it open until then.
            let pool = Arc::clone(&leased.pool.0);
            // Before the client goes, which says less.
            leased.conn.spoil(reason);
            let _ = pool.given_up.push((Arc::clone(&leased.entry), reason));
            pool.fired_queue.wake();
        }
    }

    /// Its place is not its own any more: the deadpool does not count it.
    pub(in crate::pool) fn leave_place(&self) {
        // In this order: there are never more connections than places.
        self.inner().registry.remove(self.entry.id);
        drop(self.entry.take_slot());
    }

    /// Begins to make it idle, unless it is already, or cannot be. Nothing foreign is called, and nothing
    /// waits: a lock of deadpool's is held.
    pub(in crate::pool) fn begin_parking(&self) -> Option<ParkingKept> {
        if self.is_parked() {
            return None;
        }
        // Of a bare stream its owner's handle knows what was exchanged; of a client any.
        let unfit = match &self.conn {
            Conn::Raw(stream) => stream.unfit(Ending::Silent),
            Conn::Client(_) => None,
        };
        let conn = lend(&self.conn)?;
        let (entry, pool) = (Arc::clone(&self.entry), Arc::clone(self.inner()));
        // Last: from here on it has to be ended.
        let has_begun = entry.begin_parking();
        has_begun.then(|| ParkingKept { parts: Some((entry, conn)), pool, unfit })
    }

    /// Gives it back while it has a user, whose exchange is complete. Returns what is to be done, or
    /// the reason why it is no use any more.
    pub(in crate::pool) fn settle(&mut self) -> Settled {
        self.call_back();
        if self.is_parked() {
            return Settled::Lost(CloseReason::Discarded);
        }
        let (reuse, unfit) = self.judge(Ending::Answered);
        match (unfit, reuse) {
            (Some(reason), _) => Settled::Lost(reason),
            (None, Verdict::NeedsReset) => Settled::NeedsReset,
            (None, _) => {
                self.note_end_of_use();
                self.note_return();
                self.end_exchange_and_park()
            }
        }
    }

    /// Undoes what its user has left behind, and makes it idle.
    pub(in crate::pool) async fn reset_and_park(&mut self) -> Settled {
        self.note_return();
        match self.reset_now().await {
            Ok(()) => self.end_exchange_and_park(),
            Err(reason) => Settled::Lost(reason),
        }
    }

    fn note_return(&mut self) {
        if self.taken_at.take().is_some() {
            let used = self.entry.age().since(self.since);
            self.inner().emitter().returned(self.entry.id, used);
        }
    }

    fn end_exchange_and_park(&mut self) -> Settled {
        let Leased { conn, entry, .. } = &mut **self;
        if let Err(reason) = entry.end_exchange(conn) {
            return Settled::Lost(reason);
        }
        // Where it cannot be, whoever watches does it.
        if let Some(parking) = self.begin_parking() {
            parking.end(false);
        }
        Settled::Parked
    }

    /// Ends an exchange of which its user says that it is complete; it may begin another one. Returns the
    /// reason if it is of no use any more.
    pub(in crate::pool) fn finish_exchange(&mut self) -> Option<CloseReason> {
        self.call_back();
        let unfit = self.conn.stream().unfit(Ending::Answered);
        match unfit {
            Some(reason) => self.conn.stream_mut().taint(reason),
            None => {
                let pool = Arc::clone(self.inner());
                pool.note_use(&self.entry, &self.conn);
                if self.conn.stream().was_read() {
                    pool.prove(&self.entry, self.since);
                }
                let Leased { conn, entry, .. } = &mut **self;
                return entry.end_exchange(conn).err();
            }
        }
        unfit
    }
}

/// A second handle to it; `None`, if there can be none.
fn lend(conn: &Conn) -> Option<Conn> {
    if has_runtime() { conn.lend() } else { None }
}

/// What came of giving a kept connection back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pool) enum Settled {
    /// It waits for its next user.
    Parked,
    /// Its protocol has to make it fit first.
    NeedsReset,
    /// It is of no use any more, for this reason.
    Lost(CloseReason),
}

/// A connection that is being made idle. Dropped, it is as before.
#[derive(Debug)]
pub(in crate::pool) struct ParkingKept {
    /// Always there until the end.
    parts: Option<(Arc<Entry>, Conn)>,
    pool: Arc<PoolInner>,
    unfit: Option<CloseReason>,
}

impl ParkingKept {
    pub(in crate::pool) fn id(&self) -> Option<ConnId> {
        self.parts.as_ref().map(|(entry, _)| entry.id)
    }

    /// Makes it idle, or closes it if it is not fit to wait. One that is owed an answer is left as it is,
    /// if `is_patient`: the answer may come. Returns whether it was left.
    pub(in crate::pool) fn end(mut self, is_patient: bool) -> bool {
        let Some((entry, conn)) = self.parts.take() else { return false };
        let (unfit, needs_reset) = {
            let stream = conn.stream();
            (self.unfit.or_else(|| stream.unfit(Ending::Silent)), stream.needs_reset())
        };
        match unfit {
            Some(CloseReason::Unfinished) if is_patient => {
                entry.stop_parking();
                true
            }
            Some(reason) => {
                self.pool.finish(&entry, conn, reason, None);
                false
            }
            // Its protocol has to be asked, which is done before it is used again.
            None if needs_reset => {
                entry.stop_parking();
                false
            }
            None => {
                // Of a bare stream its owner has noted it.
                self.pool.note_use(&entry, &conn);
                let now = entry.age();
                match entry.park_begun(conn, now) {
                    Ok(()) => self.pool.publish(&entry, Listing::Kept),
                    Err((conn, reason)) => self.pool.finish(&entry, conn, reason, None),
                }
                false
            }
        }
    }
}

impl Drop for ParkingKept {
    fn drop(&mut self) {
        if let Some((entry, conn)) = self.parts.take() {
            drop(conn);
            entry.stop_parking();
        }
    }
}
