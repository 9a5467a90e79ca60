//! Who serves which slot, as nodes say it. Pure.

use ::redis::{ErrorKind, RedisError, ServerError, Value};
use livepool::protocol::Escaped;

use super::slots::SLOTS;

/// A range of slots, and the address of the master that serves it, as an entry of `upstream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: String,
}

/// The answer to `CLUSTER SLOTS`. A node that does not know its own address leaves it out: then it is
/// `asked`, the host that gave the answer.
pub(super) fn parse(answer: &Value, asked: &str) -> Result<Vec<Range>, String> {
    let all = match answer {
        Value::Array(all) => all,
        Value::ServerError(error) => return Err(said(error)),
        other => return Err(unusual(other)),
    };
    let mut ranges = Vec::new();
    for range in all {
        let Value::Array(parts) = range else { return Err(unusual(range)) };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &parts[..] else {
            return Err(unusual(range));
        };
        let [host, Value::Int(port), ..] = &master[..] else { return Err(unusual(range)) };
        let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOTS);
        let (Some(first), Some(last)) = (slot(*first), slot(*last)) else {
            return Err(unusual(range));
        };
        let host = match host {
            Value::Nil => String::new(),
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::SimpleString(text) => text.clone(),
            _ => return Err(unusual(range)),
        };
        let host = match host.as_str() {
            // It does not know the address of this one.
            "?" => continue,
            "" | "0.0.0.0" | "::" => asked,
            host => host,
        };
        let Ok(port) = u16::try_from(*port) else { return Err(unusual(range)) };
        ranges.push(Range { first, last, master: address(host, port) });
    }
    match ranges.is_empty() {
        true => Err("it knows no node that serves a slot".to_owned()),
        false => Ok(ranges),
    }
}

/// As an entry of `upstream`.
fn address(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// What an error of a node means for the request it is an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is served there from now on.
    Moved(u16, String),
    /// This key may be there already.
    Ask(String),
    /// Not now: a slot is on its way, or nobody serves it, or the node is not ready.
    Later,
}

/// `asked` is the host that said it, which may leave itself out.
pub(super) fn redirect(error: &ServerError, asked: &str) -> Option<Redirect> {
    match error.code() {
        "MOVED" | "ASK" => {
            let (slot, place) = error.details()?.split_once(' ')?;
            let slot = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
            let (host, port) = place.split_whitespace().next()?.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let place = address(if host.is_empty() { asked } else { host }, port);
            Some(match error.code() {
                "MOVED" => Redirect::Moved(slot, place),
                _ => Redirect::Ask(place),
            })
        }
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" => Some(Redirect::Later),
        _ => None,
    }
}

/// The first redirection among the errors that a transaction was discarded for: nothing of it was done.
pub(super) fn redirect_of(error: &RedisError, asked: &str) -> Option<Redirect> {
    let all = error.clone().into_server_errors()?;
    all.iter().find_map(|(_, error)| redirect(error, asked))
}

pub(super) fn error(what: &'static str, detail: String) -> RedisError {
    RedisError::from((ErrorKind::Client, what, detail))
}

fn said(error: &ServerError) -> String {
    let said = format!("{} {}", error.code(), error.details().unwrap_or_default());
    short(&Escaped(&said.trim_end()).to_string())
}

fn unusual(value: &Value) -> String {
    short(&format!("it does not answer as a node of a cluster: {}", Escaped(&format!("{value:?}"))))
}

/// No more than a line of a peer's words.
pub(super) fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(wire: &str) -> Value {
        ::redis::parse_redis_value(wire.as_bytes()).unwrap()
    }

    fn server_error(line: &str) -> ServerError {
        match value(&format!("-{line}\r\n")) {
            Value::ServerError(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ranges_are_read_and_a_node_that_leaves_its_address_out_is_the_one_that_was_asked() {
        let answer = value(
            "*3\r\n*3\r\n:0\r\n:5\r\n*3\r\n$8\r\n10.0.0.1\r\n:7000\r\n$2\r\nid\r\n\
             *3\r\n:6\r\n:9\r\n*2\r\n$0\r\n\r\n:7001\r\n*3\r\n:10\r\n:11\r\n*2\r\n$1\r\n?\r\n:1\r\n",
        );
        let range = |first, last, master: &str| Range { first, last, master: master.to_owned() };
        let expected = [range(0, 5, "10.0.0.1:7000"), range(6, 9, "[::1]:7001")];
        assert_eq!(parse(&answer, "::1").unwrap(), expected);
        for odd in [
            "*0\r\n",
            "+OK\r\n",
            "*1\r\n:1\r\n",
            "-ERR no cluster\r\n",
            "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nh\r\n:1\r\n",
        ] {
            assert!(parse(&value(odd), "h").is_err(), "{odd}");
        }
    }

    #[test]
    fn redirections_are_read_as_nodes_write_them() {
        let of = |line: &str| redirect(&server_error(line), "10.0.0.9");
        let moved = |place: &str| Some(Redirect::Moved(3999, place.to_owned()));
        assert_eq!(of("MOVED 3999 10.0.0.1:6381"), moved("10.0.0.1:6381"));
        assert_eq!(of("MOVED 3999 :6381"), moved("10.0.0.9:6381"));
        assert_eq!(of("MOVED 3999 2001:db8::1:6381"), moved("[2001:db8::1]:6381"));
        assert_eq!(of("ASK 3999 h:6381"), Some(Redirect::Ask("h:6381".to_owned())));
        assert_eq!(
            of("TRYAGAIN Multiple keys request during rehashing of slot"),
            Some(Redirect::Later)
        );
        assert_eq!(of("CLUSTERDOWN The cluster is down"), Some(Redirect::Later));
        for line in [
            "MOVED",
            "MOVED 3999",
            "MOVED 99999 h:1",
            "MOVED 1 h",
            "MOVED 1 h:0",
            "ERR MOVED 1 h:1",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
