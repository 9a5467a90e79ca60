//! The first round trip of a connection: who we are, which database, and whether this server is one
//! to use at all.
//!
//! The crate has a handshake of its own. It does not ask whether the server is still loading its data
//! or is only a replica, and gives a wrong password and a server that is full the same name. So this
//! asks everything in one piece, and reads the answers one by one.

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisResult,
    ServerError, Value, cmd,
};

use super::client::Driver;
use super::session::State;
use super::settings::{Role, Settings};
use super::shared_wire::Slot;
use super::transport::Secrecy;
use livepool::protocol::Escaped;

/// What a command of the handshake is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hello,
    Login,
    Database,
    Alive,
    Role,
    /// Servers that do not know it are fine.
    Courtesy,
}

/// Starts the driver, and shakes hands.
pub(super) async fn shake_hands(
    slot: &Slot,
    state: &State,
    settings: &Settings,
) -> RedisResult<(MultiplexedConnection, Driver)> {
    // Timeouts are those of the pool, and nothing is said that we do not say below.
    let config =
        AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
    let (mut connection, driver) =
        MultiplexedConnection::new_with_config(&nobody, slot.lend(), config).await?;
    let driver = Driver::start(driver);

    let (steps, pipeline) = steps(settings);
    let answers = connection.send_packed_commands(&pipeline, 0, steps.len()).await;
    let answers = answers.map_err(|error| explained(error, state, settings))?;
    for (step, answer) in steps.into_iter().zip(&answers) {
        judge(step, answer, settings)?;
    }
    state.greeted();
    if state.is_beyond_repair() {
        return Err(RedisError::from((
            ErrorKind::Client,
            "the server said more than it was asked",
        )));
    }
    Ok((connection, driver))
}

/// Why there are no answers. What the server said unasked tells, which the crate throws away: one that
/// has no room says so and hangs up before it was asked anything, and some are no Redis.
fn explained(error: RedisError, state: &State, settings: &Settings) -> RedisError {
    let heard = state.first_words();
    match (heard.first(), ::redis::parse_redis_value(&heard)) {
        (None, _) if error.is_connection_dropped() => {
            let question = match settings.secrecy {
                Secrecy::Plain => "is it a Redis server, and is rediss:// what it wants?",
                #[cfg(feature = "tls")]
                Secrecy::Tls(_) => "is it a Redis server?",
            };
            let what = "the server hung up without an answer";
            RedisError::from((ErrorKind::Io, what, question.to_owned()))
        }
        (_, Ok(Value::ServerError(said))) => {
            refused(Step::Alive, &said, settings).err().unwrap_or(error)
        }
        (Some(first), _) if !b"+-:$*_,#!=(~%|>".contains(first) => {
            let said = secretless(String::from_utf8_lossy(&heard).into_owned(), settings);
            let what = "what answers there is no Redis server";
            let said = format!("it said {}", Escaped(&said.lines().next().unwrap_or_default()));
            RedisError::from((ErrorKind::InvalidClientConfig, what, said))
        }
        _ => error,
    }
}

/// Servers that do not know a command repeat all of it.
fn secretless(said: String, settings: &Settings) -> String {
    match settings.info.password().filter(|password| !password.is_empty()) {
        Some(password) => said.replace(password, "***"),
        None => said,
    }
}

fn steps(settings: &Settings) -> (Vec<Step>, Pipeline) {
    let info = &settings.info;
    let mut all = Vec::new();
    if info.protocol().supports_resp3() {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = info.password() {
            hello.arg("AUTH").arg(info.username().unwrap_or("default")).arg(password);
        }
        all.push((Step::Hello, hello));
    } else if let Some(password) = info.password() {
        let mut login = cmd("AUTH");
        // Servers before Redis 6 know passwords only.
        if let Some(user) = info.username() {
            login.arg(user);
        }
        login.arg(password);
        all.push((Step::Login, login));
    }
    if info.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(info.db());
        all.push((Step::Database, select));
    }
    all.push((Step::Alive, cmd("PING")));
    if settings.role != Role::Any {
        all.push((Step::Role, cmd("ROLE")));
    }
    if !info.skip_set_lib_name() {
        let name = info.lib_name().unwrap_or("redis-rs(livepool)");
        let version = info.lib_ver().unwrap_or(env!("CARGO_PKG_VERSION"));
        all.push((Step::Courtesy, set_info("LIB-NAME", name)));
        all.push((Step::Courtesy, set_info("LIB-VER", version)));
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

fn judge(step: Step, answer: &Value, settings: &Settings) -> RedisResult<()> {
    match answer {
        Value::ServerError(error) => refused(step, error, settings),
        Value::Array(words) if step == Step::Role => judge_role(settings.role, words.first()),
        other if is_usual(step, other) => Ok(()),
        // After something that was said unasked, each answer would be taken for the next one's.
        other => Err(RedisError::from((
            ErrorKind::Client,
            "the server does not answer as usual",
            format!(
                "{step:?} was answered {}",
                Escaped(&secretless(format!("{other:?}"), settings))
            ),
        ))),
    }
}

fn is_usual(step: Step, answer: &Value) -> bool {
    let expected = match (step, answer) {
        (Step::Hello, Value::Map(_) | Value::Array(_)) => return true,
        (Step::Hello | Step::Role, _) => return false,
        (Step::Alive, _) => "PONG",
        (Step::Login | Step::Database | Step::Courtesy, _) => "OK",
    };
    match answer {
        Value::Okay => expected == "OK",
        Value::SimpleString(said) => said == expected,
        Value::BulkString(said) => said == expected.as_bytes(),
        _ => false,
    }
}

/// What a refusal means: some last until somebody changes something.
fn refused(step: Step, error: &ServerError, settings: &Settings) -> RedisResult<()> {
    let said = format!("{} {}", error.code(), error.details().unwrap_or_default());
    let said = secretless(said, settings);
    let (kind, what) = match (step, error.code()) {
        (Step::Courtesy, _) => return Ok(()),
        // Who may not even ask is alive, and what cannot save its data can be read from.
        (Step::Alive, "NOPERM" | "MISCONF") => return Ok(()),
        // For now: it has no room, or no time, or no data.
        (_, "LOADING" | "MASTERDOWN" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN") => {
            (ErrorKind::Client, "the server is not ready")
        }
        _ if said.contains("max number of clients") => (ErrorKind::Client, "the server is full"),
        (_, "NOAUTH") => {
            (ErrorKind::AuthenticationFailed, "the server wants a password and none was given")
        }
        (Step::Role, "NOPERM") => (
            ErrorKind::AuthenticationFailed,
            "the user may not ask for the role: permit it with ACL SETUSER <user> +role, or do \
             without with_role()",
        ),
        (Step::Hello, "ERR" | "NOPROTO") => {
            (ErrorKind::RESP3NotSupported, "the server does not speak RESP3: leave it out")
        }
        (Step::Hello | Step::Login, _) => {
            (ErrorKind::AuthenticationFailed, "the server refused the user or password")
        }
        (Step::Database, _) => (ErrorKind::InvalidClientConfig, "the server has no such database"),
        (Step::Alive | Step::Role, _) => (ErrorKind::Client, "the server does not answer as usual"),
    };
    Err(RedisError::from((kind, what, Escaped(&said).to_string())))
}

fn judge_role(wanted: Role, found: Option<&Value>) -> RedisResult<()> {
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

    fn refusal(step: Step, said: &str) -> RedisError {
        let redis = Redis::from_url("redis://me:hunter2@h").unwrap();
        let line = format!("-{said}\r\n");
        match ::redis::parse_redis_value(line.as_bytes()) {
            Ok(Value::ServerError(error)) => refused(step, &error, &redis.settings).unwrap_err(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_says_whether_it_lasts() {
        for (step, said, lasts) in [
            (Step::Login, "WRONGPASS invalid username-password pair", true),
            (Step::Login, "ERR invalid password", true),
            (Step::Login, "LOADING Redis is loading the dataset in memory", false),
            (Step::Login, "ERR max number of clients reached", false),
            (Step::Hello, "NOPROTO unsupported protocol version", true),
            (Step::Hello, "WRONGPASS invalid username-password pair", true),
            (Step::Database, "ERR DB index is out of range", true),
            (Step::Database, "MASTERDOWN Link with MASTER is down", false),
            (Step::Alive, "NOAUTH Authentication required.", true),
            (Step::Alive, "BUSY Redis is busy running a script.", false),
            (Step::Role, "NOPERM this user has no permissions", true),
        ] {
            let error = refusal(step, said);
            assert_eq!(super::super::classify::is_permanent(&error), lasts, "{said}: {error}");
        }
    }

    #[test]
    fn a_server_that_repeats_the_password_does_not_bring_it_into_an_error() {
        let said = "ERR unknown command `HELLO`, with args: `3`, `AUTH`, `me`, `hunter2`, ";
        let text = refusal(Step::Hello, said).to_string();
        assert!(text.contains("does not speak RESP3") && !text.contains("hunter2"), "{text}");
    }
}
