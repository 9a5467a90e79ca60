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

/// What one node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) ranges: Vec<Range>,
    /// The highest number of a failover, or of a slot's move, that it has heard of. `None` where it does not
    /// tell.
    pub(super) epoch: Option<u64>,
    /// It says that the cluster has failed: it may be the only one that thinks so, cut off from the others,
    /// and what it says of slots is from before.
    pub(super) is_cut_off: bool,
}

/// The answer that counts: that of the highest epoch, the first of equals, and none of an epoch below the one
/// that is `held` already. Nodes that are cut off count where these are `all` that can be asked.
pub(super) fn newest(said: &[Said], held: Option<u64>, is_all: bool) -> Option<&Said> {
    // Whoever tells no number is believed.
    let is_behind = |one: &Said| held.zip(one.epoch).is_some_and(|(held, epoch)| epoch < held);
    let of_use = said.iter().filter(|one| !is_behind(one) && (is_all || !one.is_cut_off));
    of_use.min_by_key(|one| (one.is_cut_off, std::cmp::Reverse(one.epoch)))
}

/// The answers to `CLUSTER SLOTS` and `CLUSTER INFO`. A node that does not know its own address leaves it
/// out: then it is `asked`, the host that gave the answers.
pub(super) fn parse(slots: &Value, info: &Value, asked: &str) -> Result<Said, String> {
    let ranges = ranges(slots, asked)?;
    let info = match info {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        // It may be forbidden.
        _ => String::new(),
    };
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.trim().split_once(':'));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value)
    };
    let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.parse().ok());
    Ok(Said { ranges, epoch, is_cut_off: field("cluster_state") == Some("fail") })
}

fn ranges(answer: &Value, asked: &str) -> Result<Vec<Range>, String> {
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
    Ask(u16, String),
    /// Not now: a slot is on its way, or nobody serves it, or the node is not ready.
    Later,
}

/// What a node was sent that answers with an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The host that was asked, which may leave itself out.
    pub(super) host: &'a str,
    pub(super) slot: Option<u16>,
    /// No user's code runs in it, that might answer with an error of its own making.
    pub(super) is_servers: bool,
}

/// What an error means for its request. `None`: it is the answer.
///
/// An error that a script made is one that follows what the script has done: to run it again would do it
/// again.
pub(super) fn redirect(error: &ServerError, request: Request<'_>) -> Option<Redirect> {
    let redirect = parse_redirect(error, request.host)?;
    let is_meant = match &redirect {
        Redirect::Moved(slot, _) | Redirect::Ask(slot, _) => request.slot == Some(*slot),
        Redirect::Later => request.is_servers || is_servers_text(error),
    };
    is_meant.then_some(redirect)
}

/// As the error stands, whatever it is the answer to.
pub(super) fn parse_redirect(error: &ServerError, asked: &str) -> Option<Redirect> {
    match error.code() {
        "MOVED" | "ASK" => {
            let (slot, place) = error.details()?.split_once(' ')?;
            let slot = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
            let (host, port) = place.split_whitespace().next()?.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let place = address(if host.is_empty() { asked } else { host }, port);
            Some(match error.code() {
                "MOVED" => Redirect::Moved(slot, place),
                _ => Redirect::Ask(slot, place),
            })
        }
        "TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" => Some(Redirect::Later),
        _ => None,
    }
}

/// Whether a node that says so may have been replaced, or is about to be.
pub(super) fn is_doubtful(error: &ServerError) -> bool {
    matches!(error.code(), "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "READONLY" | "UNBLOCKED")
}

/// Whether a server says this, word for word, instead of carrying a command out.
fn is_servers_text(error: &ServerError) -> bool {
    matches!(
        (error.code(), error.details().unwrap_or_default().trim_end()),
        ("TRYAGAIN", "Multiple keys request during rehashing of slot")
            | (
                "CLUSTERDOWN",
                "The cluster is down"
                    | "The cluster is down and only accepts read commands"
                    | "Hash slot not served"
            )
            | (
                "LOADING",
                "Redis is loading the dataset in memory"
                    | "Valkey is loading the dataset in memory"
            )
            | (
                "MASTERDOWN",
                "Link with MASTER is down and replica-serve-stale-data is set to 'no'."
            )
    )
}

/// The first redirection among the errors that a transaction was discarded for: nothing of it was done.
pub(super) fn redirect_of(error: &RedisError, request: Request<'_>) -> Option<Redirect> {
    let all = error.clone().into_server_errors()?;
    all.iter().find_map(|(_, error)| redirect(error, request))
}

pub(super) fn error(what: &'static str, detail: String) -> RedisError {
    RedisError::from((ErrorKind::Client, what, detail))
}

fn said(error: &ServerError) -> String {
    short(format!("{} {}", error.code(), error.details().unwrap_or_default()).trim_end())
}

fn unusual(value: &Value) -> String {
    short(&format!("it does not answer as a node of a cluster: {value:?}"))
}

/// No more than a line of a peer's words, without what would steer a terminal.
pub(super) fn short(text: &str) -> String {
    Escaped(&text).to_string().chars().take(200).collect()
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
        let info = "cluster_state:fail\r\ncluster_current_epoch:12\r\n";
        let info = Value::BulkString(info.into());
        let said = parse(&answer, &info, "::1").unwrap();
        assert_eq!(
            (&said.ranges[..], said.epoch, said.is_cut_off),
            (&expected[..], Some(12), true)
        );
        // Who may not ask for it learns nothing else.
        let said = parse(&answer, &value("-NOPERM no\r\n"), "::1").unwrap();
        assert_eq!((&said.ranges[..], said.epoch, said.is_cut_off), (&expected[..], None, false));
        for odd in [
            "*0\r\n",
            "+OK\r\n",
            "*1\r\n:1\r\n",
            "-ERR no cluster\r\n",
            "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nh\r\n:1\r\n",
        ] {
            assert!(parse(&value(odd), &info, "h").is_err(), "{odd}");
        }
    }

    #[test]
    fn the_newest_answer_counts_and_none_of_a_node_that_is_cut_off_or_of_before() {
        let said = |epoch, is_cut_off| Said { ranges: Vec::new(), epoch, is_cut_off };
        let ok = |epoch: u64| said(Some(epoch), false);
        let cut_off = |epoch: u64| said(Some(epoch), true);
        let silent = said(None, false);
        for (all, held, so_far, at_last) in [
            (vec![], None, None, None),
            (vec![ok(3)], None, Some(0), Some(0)),
            // The first of equals, else the newest.
            (vec![ok(3), ok(4), ok(4)], Some(3), Some(1), Some(1)),
            // In a minority: as the only one, it is better than nothing.
            (vec![cut_off(3)], None, None, Some(0)),
            // A replica there counts its vain elections.
            (vec![cut_off(9), ok(4), cut_off(3)], Some(3), Some(1), Some(1)),
            (vec![cut_off(3), cut_off(5)], Some(4), None, Some(1)),
            // From before a failover that is known.
            (vec![ok(3)], Some(4), None, None),
            (vec![cut_off(3)], Some(4), None, None),
            (vec![ok(3), ok(4)], Some(4), Some(1), Some(1)),
            // Who tells nothing is believed, unless another one tells more.
            (vec![silent.clone()], Some(4), Some(0), Some(0)),
            (vec![silent, ok(4)], Some(4), Some(1), Some(1)),
        ] {
            let place = |is_all| {
                let newest = newest(&all, held, is_all)?;
                all.iter().position(|one| std::ptr::eq(one, newest))
            };
            assert_eq!((place(false), place(true)), (so_far, at_last), "{all:?}, {held:?}");
        }
    }

    #[test]
    fn redirections_are_read_as_nodes_write_them() {
        let request = Request { host: "10.0.0.9", slot: Some(3999), is_servers: true };
        let of = |line: &str| redirect(&server_error(line), request);
        let moved = |place: &str| Some(Redirect::Moved(3999, place.to_owned()));
        assert_eq!(of("MOVED 3999 10.0.0.1:6381"), moved("10.0.0.1:6381"));
        assert_eq!(of("MOVED 3999 :6381"), moved("10.0.0.9:6381"));
        assert_eq!(of("MOVED 3999 2001:db8::1:6381"), moved("[2001:db8::1]:6381"));
        assert_eq!(of("ASK 3999 h:6381"), Some(Redirect::Ask(3999, "h:6381".to_owned())));
        assert_eq!(
            of("TRYAGAIN Multiple keys request during rehashing of slot"),
            Some(Redirect::Later)
        );
        assert_eq!(of("CLUSTERDOWN The cluster is down"), Some(Redirect::Later));
        for line in [
            "MOVED",
            "MOVED 3999",
            "MOVED 99999 h:1",
            "MOVED 3999 h",
            "MOVED 3999 h:0",
            "ERR MOVED 3999 h:1",
            // Of another slot than the one that was asked for.
            "MOVED 1 h:1",
            "ASK 1 h:1",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn the_words_of_a_peer_are_shown_on_one_line_and_move_no_cursor() {
        assert_eq!(short("ERR \u{1b}[2Jno\nroom"), r"ERR \u{1b}[2Jno\nroom");
        assert_eq!(said(&server_error("ERR \u{1b}[2J")), r"ERR \u{1b}[2J");
        assert_eq!(short(&"x".repeat(1000)).len(), 200);
    }

    #[test]
    fn what_a_script_may_have_said_counts_where_it_is_what_a_server_says_word_for_word() {
        let of = |line: &str, is_servers| {
            let request = Request { host: "h", slot: Some(7), is_servers };
            redirect(&server_error(line), request)
        };
        for line in [
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN The cluster is down",
            "CLUSTERDOWN The cluster is down and only accepts read commands",
            "CLUSTERDOWN Hash slot not served",
            "LOADING Redis is loading the dataset in memory",
            "LOADING Valkey is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        ] {
            assert_eq!(of(line, false), Some(Redirect::Later), "{line}");
        }
        for line in [
            "TRYAGAIN",
            "TRYAGAIN later",
            "CLUSTERDOWN The cluster is down script: f1, on @user_script:1.",
            "LOADING the page",
            "MASTERDOWN",
        ] {
            assert_eq!(of(line, false), None, "{line}");
            assert_eq!(of(line, true), Some(Redirect::Later), "{line}");
        }
    }
}
