//! [`Listen`] for Redis: what others publish, over whatever connections it takes.
//!
//! The crate's own subscriber keeps messages without a bound, and cannot be asked for a sign of life. So
//! the wire is taken from the crate's task, and read here, where each message goes straight to whoever
//! keeps it. A subscribed connection is never used for anything else: it is closed when this ends.

use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use ::redis::{Cmd, Msg, RedisError, RedisResult, Value, cmd};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::reply_parser::ReplyParser;
use super::settings::Redis;
use livepool::protocol::{Feed, GuardExt, Listen, Wire};
use livepool::{CloseReason, Guard};

/// The bytes that are read at once.
const PIECE: usize = 16 << 10;
/// The most bytes that are read in one turn, before others have theirs.
const MOST_PIECES: usize = 16;
/// The bytes that a message takes beside its texts: those of its values.
const MESSAGE_OVERHEAD: usize = 256;

/// What is subscribed to: a channel, or all channels whose names fit a pattern.
///
/// Text is a channel: `pool.listen(["jobs"])`. Patterns are written as Redis has them for `PSUBSCRIBE`:
///
/// ```no_run
/// use livepool_redis::{Channel, Redis};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Redis::from_url("redis://cache.internal")?.pool()?;
/// let subscription =
///     pool.listen([Channel::named("jobs"), Channel::pattern("news.*")]).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel {
    is_pattern: bool,
    name: Vec<u8>,
}

impl Channel {
    /// The channel of this name.
    pub fn named(name: impl Into<Vec<u8>>) -> Self {
        Self { is_pattern: false, name: name.into() }
    }

    /// The channels whose names fit this pattern.
    pub fn pattern(pattern: impl Into<Vec<u8>>) -> Self {
        Self { is_pattern: true, name: pattern.into() }
    }
}

impl From<&str> for Channel {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

impl From<String> for Channel {
    fn from(name: String) -> Self {
        Self::named(name)
    }
}

impl Listen for Redis {
    type Channel = Channel;
    type Message = Msg;

    async fn follow(&self, guard: &mut Guard<Self>, feed: &Feed<Self>) -> RedisError {
        // The task polls the wire only through the shared place, which is empty now.
        guard.driver.stop();
        let Some(wire) = guard.shared_wire.take() else {
            return io::Error::from(io::ErrorKind::ConnectionAborted).into();
        };
        let mut follower = Follower::new(wire, feed);
        let error = follower.follow().await;
        if follower.is_late {
            guard.taint_as(CloseReason::PingTimeout);
        }
        error
    }

    fn size_of(message: &Msg) -> usize {
        let pattern = message.get_pattern::<Vec<u8>>().map_or(0, |pattern| pattern.len());
        let (name, payload) = (message.get_channel_name(), message.get_payload_bytes());
        MESSAGE_OVERHEAD + name.len() + payload.len() + pattern
    }
}

/// A request that the server has not answered.
enum Asked {
    Subscribe(Channel),
    Unsubscribe(Channel),
    Ping,
}

/// One connection that is subscribed.
struct Follower<'a> {
    wire: Wire,
    feed: &'a Feed<Redis>,
    /// What was asked for and not taken back.
    asked: BTreeSet<Channel>,
    /// What the server has confirmed.
    have: BTreeSet<Channel>,
    /// In the order in which the server answers.
    pending: VecDeque<Asked>,
    unsent: VecDeque<u8>,
    /// The bytes of a message that is not complete.
    part: Vec<u8>,
    parser: ReplyParser,
    /// When the server was heard, or asked for something while it owed nothing.
    heard: Instant,
    is_late: bool,
    /// What is confirmed, or wanted, is not what the feed was last told of.
    has_news: bool,
}

impl<'a> Follower<'a> {
    fn new(wire: Wire, feed: &'a Feed<Redis>) -> Self {
        Self {
            wire,
            feed,
            asked: BTreeSet::new(),
            have: BTreeSet::new(),
            pending: VecDeque::new(),
            unsent: VecDeque::new(),
            part: Vec::new(),
            parser: ReplyParser::new(),
            heard: Instant::now(),
            is_late: false,
            has_news: true,
        }
    }

    async fn follow(&mut self) -> RedisError {
        loop {
            self.ask();
            if std::mem::take(&mut self.has_news) {
                self.feed.confirm(&self.have);
            }
            let feed = self.feed;
            let mut changed = pin!(feed.changed());
            let mut late = pin!(feed.heartbeat().map(|beat| sleep_until(self.heard + beat)));
            let turned = poll_fn(|cx| {
                let changed = changed.as_mut().poll(cx).is_ready();
                self.has_news |= changed;
                let moved = self.poll_io(cx)?;
                let is_late = self.poll_late(late.as_mut().as_pin_mut(), cx)?;
                match changed || moved || is_late {
                    true => Poll::Ready(RedisResult::Ok(())),
                    false => Poll::Pending,
                }
            });
            if let Err(error) = turned.await {
                return error;
            }
        }
    }

    /// Asks for what is wanted and was not asked for.
    fn ask(&mut self) {
        let wanted = self.feed.wanted();
        let new: Vec<_> = wanted.difference(&self.asked).cloned().collect();
        let old: Vec<_> = self.asked.difference(&wanted).cloned().collect();
        // One command for each: a refusal names none of several.
        for channel in old {
            let word = if channel.is_pattern { "PUNSUBSCRIBE" } else { "UNSUBSCRIBE" };
            self.send(cmd(word).arg(&channel.name), Asked::Unsubscribe(channel));
        }
        for channel in new {
            let word = if channel.is_pattern { "PSUBSCRIBE" } else { "SUBSCRIBE" };
            self.send(cmd(word).arg(&channel.name), Asked::Subscribe(channel));
        }
        self.asked = wanted;
    }

    fn send(&mut self, command: &Cmd, asked: Asked) {
        if self.pending.is_empty() {
            self.heard = Instant::now();
        }
        self.unsent.extend(command.get_packed_command());
        self.pending.push_back(asked);
    }

    /// Asks for a sign of life when there was none, and fails when there is none then. Returns whether
    /// it did.
    fn poll_late(
        &mut self,
        late: Option<Pin<&mut Sleep>>,
        cx: &mut Context<'_>,
    ) -> Result<bool, RedisError> {
        let Some(mut late) = late else { return Ok(false) };
        if late.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        if self.pending.is_empty() {
            self.send(&cmd("PING"), Asked::Ping);
            return Ok(true);
        }
        // Heard meanwhile, or asked for something: there is a new limit.
        if self.heard + self.feed.heartbeat().unwrap_or_default() > Instant::now() {
            return Ok(true);
        }
        self.is_late = true;
        let why = "the server did not answer within the heartbeat of the subscription";
        Err(io::Error::new(io::ErrorKind::TimedOut, why).into())
    }

    /// Writes what is to be written, and reads what is there. Returns whether a message came.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Result<bool, RedisError> {
        while !self.unsent.is_empty() {
            let (piece, _) = self.unsent.as_slices();
            match Pin::new(&mut self.wire).poll_write(cx, piece) {
                Poll::Ready(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(Ok(count)) => drop(self.unsent.drain(..count)),
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => break,
            }
        }
        // Of a layer, which may keep what was written. Without one it does nothing.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.wire).poll_flush(cx) {
            return Err(error.into());
        }
        let mut moved = false;
        for _ in 0..MOST_PIECES {
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut buf = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.wire).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(read) => read?,
            }
            if buf.filled().is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.heard = Instant::now();
            self.received(buf.filled())?;
            moved = true;
        }
        Ok(moved)
    }

    fn received(&mut self, mut bytes: &[u8]) -> RedisResult<()> {
        while !bytes.is_empty() {
            let rest = bytes;
            let is_whole = self.parser.next(&mut bytes).is_some();
            let piece = &rest[..rest.len() - bytes.len()];
            if !is_whole {
                self.part.extend_from_slice(piece);
                break;
            }
            let value = match self.part.is_empty() {
                true => ::redis::parse_redis_value(piece),
                false => {
                    self.part.extend_from_slice(piece);
                    // A long message leaves nothing behind.
                    ::redis::parse_redis_value(&std::mem::take(&mut self.part))
                }
            };
            self.said(value?)?;
        }
        match self.parser.is_broken() {
            true => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            false => Ok(()),
        }
    }

    /// A message of the server is complete.
    fn said(&mut self, value: Value) -> RedisResult<()> {
        if is_confirmation(&value) {
            return self.answered(None);
        }
        match value {
            Value::Array(_) | Value::Push { .. } => {
                match Msg::from_owned_value(value) {
                    Some(message) => self.feed.deliver(message),
                    // `pong`, in the older protocol; or a push of another kind, which is for nobody.
                    None if self
                        .pending
                        .front()
                        .is_some_and(|asked| matches!(asked, Asked::Ping)) =>
                    {
                        self.pending.pop_front();
                    }
                    None => {}
                }
                Ok(())
            }
            Value::ServerError(error) => self.answered(Some(error.into())),
            _ => self.answered(None),
        }
    }

    /// The oldest request was answered.
    fn answered(&mut self, refusal: Option<RedisError>) -> RedisResult<()> {
        self.has_news = true;
        match (self.pending.pop_front(), refusal) {
            (Some(Asked::Subscribe(channel)), None) => {
                self.have.insert(channel);
            }
            (Some(Asked::Subscribe(channel)), Some(error)) => {
                self.feed.refuse(&channel, error)?;
                self.asked.remove(&channel);
            }
            (Some(Asked::Unsubscribe(channel)), None) => {
                self.have.remove(&channel);
            }
            // The server lives, whatever it thinks of a ping.
            (Some(Asked::Ping), _) => {}
            (Some(Asked::Unsubscribe(_)), Some(error)) | (None, Some(error)) => return Err(error),
            (None, None) => {}
        }
        Ok(())
    }
}

/// Whether it is the answer to a command that subscribes, or ends that.
fn is_confirmation(value: &Value) -> bool {
    use ::redis::PushKind::{PSubscribe, PUnsubscribe, Subscribe, Unsubscribe};
    match value {
        Value::Push { kind, .. } => {
            matches!(kind, Subscribe | Unsubscribe | PSubscribe | PUnsubscribe)
        }
        Value::Array(words) => {
            let Some(Value::BulkString(word)) = words.first() else { return false };
            let words: [&[u8]; 4] = [b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe"];
            words.contains(&word.as_slice())
        }
        _ => false,
    }
}
