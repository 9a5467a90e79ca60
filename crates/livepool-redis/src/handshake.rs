//! The first round trip of a connection: who we are, which database, and whether this server is one
//! to use at all.
//!
//! The crate's own handshake does not ask whether the server is still loading its data or is only a
//! replica, and reports a wrong password and a full server alike. The handshake here asks
//! everything in one write, and judges the answers one by one.

use std::pin::pin;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisResult,
    ServerError, Value, cmd,
};

use super::client::DriverTask;
use super::session::SessionState;
use super::settings::{RedisSettings, Role};
use super::shared_wire::SharedWire;
use super::transport::Transport;
use livepool::protocol::{Credentials, Escaped};

/// The purpose of a command of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandshakeStep {
    Hello,
    Login,
    Database,
    Alive,
    Role,
    /// The name and version of this client. Servers that do not know the command are fine.
    ClientInfo,
}

/// Who logs in on this connection.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    user: Option<&'a str>,
    password: Option<&'a str>,
}

impl<'a> Login<'a> {
    /// Whom the settings name.
    pub(super) fn of(settings: &'a RedisSettings) -> Self {
        Self { user: settings.info.username(), password: settings.info.password() }
    }

    /// Who was asked for.
    pub(super) fn with(credentials: &'a Credentials, settings: &'a RedisSettings) -> Self {
        let user = credentials.user().or(settings.info.username());
        Self { user, password: Some(credentials.password()) }
    }
}

/// Starts the driver task, and performs the handshake.
pub(super) async fn shake_hands(
    shared_wire: &SharedWire,
    state: &SessionState,
    settings: &RedisSettings,
    login: Login<'_>,
) -> RedisResult<(MultiplexedConnection, DriverTask)> {
    // The pool has timeouts of its own, and every command of the handshake is in `steps`.
    let config =
        AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let anonymous = RedisConnectionInfo::default().set_skip_set_lib_name();
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&anonymous, shared_wire.driver_io(), config).await?;
    let driver = DriverTask::start(shared_wire.clone().drive(driver));

    let (steps, pipeline) = steps(settings, login);
    let answers = {
        let asked = pin!(connection.send_packed_commands(&pipeline, 0, steps.len()));
        shared_wire.answered(asked).await
    };
    let answers = answers.map_err(|error| explain(error, state, settings, login))?;
    for (step, answer) in steps.into_iter().zip(&answers) {
        check_answer(step, answer, settings, login)?;
    }
    state.mark_ready();
    if state.is_unusable() {
        return Err(RedisError::from((
            ErrorKind::Client,
            "the server said more than it was asked",
        )));
    }
    Ok((connection, driver))
}

/// Explains why there are no answers, by the bytes that the server sent unasked. A full server says
/// so and hangs up before it was asked anything, and some servers are no Redis.
fn explain(
    error: RedisError,
    state: &SessionState,
    settings: &RedisSettings,
    login: Login<'_>,
) -> RedisError {
    let early = state.early_bytes();
    match (early.first(), ::redis::parse_redis_value(&early)) {
        (None, _) if error.is_connection_dropped() => {
            let question = match settings.transport {
                Transport::Plain => "is it a Redis server, and is rediss:// what it wants?",
                #[cfg(feature = "tls")]
                Transport::Tls(_) => "is it a Redis server?",
            };
            let what = "the server hung up without an answer";
            RedisError::from((ErrorKind::Io, what, question.to_owned()))
        }
        (_, Ok(Value::ServerError(said))) => {
            check_refusal(HandshakeStep::Alive, &said, login).err().unwrap_or(error)
        }
        // No type of RESP begins so: perhaps HTTP, or TLS.
        (Some(first), _) if !b"+-:$*_,#!=(~%|>".contains(first) => {
            let said = redact_password(String::from_utf8_lossy(&early).into_owned(), login);
            let what = "what answers there is no Redis server";
            let said = format!("it said {}", Escaped(&said.lines().next().unwrap_or_default()));
            RedisError::from((ErrorKind::InvalidClientConfig, what, said))
        }
        _ => error,
    }
}

/// Hides the password: servers that do not know a command repeat all of it.
fn redact_password(said: String, login: Login<'_>) -> String {
    match login.password.filter(|password| !password.is_empty()) {
        Some(password) => said.replace(password, "***"),
        None => said,
    }
}

fn steps(settings: &RedisSettings, login: Login<'_>) -> (Vec<HandshakeStep>, Pipeline) {
    let info = &settings.info;
    let mut all = Vec::new();
    if info.protocol().supports_resp3() {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = login.password {
            // HELLO takes a password only together with a user; "default" is the one without a
            // name.
            hello.arg("AUTH").arg(login.user.unwrap_or("default")).arg(password);
        }
        all.push((HandshakeStep::Hello, hello));
    } else if let Some(password) = login.password {
        let mut auth = cmd("AUTH");
        // Servers before Redis 6 know passwords only.
        if let Some(user) = login.user {
            auth.arg(user);
        }
        auth.arg(password);
        all.push((HandshakeStep::Login, auth));
    }
    if info.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(info.db());
        all.push((HandshakeStep::Database, select));
    }
    all.push((HandshakeStep::Alive, cmd("PING")));
    if settings.role != Role::Any {
        all.push((HandshakeStep::Role, cmd("ROLE")));
    }
    if !info.skip_set_lib_name() {
        let name = info.lib_name().unwrap_or("redis-rs(livepool)");
        let version = info.lib_ver().unwrap_or(env!("CARGO_PKG_VERSION"));
        all.push((HandshakeStep::ClientInfo, set_info("LIB-NAME", name)));
        all.push((HandshakeStep::ClientInfo, set_info("LIB-VER", version)));
    }
    let mut pipeline = Pipeline::with_capacity(all.len());
    let mut steps = Vec::with_capacity(all.len());
    for (step, command) in all {
        steps.push(step);
        pipeline.add_command(command);
    }
    (steps, pipeline)
}

fn set_info(what: &str, value: &str) -> Cmd {
    let mut command = cmd("CLIENT");
    command.arg("SETINFO").arg(what).arg(value);
    command
}

fn check_answer(
    step: HandshakeStep,
    answer: &Value,
    settings: &RedisSettings,
    login: Login<'_>,
) -> RedisResult<()> {
    match answer {
        Value::ServerError(error) => check_refusal(step, error, login),
        Value::Array(words) if step == HandshakeStep::Role => {
            check_role(settings.role, words.first())
        }
        other if is_expected(step, other) => Ok(()),
        // After something that was said unasked, each answer would be taken for the next one's.
        other => Err(RedisError::from((
            ErrorKind::Client,
            "the server does not answer as usual",
            format!(
                "{step:?} was answered {}",
                Escaped(&redact_password(format!("{other:?}"), login))
            ),
        ))),
    }
}

fn is_expected(step: HandshakeStep, answer: &Value) -> bool {
    let expected = match (step, answer) {
        (HandshakeStep::Hello, Value::Map(_) | Value::Array(_)) => return true,
        (HandshakeStep::Hello | HandshakeStep::Role, _) => return false,
        (HandshakeStep::Alive, _) => "PONG",
        (HandshakeStep::Login | HandshakeStep::Database | HandshakeStep::ClientInfo, _) => "OK",
    };
    match answer {
        Value::Okay => expected == "OK",
        Value::SimpleString(said) => said == expected,
        Value::BulkString(said) => said == expected.as_bytes(),
        _ => false,
    }
}

/// Turns a refusal into an error whose kind says whether another attempt can succeed.
fn check_refusal(step: HandshakeStep, error: &ServerError, login: Login<'_>) -> RedisResult<()> {
    let said = format!("{} {}", error.code(), error.details().unwrap_or_default());
    let said = redact_password(said, login);
    let (kind, what) = match (step, error.code()) {
        // Before Redis 7.2 there is no CLIENT SETINFO.
        (HandshakeStep::ClientInfo, _) => return Ok(()),
        // A server that refuses the ping is alive, and one that cannot save its data can be read.
        (HandshakeStep::Alive, "NOPERM" | "MISCONF") => return Ok(()),
        // For now: it has no room, or no time, or no data.
        (_, "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN") => {
            (ErrorKind::Client, "the server is not ready")
        }
        // This refusal has the code ERR, as many others have.
        _ if said.contains("max number of clients") => (ErrorKind::Client, "the server is full"),
        (_, "NOAUTH") => {
            (ErrorKind::AuthenticationFailed, "the server wants a password and none was given")
        }
        (HandshakeStep::Role, "NOPERM") => (
            ErrorKind::AuthenticationFailed,
            "the user may not ask for the role: permit it with ACL SETUSER <user> +role, or do \
             without with_role()",
        ),
        (HandshakeStep::Hello, "ERR" | "NOPROTO") => {
            (ErrorKind::RESP3NotSupported, "the server does not speak RESP3: leave it out")
        }
        (HandshakeStep::Hello | HandshakeStep::Login, _) => {
            (ErrorKind::AuthenticationFailed, "the server refused the user or password")
        }
        (HandshakeStep::Database, _) => {
            (ErrorKind::InvalidClientConfig, "the server has no such database")
        }
        (HandshakeStep::Alive | HandshakeStep::Role, _) => {
            (ErrorKind::Client, "the server does not answer as usual")
        }
    };
    Err(RedisError::from((kind, what, Escaped(&said).to_string())))
}

fn check_role(wanted: Role, found: Option<&Value>) -> RedisResult<()> {
    let found = match found {
        Some(Value::BulkString(name)) => String::from_utf8_lossy(name).into_owned(),
        Some(Value::SimpleString(name)) => name.clone(),
        other => format!("{other:?}"),
    };
    let what = match (wanted, found.as_str()) {
        (Role::Any, _) | (Role::Master, "master") | (Role::Replica, "slave" | "replica") => {
            return Ok(());
        }
        (Role::Master, _) => "the server is not a master, and one is wanted",
        (Role::Replica, _) => "the server is not a replica, and one is wanted",
    };
    Err(RedisError::from((ErrorKind::Client, what, format!("its role is {}", Escaped(&found)))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Redis;

    fn refusal(step: HandshakeStep, said: &str) -> RedisError {
        let redis = Redis::from_url("redis://me:hunter2@h").unwrap();
        let line = format!("-{said}\r\n");
        match ::redis::parse_redis_value(line.as_bytes()) {
            Ok(Value::ServerError(error)) => {
                check_refusal(step, &error, Login::of(&redis.settings)).unwrap_err()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_says_whether_it_lasts() {
        for (step, said, lasts) in [
            (HandshakeStep::Login, "WRONGPASS invalid username-password pair", true),
            (HandshakeStep::Login, "ERR invalid password", true),
            (HandshakeStep::Login, "LOADING Redis is loading the dataset in memory", false),
            (HandshakeStep::Login, "ERR max number of clients reached", false),
            (HandshakeStep::Hello, "NOPROTO unsupported protocol version", true),
            (HandshakeStep::Hello, "WRONGPASS invalid username-password pair", true),
            (HandshakeStep::Database, "ERR DB index is out of range", true),
            (HandshakeStep::Database, "MASTERDOWN Link with MASTER is down", false),
            (HandshakeStep::Alive, "NOAUTH Authentication required.", true),
            (HandshakeStep::Alive, "BUSY Redis is busy running a script.", false),
            (HandshakeStep::Role, "NOPERM this user has no permissions", true),
        ] {
            let error = refusal(step, said);
            assert_eq!(super::super::classify::is_permanent(&error), lasts, "{said}: {error}");
        }
    }

    #[test]
    fn a_server_that_repeats_the_password_does_not_bring_it_into_an_error() {
        let said = "ERR unknown command `HELLO`, with args: `3`, `AUTH`, `me`, `hunter2`, ";
        let text = refusal(HandshakeStep::Hello, said).to_string();
        assert!(text.contains("does not speak RESP3") && !text.contains("hunter2"), "{text}");
    }
}
