//! Which slot a command belongs to. Pure.

use ::redis::{Arg, Cmd, ErrorKind, RedisError, RedisResult};

/// The number of slots of every cluster.
pub(super) const SLOTS: u16 = 16_384;

/// The slot of a key: that of the part in the first braces, if it is not empty.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tagged = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}').filter(|len| *len > 0)?;
        Some(&rest[..close])
    });
    crc16(tagged.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM, as the cluster's specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        let crc = crc ^ (u16::from(*byte) << 8);
        (0..8).fold(crc, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

/// Where a command is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// To the node that serves this slot.
    Slot(u16),
    /// To any node: all give the same answer, or do the same.
    Any,
    /// To every master: each has to do it.
    Every,
}

/// Where this command is to be sent, by its first key. (That all keys are of one slot is for the server to
/// say.)
pub(super) fn target_of(command: &Cmd) -> RedisResult<Target> {
    let words: Vec<&[u8]> = command
        .args_iter()
        .map(|arg| match arg {
            Arg::Simple(word) => word,
            _ => b"0",
        })
        .collect();
    let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    let key = match first_key(&name, &words) {
        Key::At(index) => words.get(index),
        Key::OfSlot(slot) => return Ok(Target::Slot(slot)),
        Key::None => return Ok(Target::Any),
        Key::Every => return Ok(Target::Every),
        Key::OfNode => None,
    };
    match key {
        Some(key) => Ok(Target::Slot(slot_of(key))),
        None => Err(RedisError::from((
            ErrorKind::InvalidClientConfig,
            "no command of a cluster",
            format!(
                "{}: it has no key that says which node is meant; send it to each node that you mean, with \
                 Cluster::nodes()",
                String::from_utf8_lossy(&name)
            ),
        ))),
    }
}

/// Whether this is a command of the server itself, which runs no user's code: its errors are the server's. Not
/// so a script's, a function's, a module's, and those of commands that are not known here.
pub(super) fn is_servers_own(command: &Cmd) -> bool {
    let Some(Arg::Simple(name)) = command.args_iter().next() else { return false };
    let mut own = OWN.split_ascii_whitespace();
    own.any(|own| own.as_bytes().eq_ignore_ascii_case(name))
}

/// For errors only, of which there are few: it is looked through from the beginning.
const OWN: &str = "
    APPEND BITCOUNT BITFIELD BITFIELD_RO BITOP BITPOS BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX
    BZPOPMIN CLUSTER COMMAND COPY DECR DECRBY DEL DUMP ECHO EXISTS EXPIRE EXPIREAT EXPIRETIME GEOADD GEODIST
    GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH GEOSEARCHSTORE GET
    GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HEXPIRE HEXPIREAT HEXPIRETIME HGET HGETALL HGETDEL HGETEX
    HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE HPEXPIREAT HPEXPIRETIME HPTTL HRANDFIELD
    HSCAN HSET HSETEX HSETNX HSTRLEN HTTL HVALS INCR INCRBY INCRBYFLOAT LCS LINDEX LINSERT LLEN LMOVE LMPOP
    LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM MEMORY MGET MSET MSETEX MSETNX OBJECT PERSIST PEXPIRE
    PEXPIREAT PEXPIRETIME PFADD PFCOUNT PFMERGE PING PSETEX PTTL PUBLISH RENAME RENAMENX RESTORE RPOP
    RPOPLPUSH RPUSH RPUSHX SADD SCARD SCRIPT SDIFF SDIFFSTORE SET SETBIT SETEX SETNX SETRANGE SINTER
    SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SORT SORT_RO SPOP SPUBLISH SRANDMEMBER SREM
    SSCAN STRLEN SUBSTR SUNION SUNIONSTORE TIME TOUCH TTL TYPE UNLINK XACK XACKDEL XADD XAUTOCLAIM XCLAIM
    XDEL XDELEX XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID XTRIM ZADD ZCARD ZCOUNT
    ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE ZLEXCOUNT ZMPOP ZMSCORE ZPOPMAX ZPOPMIN
    ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK
    ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION ZUNIONSTORE";

/// Where the first key of a command is.
enum Key {
    /// At this word, if there is one.
    At(usize),
    /// It has none, and is about this slot.
    OfSlot(u16),
    /// It has none, and any node does.
    None,
    /// It has none, and is for every master.
    Every,
    /// It is about one node.
    OfNode,
}

/// Behind the word STREAMS, which may be the name of a group as well.
fn streams(words: &[&[u8]]) -> Key {
    let mut at = 1;
    while let Some(word) = words.get(at) {
        at += match word.to_ascii_uppercase().as_slice() {
            b"STREAMS" => return Key::At(at + 1),
            b"COUNT" | b"BLOCK" | b"CLAIM" => 2,
            b"GROUP" => 3,
            _ => 1,
        };
    }
    Key::OfNode
}

fn is_one_of(word: Option<&&[u8]>, all: &[&str]) -> bool {
    word.is_some_and(|word| all.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes())))
}

/// Those that ask what each node knows, or what a slot holds. All others change a node, or are about one.
fn cluster(words: &[&[u8]]) -> Key {
    let slot = || {
        let number = std::str::from_utf8(words.get(2)?).ok()?.parse().ok()?;
        (number < SLOTS).then_some(Key::OfSlot(number))
    };
    match words.get(1) {
        what if is_one_of(what, &["INFO", "NODES", "SLOTS", "SHARDS", "KEYSLOT"]) => Key::None,
        what if is_one_of(what, &["COUNTKEYSINSLOT", "GETKEYSINSLOT"]) => {
            slot().unwrap_or(Key::OfNode)
        }
        _ => Key::OfNode,
    }
}

fn first_key(name: &[u8], words: &[&[u8]]) -> Key {
    // Behind the number of keys.
    let counted = |at: usize| match words.get(at) {
        Some(&count) if count == b"0" => Key::None,
        _ => Key::At(at + 1),
    };
    match name {
        b"PING" | b"ECHO" | b"TIME" | b"PUBLISH" | b"COMMAND" => Key::None,
        b"CLUSTER" => cluster(words),
        b"SCRIPT" if is_one_of(words.get(1), &["LOAD", "FLUSH", "EXISTS"]) => Key::Every,
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" | b"FCALL" | b"FCALL_RO" | b"BLMPOP"
        | b"BZMPOP" => counted(2),
        b"MSETEX" | b"ZUNION" | b"ZINTER" | b"ZDIFF" | b"ZINTERCARD" | b"SINTERCARD" | b"LMPOP"
        | b"ZMPOP" => counted(1),
        b"OBJECT" | b"XGROUP" | b"XINFO" | b"BITOP" | b"PFDEBUG" => Key::At(2),
        b"MEMORY" if words.get(1).is_some_and(|word| word.eq_ignore_ascii_case(b"USAGE")) => {
            Key::At(2)
        }
        b"XREAD" | b"XREADGROUP" => streams(words),
        _ if OF_NODE.contains(&name) => Key::OfNode,
        // Those of modules as well, as far as is known.
        _ => Key::At(1),
    }
}

/// Where the first key of a command is, if it has one.
#[cfg(any(test, feature = "__properties"))]
pub(crate) fn place_of_first_key(words: &[&[u8]]) -> Option<usize> {
    match first_key(&words.first()?.to_ascii_uppercase(), words) {
        Key::At(index) => Some(index),
        Key::OfSlot(_) | Key::None | Key::Every | Key::OfNode => None,
    }
}

/// Commands about one node, or about a connection to one.
const OF_NODE: &[&[u8]] = &[
    b"ACL",
    b"ASKING",
    b"AUTH",
    b"BGREWRITEAOF",
    b"BGSAVE",
    b"CLIENT",
    b"CONFIG",
    b"DBSIZE",
    b"DEBUG",
    b"DISCARD",
    b"EXEC",
    b"FAILOVER",
    b"FLUSHALL",
    b"FLUSHDB",
    b"FUNCTION",
    b"HELLO",
    b"INFO",
    b"KEYS",
    b"LASTSAVE",
    b"LATENCY",
    b"LOLWUT",
    b"MEMORY",
    b"MIGRATE",
    b"MODULE",
    b"MONITOR",
    b"MULTI",
    b"PFSELFTEST",
    b"PSUBSCRIBE",
    b"PSYNC",
    b"PUBSUB",
    b"PUNSUBSCRIBE",
    b"QUIT",
    b"RANDOMKEY",
    b"READONLY",
    b"READWRITE",
    b"REPLCONF",
    b"REPLICAOF",
    b"RESET",
    b"RESTORE-ASKING",
    b"ROLE",
    b"SAVE",
    b"SCAN",
    b"SCRIPT",
    b"SELECT",
    b"SENTINEL",
    b"SHUTDOWN",
    b"SLAVEOF",
    b"SLOWLOG",
    b"SUBSCRIBE",
    b"SUNSUBSCRIBE",
    b"SSUBSCRIBE",
    b"SWAPDB",
    b"SYNC",
    b"UNSUBSCRIBE",
    b"UNWATCH",
    b"WAIT",
    b"WAITAOF",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // Its own example, and what redis-server says with CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"123456789"), 12_739);
        assert_eq!(slot_of(b"foo"), 12_182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn a_command_about_a_node_is_refused_with_what_to_do() {
        for text in ["FLUSHALL", "keys *", "DBSIZE", "GET", "XREAD COUNT 1", ""] {
            let mut command = Cmd::new();
            text.split(' ').filter(|word| !word.is_empty()).for_each(|word| {
                command.arg(word);
            });
            let error = target_of(&command).unwrap_err().to_string();
            assert!(error.contains("Cluster::nodes()"), "{text}: {error}");
        }
    }

    #[test]
    fn a_key_is_found_behind_words_that_look_like_another_place_of_it() {
        for text in [
            "XREADGROUP GROUP streams c STREAMS k >",
            "XREADGROUP GROUP g streams COUNT 1 NOACK STREAMS k >",
            "xreadgroup count 1 group streams streams block 5 streams k >",
            "XREAD COUNT 1 STREAMS k 0",
            "MSETEX 1 k v",
        ] {
            let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
            assert_eq!(place_of_first_key(&words).map(|at| words[at]), Some(&b"k"[..]), "{text}");
        }
    }

    #[test]
    fn what_is_about_a_slot_goes_to_its_node_and_what_every_master_needs_to_all() {
        for (text, target) in [
            ("cluster info", Some(Target::Any)),
            ("CLUSTER KEYSLOT k", Some(Target::Any)),
            ("CLUSTER COUNTKEYSINSLOT 7", Some(Target::Slot(7))),
            ("cluster getkeysinslot 16383 10", Some(Target::Slot(16_383))),
            ("CLUSTER COUNTKEYSINSLOT 16384", None),
            ("CLUSTER COUNTKEYSINSLOT", None),
            ("CLUSTER RESET", None),
            ("CLUSTER", None),
            ("SCRIPT LOAD s", Some(Target::Every)),
            ("script exists s", Some(Target::Every)),
            ("SCRIPT FLUSH", Some(Target::Every)),
            ("SCRIPT KILL", None),
            ("SCRIPT", None),
        ] {
            let mut command = Cmd::new();
            text.split(' ').for_each(|word| {
                command.arg(word);
            });
            assert_eq!(target_of(&command).ok(), target, "{text}");
        }
    }
}
