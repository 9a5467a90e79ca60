//! The first round trip of a connection: who we are, which database, and whether this server is one
//! to use at all.
//!
//! The crate's own handshake does not ask whether the server is still loading its data or is only a
//! replica, and reports a wrong password and a full server alike. The handshake here asks
//! everything in one write, and judges the answers one by one.

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
use livepool::protocol::Escaped;

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

/// Starts the driver task, and performs the handshake.
pub(super) async fn shake_hands(
    shared_wire: &SharedWire,
    state: &SessionState,
    settings: &RedisSettings,
) -> RedisResult<(MultiplexedConnection, DriverTask)> {
    // Timeouts are those of the pool, and nothing is said that we do not say below.
    let config =
        AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let anonymous = RedisConnectionInfo::default().set_skip_set_lib_name();
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&anonymous, shared_wire.driver_io(), config).await?;
    let driver = DriverTask::start(driver);

    let (steps, pipeline) = steps(settings);
    let answers = connection.send_packed_commands(&pipeline, 0, steps.len()).await;
    let answers = answers.map_err(|error| explain(error, state, settings))?;
    for (step, answer) in steps.into_iter().zip(&answers) {
        check_answer(step, answer, settings)?;
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
fn explain(error: RedisError, state: &SessionState, settings: &RedisSettings) -> RedisError {
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
            check_refusal(HandshakeStep::Alive, &said, settings).err().unwrap_or(error)
        }
        (Some(first), _) if !b"+-:$*_,#!=(~%|>".contains(first) => {
            let said = redact_password(String::from_utf8_lossy(&early).into_owned(), settings);
            let what = "what answers there is no Redis server";
            let said = format!("it said {}", Escaped(&said.lines().next().unwrap_or_default()));
            RedisError::from((ErrorKind::InvalidClientConfig, what, said))
        }
        _ => error,
    }
}

/// Hides the password: servers that do not know a command repeat all of it.
fn redact_password(said: String, settings: &RedisSettings) -> String {
    match settings.info.password().filter(|password| !password.is_empty()) {
        Some(password) => said.replace(password, "***"),
        None => said,
    }
}

fn steps(settings: &RedisSettings) -> (Vec<HandshakeStep>, Pipeline) {
    let info = &settings.info;
    let mut all = Vec::new();
    if info.protocol().supports_resp3() {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = info.password() {
            hello.arg("AUTH").arg(info.username().unwrap_or("default")).arg(password);
        }
        all.push((HandshakeStep::Hello, hello));
    } else if let Some(password) = info.password() {
        let mut login = cmd("AUTH");
        // Servers before Redis 6 know passwords only.
        if let Some(user) = info.username() {
            login.arg(user);
        }
        login.arg(password);
        all.push((HandshakeStep::Login, login));
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

fn check_answer(step: HandshakeStep, answer: &Value, settings: &RedisSettings) -> RedisResult<()> {
    match answer {
        Value::ServerError(error) => check_refusal(step, error, settings),
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
                Escaped(&redact_password(format!("{other:?}"), settings))
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
fn check_refusal(
    step: HandshakeStep,
    error: &ServerError,
    settings: &RedisSettings,
) -> RedisResult<()> {
    let said = format!("{} {}", error.code(), error.details().unwrap_or_default());
    let said = redact_password(said, settings);
    let (kind, what) = match (step, error.code()) {
        (HandshakeStep::ClientInfo, _) => return Ok(()),
        // Who may not even ask is alive, and what cannot save its data can be read from.
        (HandshakeStep::Alive, "NOPERM" | "MISCONF") => return Ok(()),
        // For now: it has no room, or no time, or no data.
        (_, "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN") => {
            (ErrorKind::Client, "the server is not ready")
        }
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
                check_refusal(step, &error, &redis.settings).unwrap_err()
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
