//! What sentinels say, and what follows from it. Pure.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use ::redis::Value;
use livepool::protocol::Escaped;
use tokio::time::Instant;

/// Where a server is, as a sentinel says it: an IP address, or a name where sentinels announce names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    pub(super) fn new(host: &str, port: &str) -> Option<Self> {
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty()).then(|| Self { host: host.to_owned(), port })
    }

    /// As an entry of `upstream`.
    pub(super) fn upstream(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.upstream()))
    }
}

/// What one sentinel says of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) place: Place,
    /// The number of the failover that made it the master. `None` where the sentinel does not tell.
    pub(super) epoch: Option<u64>,
}

/// The places that were named, the most wanted first: of the last failover that is known of, then by the
/// number of sentinels that name it, then in the order in which they answered.
pub(super) fn rank(answers: &[Answer]) -> Vec<Answer> {
    let mut places: Vec<(Answer, usize)> = Vec::new();
    for answer in answers {
        match places.iter_mut().find(|(known, _)| known.place == answer.place) {
            Some((known, votes)) => {
                known.epoch = known.epoch.max(answer.epoch);
                *votes += 1;
            }
            None => places.push((answer.clone(), 1)),
        }
    }
    places.sort_by_key(|(answer, votes)| std::cmp::Reverse((answer.epoch, *votes)));
    places.into_iter().map(|(answer, _)| answer).collect()
}

/// Whether so many sentinels agree, on no older failover than is `known`, that the others need not be waited
/// for.
pub(super) fn is_settled(answers: &[Answer], sentinels: usize, known: Option<u64>) -> bool {
    let Some(first) = rank(answers).into_iter().next() else { return false };
    let votes = answers.iter().filter(|answer| **answer == first).count();
    let is_old = known.zip(first.epoch).is_some_and(|(known, said)| said < known);
    votes * 2 > sentinels && !is_old
}

/// Whether more than half of the sentinels name the place of this answer.
pub(super) fn is_agreed(answer: &Answer, answers: &[Answer], sentinels: usize) -> bool {
    let votes = answers.iter().filter(|other| other.place == answer.place).count();
    votes * 2 > sentinels
}

/// After a failover, so long a majority that says something older may not have heard of it: sentinels tell
/// each other every 2 s.
pub(super) const HEARSAY: Duration = Duration::from_secs(10);

/// The master that is known, since which failover, and since when.
#[derive(Debug, Default)]
pub(super) struct Known(Option<(Answer, Instant)>);

/// What an answer, or an event, is to what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// As it was; or the first that is heard at all.
    Same,
    /// The master is another one.
    Moved,
    /// Of an older failover: whoever says it has not heard of the last one yet.
    Old,
    /// It does not follow from what is known: the sentinels have to be asked.
    Unclear,
}

impl Known {
    pub(super) fn place(&self) -> Option<&Place> {
        self.0.as_ref().map(|(known, _)| &known.place)
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        self.0.as_ref().and_then(|(known, _)| known.epoch)
    }

    /// Takes in what sentinels answered. For a later failover one is enough. Where it [is agreed](is_agreed)
    /// they may take back one that was [long ago](HEARSAY), as they do when an administrator begins anew; and
    /// then only they may name another place for the same one, or for one without a number: a single sentinel
    /// may write the same address in another way.
    pub(super) fn answered(&mut self, answer: &Answer, is_agreed: bool, now: Instant) -> News {
        match &mut self.0 {
            Some((known, _)) if known.place == answer.place => {
                // One that is behind with its numbers agrees on the place.
                known.epoch = known.epoch.max(answer.epoch);
                News::Same
            }
            Some((known, since)) => {
                let is_old =
                    known.epoch.zip(answer.epoch).is_some_and(|(known, said)| said < known);
                let is_later =
                    known.epoch.zip(answer.epoch).is_some_and(|(known, said)| said > known);
                let is_hearsay = !is_agreed || now.saturating_duration_since(*since) < HEARSAY;
                if is_old && is_hearsay {
                    return News::Old;
                }
                if !is_later && !is_agreed {
                    return News::Unclear;
                }
                self.0 = Some((answer.clone(), now));
                News::Moved
            }
            None => {
                self.0 = Some((answer.clone(), now));
                News::Same
            }
        }
    }

    /// Takes in a `+switch-master`.
    pub(super) fn switched(&mut self, switch: &Switch, now: Instant) -> News {
        match &mut self.0 {
            Some((known, _)) if known.place == switch.to => News::Same,
            Some((known, since)) if known.place == switch.from => {
                known.place = switch.to.clone();
                // Each failover has a higher number than the last one.
                known.epoch = known.epoch.map(|epoch| epoch + 1);
                *since = now;
                News::Moved
            }
            _ => News::Unclear,
        }
    }
}

/// A `+switch-master`: "name old-host old-port new-host new-port".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Switch {
    pub(super) master: String,
    pub(super) from: Place,
    pub(super) to: Place,
}

impl Switch {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [master, from_host, from_port, to_host, to_port] = words[..] else { return None };
        let from = Place::new(from_host, from_port)?;
        let to = Place::new(to_host, to_port)?;
        Some(Self { master: master.to_owned(), from, to })
    }
}

/// The sentinel of a `+sentinel`: "sentinel id host port @ master host port".
pub(super) fn new_sentinel(text: &str, master: &str) -> Option<Place> {
    let words: Vec<&str> = text.split(' ').collect();
    let ["sentinel", _, host, port, "@", of, ..] = words[..] else { return None };
    if of == master { Place::new(host, port) } else { None }
}

/// The answer to `SENTINEL GET-MASTER-ADDR-BY-NAME`: `None` where the sentinel knows no such master.
pub(super) fn master(value: &Value) -> Result<Option<Place>, String> {
    match value {
        Value::Nil => Ok(None),
        Value::Array(words) => match &words[..] {
            [host, port] => text(host)
                .zip(text(port))
                .and_then(|(host, port)| Place::new(&host, &port))
                .map(Some)
                .ok_or_else(|| unusual(value)),
            _ => Err(unusual(value)),
        },
        Value::ServerError(error) => Err(refusal(error)),
        _ => Err(unusual(value)),
    }
}

/// The number of the last failover, in the answer to `SENTINEL MASTER`.
pub(super) fn epoch(value: &Value) -> Option<u64> {
    fields(value)?.get("config-epoch")?.parse().ok()
}

/// The servers in an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Servers {
    pub(super) up: Vec<Place>,
    /// Down or not known yet, as far as this sentinel can tell.
    pub(super) down: Vec<Place>,
}

/// The servers in the answer to `SENTINEL REPLICAS` or `SENTINEL SENTINELS`.
pub(super) fn servers(value: &Value) -> Result<Servers, String> {
    let all = match value {
        Value::Array(all) => all,
        Value::ServerError(error) => return Err(refusal(error)),
        _ => return Err(unusual(value)),
    };
    let mut servers = Servers { up: Vec::new(), down: Vec::new() };
    for server in all {
        let Some(fields) = fields(server) else { return Err(unusual(value)) };
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let mut flags = field("flags").split(',');
        let is_down = flags.any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
        let list = if is_down { &mut servers.down } else { &mut servers.up };
        // Where announced, a name is in "ip" as well.
        list.extend(Place::new(field("ip"), field("port")));
    }
    Ok(servers)
}

/// A map, or what stands for one in RESP2.
fn fields(value: &Value) -> Option<HashMap<String, String>> {
    match value {
        Value::Map(pairs) => {
            pairs.iter().map(|(name, value)| text(name).zip(text(value))).collect()
        }
        Value::Array(words) => words
            .chunks(2)
            .map(|pair| match pair {
                [name, value] => text(name).zip(text(value)),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn refusal(error: &::redis::ServerError) -> String {
    let said = format!("{} {}", error.code(), error.details().unwrap_or_default());
    short(&Escaped(&said.trim_end()).to_string())
}

fn unusual(value: &Value) -> String {
    short(&format!("it does not answer as a sentinel does: {}", Escaped(&format!("{value:?}"))))
}

/// No more than a line of a peer's words.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        Place { host: "10.0.0.1".to_owned(), port }
    }

    fn answer(port: u16, epoch: Option<u64>) -> Answer {
        Answer { place: place(port), epoch }
    }

    fn ports(answers: &[Answer]) -> Vec<u16> {
        rank(answers).iter().map(|answer| answer.place.port).collect()
    }

    #[test]
    fn the_last_failover_counts_before_the_number_of_sentinels_that_have_not_heard_of_it() {
        assert_eq!(ports(&[]), [0; 0]);
        let old = answer(1, Some(3));
        assert_eq!(ports(&[old.clone(), old.clone(), answer(2, Some(4))]), [2, 1]);
        // Without numbers, the most do.
        assert_eq!(ports(&[answer(1, None), answer(2, None), answer(2, None)]), [2, 1]);
        assert_eq!(ports(&[answer(1, None), answer(2, Some(0))]), [2, 1]);
    }

    #[test]
    fn who_agrees_in_the_majority_need_not_wait_for_the_others() {
        let (old, new) = (answer(1, Some(3)), answer(2, Some(4)));
        assert!(!is_settled(&[], 3, None));
        assert!(!is_settled(std::slice::from_ref(&old), 3, None));
        assert!(is_settled(&[old.clone(), old.clone()], 3, None));
        assert!(!is_settled(&[old.clone(), old.clone()], 4, None));
        assert!(!is_settled(&[old.clone(), old.clone()], 3, Some(4)), "they are behind");
        // The majority is of one failover, and somebody knows of a later one.
        assert!(!is_settled(&[old.clone(), old, new.clone()], 3, None));
        assert!(is_settled(&[new], 1, Some(4)));
    }

    #[test]
    fn those_who_have_not_heard_of_the_last_failover_do_not_take_it_back_and_later_a_majority_does()
    {
        let (mut known, now) = (Known::default(), Instant::now());
        let later = now + HEARSAY;
        assert_eq!(known.answered(&answer(1, Some(3)), false, now), News::Same);
        assert_eq!(known.answered(&answer(2, Some(4)), false, now), News::Moved);
        assert_eq!(known.answered(&answer(1, Some(3)), false, later), News::Old);
        assert_eq!(
            known.answered(&answer(1, Some(3)), true, now),
            News::Old,
            "two of three are behind"
        );
        assert_eq!(known.place(), Some(&place(2)));
        assert_eq!(known.answered(&answer(1, Some(0)), true, later), News::Moved);
    }

    #[test]
    fn without_a_later_failover_a_place_is_believed_where_a_majority_names_it() {
        let now = Instant::now();
        for (before, said) in [(Some(3), Some(3)), (Some(3), None), (None, Some(3)), (None, None)] {
            let mut known = Known::default();
            known.answered(&answer(1, before), false, now);
            // As one names it that writes the address in another way.
            assert_eq!(known.answered(&answer(2, said), false, now), News::Unclear, "{said:?}");
            assert_eq!(known.place(), Some(&place(1)));
            assert_eq!(known.answered(&answer(2, said), true, now), News::Moved, "{said:?}");
            assert_eq!(known.place(), Some(&place(2)));
        }
    }

    #[test]
    fn those_agree_who_name_the_very_place() {
        let (one, other) = (answer(1, Some(3)), answer(2, Some(3)));
        assert!(is_agreed(&one, std::slice::from_ref(&one), 1));
        assert!(!is_agreed(&one, &[one.clone(), other.clone()], 3));
        assert!(!is_agreed(&one, &[one.clone(), other.clone(), other.clone()], 3));
        assert!(is_agreed(&other, &[one, other.clone(), answer(2, None)], 3));
    }

    #[test]
    fn a_switch_is_believed_at_once_where_it_begins_at_what_is_known_and_said_once() {
        let (mut known, now) = (Known::default(), Instant::now());
        let switch = |from, to| Switch { master: "m".to_owned(), from: place(from), to: place(to) };
        assert_eq!(known.switched(&switch(1, 2), now), News::Unclear, "nothing is known yet");
        known.answered(&answer(1, Some(3)), false, now);
        assert_eq!(known.switched(&switch(1, 2), now), News::Moved);
        assert_eq!(known.switched(&switch(1, 2), now), News::Same, "the second sentinel");
        assert_eq!(known.answered(&answer(1, Some(3)), true, now), News::Old, "the others");
        assert_eq!(known.answered(&answer(2, Some(7)), false, now), News::Same);
        assert_eq!(known.epoch(), Some(7));
        assert_eq!(known.switched(&switch(2, 3), now), News::Moved);
        assert_eq!(known.switched(&switch(1, 2), now), News::Unclear, "one that is late");
    }

    #[test]
    fn events_are_read_as_sentinels_write_them_and_anything_else_is_none() {
        let switch = Switch::parse("cache 10.0.0.1 1 10.0.0.1 2").unwrap();
        assert_eq!((&*switch.master, switch.from, switch.to), ("cache", place(1), place(2)));
        for text in ["", "cache", "cache a 1 b 0", "cache a 1 b x", "cache a 1 b 2 3", "a  1 b 2"] {
            assert_eq!(Switch::parse(text), None, "{text}");
        }
        let text = "sentinel 8f3a 10.0.0.1 5 @ cache 10.0.0.1 1";
        assert_eq!(new_sentinel(text, "cache"), Some(place(5)));
        assert_eq!(new_sentinel(text, "other"), None);
        assert_eq!(new_sentinel("slave 8f3a 10.0.0.1 5 @ cache 10.0.0.1 1", "cache"), None);
    }

    #[test]
    fn a_list_of_servers_is_read_in_both_protocols_and_says_who_is_down() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let server = |port: &str, flags: &str| {
            ["ip", "10.0.0.1", "port", port, "flags", flags].map(bulk).to_vec()
        };
        let list = Value::Array(vec![
            Value::Array(server("1", "slave")),
            Value::Array(server("2", "s_down,slave,disconnected")),
            Value::Map(
                server("3", "slave").chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect(),
            ),
        ]);
        let expected = Servers { up: vec![place(1), place(3)], down: vec![place(2)] };
        assert_eq!(servers(&list).unwrap(), expected);
        let odd = Value::Array(vec![Value::Array(server("1", "slave")[..3].to_vec())]);
        assert!(servers(&odd).unwrap_err().contains("not answer as a sentinel"));
        assert_eq!(master(&Value::Nil), Ok(None));
        assert_eq!(master(&Value::Array(vec![bulk("10.0.0.1"), bulk("1")])), Ok(Some(place(1))));
        assert!(master(&Value::Okay).is_err());
    }
}
