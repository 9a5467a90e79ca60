//! [`Target`]: which of several servers is the one to use.

use std::fmt;

use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::Error;
use super::reset::SessionClient;
use livepool::protocol::Verdict;

/// The kind of server to use of several: libpq's `target_session_attrs`. Servers of another kind
/// are passed over, and the dial goes on to the next address.
///
/// ```
/// use livepool_postgres::{Postgres, Target};
///
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Postgres::from_url("postgres://app@db1,db2/orders")?.with_target(Target::ReadWrite).pool()?;
/// # Ok(()) }
/// # f().unwrap();
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// The first server that answers.
    #[default]
    Any,
    /// A server that takes writes.
    ReadWrite,
    /// A server that takes no writes.
    ReadOnly,
    /// A server that is no standby.
    Primary,
    /// A standby.
    Standby,
}

/// The role of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerRole {
    pub(super) is_standby: bool,
    /// Whether its sessions only read, unless they ask for more.
    pub(super) is_read_only: bool,
}

impl ServerRole {
    /// Asks the server for its role, in one round trip.
    pub(super) async fn ask(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let sql = "SELECT pg_catalog.pg_is_in_recovery(), \
                   pg_catalog.current_setting('transaction_read_only')";
        let answer = client.simple_query(sql).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
            _ => None,
        });
        let (in_recovery, read_only) = row.unwrap_or_default();
        let is_standby = in_recovery == Some("t");
        Ok(Self { is_standby, is_read_only: is_standby || read_only == Some("on") })
    }
}

/// Asks a session that refused a write whether the server takes none, or the session was told so.
/// Returns the verdict.
pub(super) async fn why_read_only(
    client: &Client,
    began_as: Option<ServerRole>,
) -> Result<Option<Verdict>, tokio_postgres::Error> {
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), setting, reset_val \
               FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'";
    let answer = client.simple_query(sql).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some([row.get(0), row.get(1), row.get(2)]),
        _ => None,
    });
    Ok(match row {
        Some([Some("t"), ..]) => Some(Verdict::InvalidatePool),
        // What sessions get that set nothing: the server's word. If it was so from the beginning, nothing
        // has changed, and a new connection would be no other.
        Some([_, _, Some("on")]) => {
            let was_so = began_as.is_some_and(|role| role.is_read_only);
            (!was_so).then_some(Verdict::InvalidatePool)
        }
        // Its last user's word.
        Some([_, Some("on"), _]) => Some(Verdict::Close),
        // A transaction that was begun to read only.
        _ => None,
    })
}

/// As [`why_read_only`], of a session whose client gives no rows: the answer is the code of an error.
pub(super) async fn why_read_only_by_code(
    client: &mut impl SessionClient,
) -> Result<Option<Verdict>, Error> {
    let sql = "DO $$ DECLARE said record; BEGIN \
               IF pg_catalog.pg_is_in_recovery() THEN \
               RAISE 'asked by livepool: it is a standby' USING ERRCODE = 'LP001'; END IF; \
               SELECT setting, reset_val INTO said FROM pg_catalog.pg_settings \
               WHERE name = 'default_transaction_read_only'; \
               IF said.reset_val = 'on' THEN \
               RAISE 'asked by livepool: it is read-only' USING ERRCODE = 'LP002'; END IF; \
               IF said.setting = 'on' THEN \
               RAISE 'asked by livepool: its session is read-only' USING ERRCODE = 'LP003'; END IF; \
               END $$";
    let Err(error) = client.batch_execute(sql).await else { return Ok(None) };
    let line = &client.session().line;
    match &line.last_code() {
        b"LP001" => Ok(Some(Verdict::InvalidatePool)),
        b"LP002" => {
            let was_so = line.role().is_some_and(|role| role.is_read_only);
            Ok((!was_so).then_some(Verdict::InvalidatePool))
        }
        b"LP003" => Ok(Some(Verdict::Close)),
        _ => Err(error),
    }
}

impl Target {
    pub(super) fn accepts(self, role: ServerRole) -> bool {
        match self {
            Self::Any => true,
            Self::ReadWrite => !role.is_read_only,
            Self::ReadOnly => role.is_read_only,
            Self::Primary => !role.is_standby,
            Self::Standby => role.is_standby,
        }
    }

    /// Whether a server that takes writes is not wanted.
    pub(super) fn only_reads(self) -> bool {
        matches!(self, Self::ReadOnly | Self::Standby)
    }

    pub(super) fn of(attrs: TargetSessionAttrs) -> Self {
        match attrs {
            TargetSessionAttrs::ReadWrite => Self::ReadWrite,
            TargetSessionAttrs::ReadOnly => Self::ReadOnly,
            _ => Self::Any,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any server",
            Self::ReadWrite => "a server that takes writes",
            Self::ReadOnly => "a server that is read-only",
            Self::Primary => "a primary",
            Self::Standby => "a standby",
        })
    }
}

impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_standby, self.is_read_only) {
            (true, _) => "a standby",
            (false, true) => "a primary that is read-only",
            (false, false) => "a primary that takes writes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Target::{Any, Primary, ReadOnly, ReadWrite, Standby};

    #[test]
    fn each_target_accepts_the_servers_it_says() {
        let role = |is_standby, is_read_only| ServerRole { is_standby, is_read_only };
        for (role, accepted) in [
            (role(false, false), [true, true, false, true, false]),
            (role(false, true), [true, false, true, true, false]),
            (role(true, true), [true, false, true, false, true]),
        ] {
            let targets = [Any, ReadWrite, ReadOnly, Primary, Standby];
            assert_eq!(targets.map(|target| target.accepts(role)), accepted, "{role}");
        }
    }
}
