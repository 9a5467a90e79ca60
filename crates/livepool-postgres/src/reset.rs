//! Making a connection that came back fit for its next user.

use std::borrow::Cow;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::cancel;
use super::client::Client;
use super::error::Error;
use super::line::Line;
use super::role;
use super::session::Session;
use super::unclaimed::UnclaimedStatements;
use crate::sync::Arc;
use livepool::protocol::{Verdict, log_trouble};

/// How a connection is made fit for its next user when it comes back.
///
/// Under each method a query that still runs is cancelled at the server, a transaction is rolled
/// back, subscriptions to notifications are ended, and statements that were prepared for somebody
/// who did not wait for it are deallocated. The method's statements come on top. Four of the names
/// are those of deadpool-postgres, whose default is `Fast`.
///
/// | the next user finds | `Tidy` | `Fast`, `Verified` | `Clean` | `Custom("DISCARD ALL")` |
/// |---|---|---|---|---|
/// | settings (`SET`), `search_path` | no | **yes** | no | no |
/// | the role (`SET ROLE`) | no | **yes** | no | no |
/// | advisory locks of the session | no | **yes** | no | no |
/// | temporary tables | no | **yes** | no | no |
/// | cursors `WITH HOLD`, statements of SQL's `PREPARE` | no, yes | **yes** | no, yes | no |
/// | the statement cache | kept | kept | kept | empty |
/// | subscriptions (`LISTEN`), a transaction, a query | no | no | no | no |
/// | what a return costs | nothing, or a round trip | nothing; a round trip | a round trip | a round trip |
///
/// A round trip takes the connection out of use for as long as it takes: with one for each use, a
/// pool serves about half as many requests. (`get`, `SELECT 1`, return; 20 callers, 4 connections,
/// loopback: 8 700 requests/s with `Fast`, 3 400 with `Clean`; one caller: 27 and 102 µs. With a
/// network in between, 710 and 350, and twice the time.) For this price `Tidy` is the default, and
/// not `Clean`.
///
/// ```
/// use livepool_postgres::{Postgres, RecyclingMethod};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// // As deadpool-postgres does it.
/// let pool = Postgres::from_url("host=db")?.with_recycling(RecyclingMethod::Fast).pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecyclingMethod {
    /// As `Clean`, if anything of its last user may be left; else as `Fast`. State that was left is
    /// known from the tag of each complete statement (`SET`, `RESET`, `DISCARD ALL`, `PREPARE`, `DECLARE`,
    /// `LOAD`; `DO` and `CALL`, which run code that nobody can see), and from texts that name a function which
    /// leaves something (`set_config`, `pg_advisory_lock`), or have `CREATE` and `TEMP` in them, or `UPDATE`
    /// and `pg_settings`.
    ///
    /// A function of another name that changes its session, in a `SELECT`, is not noticed; nor is `SELECT
    /// INTO TEMP`. Where that is done, use `Clean`.
    #[default]
    Tidy,
    /// No more than under each method. A connection on which nothing is owed and that is in no
    /// transaction goes back at once, without a round trip. The next user finds all settings of the
    /// last one, and the role.
    Fast,
    /// A round trip proves that the server answers.
    Verified,
    /// The session's settings, temporary tables, cursors, advisory locks and sequences are reset,
    /// in one round trip. Prepared statements stay.
    Clean,
    /// SQL statements are run, in one round trip.
    ///
    /// On a server from before November 2024 (16.2, say) `DISCARD ALL` takes away the role that a login begins
    /// with (`ALTER ROLE login SET role = 'owner'`, or `options=-c role=owner`): the next user works as the
    /// login itself. `Tidy` and `Clean` give that role back.
    Custom(Cow<'static, str>),
}

/// As `DISCARD ALL`, but prepared statements and plans stay, and so does the role that a login begins with: on
/// servers from before November 2024 the default authorization ends that as well.
pub(super) const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
                     UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; \
                     DISCARD SEQUENCES";

impl RecyclingMethod {
    /// The statements for a session that was left with, or without, state of its user.
    pub(super) fn sql(&self, is_touched: bool) -> Option<&str> {
        match self {
            Self::Tidy => is_touched.then_some(CLEAN),
            Self::Fast => None,
            Self::Verified => Some(""),
            Self::Clean => Some(CLEAN),
            Self::Custom(sql) => Some(sql),
        }
    }
}

/// The time in which a query may end by itself before it is cancelled: as long as the handshake
/// took, within these limits. To cancel is to make a connection, and costs as much.
const MIN_GRACE: Duration = Duration::from_millis(5);
const MAX_GRACE: Duration = Duration::from_millis(100);

/// A session's client, as a reset needs it.
pub(super) trait SessionClient: Send {
    fn session(&self) -> &Session;

    /// Runs statements, separated by semicolons.
    fn batch_execute(&mut self, sql: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes note that statements were deallocated which nobody has.
    fn unclaimed_closed(&mut self);

    /// Asks why a write was refused, and returns the verdict.
    fn why_read_only(&mut self) -> impl Future<Output = Result<Option<Verdict>, Error>> + Send;

    /// The statements that make the session's settings what the client needs, after they were reset.
    fn settings(&self) -> Option<String> {
        None
    }

    /// The session is as its next user has to find it.
    fn renew(&mut self) {}
}

impl SessionClient for Client {
    fn session(&self) -> &Session {
        &self.session
    }

    async fn batch_execute(&mut self, sql: &str) -> Result<(), Error> {
        Ok(self.client.batch_execute(sql).await?)
    }

    fn unclaimed_closed(&mut self) {
        // The scanner takes a DEALLOCATE for a loss of the cache's statements; these were none of them.
        self.statements.keep();
    }

    async fn why_read_only(&mut self) -> Result<Option<Verdict>, Error> {
        Ok(role::why_read_only(&self.client, self.session.line.role()).await?)
    }
}

/// Makes a client fit for its next user. The pool limits the time.
pub(super) async fn reset(
    client: &mut impl SessionClient,
    method: &RecyclingMethod,
) -> Result<(), Error> {
    let session = client.session();
    let line = Arc::clone(&session.line);
    let grace = session.handshake.clamp(MIN_GRACE, MAX_GRACE);
    // A request that is under way may hit what is sent next: no step before it is settled.
    let mut cancelled = session.canceller.settle().await.map_err(|_| Error::NotClean)?;
    if !is_quiet_within(&line, grace).await? {
        cancel(session).await?;
        cancelled = true;
    }
    // More than once: a request to cancel may come late and hit the ROLLBACK itself.
    for _ in 0..3 {
        if !line.is_in_transaction() {
            break;
        }
        run(client, "ROLLBACK").await?;
    }
    if line.is_in_transaction() {
        return Err(Error::NotClean);
    }
    // A round trip, for a late cancel to hit nobody else, and for a second ReadyForQuery of a COPY that
    // failed: it comes before the answer of this, if at all.
    if cancelled || line.is_unsure() {
        run(client, "").await?;
    }
    close_statements(client, &line).await?;
    if line.doubts_role() {
        let verdict = client.why_read_only().await?;
        line.judge(verdict);
        // The pool hears of it with this answer.
        run(client, "").await?;
    }
    let is_touched = line.is_touched();
    let sql = method.sql(is_touched);
    // A mere round trip undoes nothing; what its user has changed is not as it was.
    if is_touched || sql.is_some_and(|sql| !sql.is_empty()) {
        line.unsettle();
    }
    if let Some(sql) = sql {
        run(client, sql).await?;
        if sql == CLEAN {
            line.stopped_listening();
        }
        let settings = client.settings().filter(|_| !sql.is_empty());
        if let Some(settings) = &settings {
            run(client, settings).await?;
        }
        let is_custom = matches!(method, RecyclingMethod::Custom(_)) && !sql.is_empty();
        if is_custom || settings.is_some() {
            // As the library made it, or whoever wrote the statements. What the pool's user has set is not there.
            line.settle();
            line.unsettle();
        }
    }
    if line.listens() {
        run(client, "UNLISTEN *").await?;
        line.stopped_listening();
        line.unsettle();
    }
    client.renew();
    line.quiet().await;
    let is_clean = !line.is_lost() && !line.is_in_transaction() && !line.is_unsure();
    if is_clean { Ok(()) } else { Err(Error::NotClean) }
}

/// Closes the statements that were prepared for somebody who did not wait for it.
async fn close_statements(client: &mut impl SessionClient, line: &Line) -> Result<(), Error> {
    let names = line.unclaimed().map(UnclaimedStatements::take).unwrap_or_default();
    if !names.is_empty() {
        let sql: String = names.iter().map(|name| format!("DEALLOCATE s{name};")).collect();
        match run(client, &sql).await {
            // A proxy that gives statements names of its own does not know these, and takes care of them.
            Err(_) if line.last_code() == *b"26000" && !line.is_lost() => {}
            done => done?,
        }
        client.unclaimed_closed();
    }
    Ok(())
}

/// Runs statements; once more, if a late request to cancel hit them.
async fn run(client: &mut impl SessionClient, sql: &str) -> Result<(), Error> {
    match client.batch_execute(sql).await {
        Err(_) if client.session().line.last_code() == *b"57014" => client.batch_execute(sql).await,
        result => result,
    }
}

/// Waits for at most this long until nothing is under way. Returns whether that is so.
async fn is_quiet_within(line: &Line, limit: Duration) -> Result<bool, Error> {
    let is_quiet = timeout(limit, line.quiet()).await.is_ok();
    if line.is_lost() { Err(Error::NotClean) } else { Ok(is_quiet) }
}

/// Has the server cancel, until nothing is under way.
async fn cancel(session: &Session) -> Result<(), Error> {
    let line = &session.line;
    loop {
        let began = Instant::now();
        if let Err(error) = session.canceller.cancel(line.quiet()).await {
            log_trouble(None, &error, "a query could not be cancelled");
            return Err(Error::NotClean);
        }
        let left = cancel::RETRY_INTERVAL.saturating_sub(began.elapsed()).max(MIN_GRACE);
        if is_quiet_within(line, left).await? {
            return Ok(());
        }
    }
}
