//! The pools under load: livepool, and deadpool and bb8 with the manager that people write for a protocol
//! like ours.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Manager, Metrics, RecycleError, RecycleResult};
use livepool::error::CheckoutFailure;
use livepool::{CheckoutError, Config, Guard, Observer, PeerAddr, Pool, Timeouts};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::echo::{Echo, LENGTH, SharedEcho, in_a_word};
use crate::fleet::{Fleet, NAME};

/// How long a caller waits for a connection and its answer, together, whatever pool it asks. Every pool
/// is told so.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How the manager of deadpool and bb8 checks an idle connection before it is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Check {
    /// Not at all.
    None,
    /// One look at the socket: closed, reset, or bytes that nobody asked for.
    Peek,
    /// One request and its answer.
    Ping,
}

/// A pool that callers can be sent to.
pub(crate) trait Contender: Clone + Send + Sync + 'static {
    type Held: Send;

    /// Takes a connection.
    fn get(&self) -> impl Future<Output = Result<Self::Held, String>> + Send;

    /// The peer of a connection, and when it was opened.
    fn origin(&self, held: &Self::Held) -> Option<(usize, Instant)>;

    /// One request and its answer. Whoever meets an error drops the connection afterwards, and it is not
    /// used again.
    fn ask(
        &self,
        held: &mut Self::Held,
        number: u64,
    ) -> impl Future<Output = Result<u64, String>> + Send;

    /// Gives a connection back that is not to be used again.
    fn discard(held: Self::Held);
}

// ---- livepool

/// When each connection of the pool was opened, by its number, and to what peer.
pub(crate) trait Origins: Send + Sync + 'static {
    fn origin(&self, conn: u64) -> Option<(usize, Instant)>;
    /// Somebody shares this connection.
    fn is_shared(&self, conn: u64);
}

#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) pool: Pool<Echo>,
    pub(crate) origins: Arc<dyn Origins>,
    pub(crate) shares: bool,
}

/// What a caller has of a livepool.
pub(crate) enum LiveHeld {
    Own(Box<Guard<Echo>>),
    Share(SharedEcho),
}

impl LiveHeld {
    fn id(&self) -> u64 {
        match self {
            Self::Own(guard) => guard.id().get(),
            Self::Share(share) => share.0.id().get(),
        }
    }
}

/// livepool as it comes, but for its size, the time that callers have, and how soon a connection that
/// nobody wants is closed.
pub(crate) fn livepool(
    fleet: &Fleet,
    size: usize,
    idle_timeout: Option<Duration>,
    observer: impl Observer,
) -> Pool<Echo> {
    let timeouts = Timeouts::default().with_checkout(PATIENCE).with_operation(PATIENCE);
    let mut config =
        Config::new(NAME).with_name("playground").with_max_size(size).with_timeouts(timeouts);
    if idle_timeout.is_some() {
        config = config.with_idle_timeout(idle_timeout);
    }
    Pool::builder(config)
        .resolver(fleet.clone())
        .observer(observer)
        .protocol(Echo)
        .build()
        .expect("every value is within its bounds")
}

impl Contender for Live {
    type Held = LiveHeld;

    async fn get(&self) -> Result<LiveHeld, String> {
        let in_a_word = |error: CheckoutError| match error.failure() {
            CheckoutFailure::Timeout(_) => "no connection in time".to_owned(),
            CheckoutFailure::QueueFull => "queue full".to_owned(),
            _ => "no connection".to_owned(),
        };
        if self.shares {
            let share = self.pool.share().await.map_err(in_a_word)?;
            self.origins.is_shared(share.0.id().get());
            Ok(LiveHeld::Share(share))
        } else {
            Ok(LiveHeld::Own(Box::new(self.pool.get().await.map_err(in_a_word)?)))
        }
    }

    fn origin(&self, held: &LiveHeld) -> Option<(usize, Instant)> {
        self.origins.origin(held.id())
    }

    async fn ask(&self, held: &mut LiveHeld, number: u64) -> Result<u64, String> {
        match held {
            LiveHeld::Own(guard) => guard.ask(number).await,
            LiveHeld::Share(share) => match share.0.run(share.0.client().ask(number)).await {
                Ok(answer) => answer,
                Err(error) => Err(in_a_word(&error)),
            },
        }
    }

    // The pool knows what became of it, and why.
    fn discard(held: LiveHeld) {
        drop(held);
    }
}

// ---- deadpool and bb8

/// A manager as people write it by hand, with care: deadlines on everything, and a connection that failed
/// is not used again.
#[derive(Clone)]
pub(crate) struct ByHand {
    fleet: Fleet,
    check: Check,
}

/// A connection of it.
pub(crate) struct Conn {
    stream: TcpStream,
    peer: usize,
    opened: Instant,
    is_broken: bool,
}

impl Conn {
    async fn ask(&mut self, number: u64) -> io::Result<u64> {
        let mut answer = [0; LENGTH];
        self.stream.write_all(&number.to_be_bytes()).await?;
        self.stream.read_exact(&mut answer).await?;
        Ok(u64::from_be_bytes(answer))
    }

    fn peek(&self) -> io::Result<()> {
        let mut buf = [MaybeUninit::uninit(); 1];
        match socket2::SockRef::from(&self.stream).peek(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl ByHand {
    pub(crate) fn new(fleet: &Fleet, check: Check) -> Self {
        Self { fleet: fleet.clone(), check }
    }

    async fn connect(&self) -> io::Result<Conn> {
        let addr: SocketAddr = self.fleet.next_addr()?;
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let peer = self.fleet.peer_at(addr).unwrap_or(0);
        Ok(Conn { stream, peer, opened: Instant::now(), is_broken: false })
    }

    async fn check(&self, conn: &mut Conn) -> io::Result<()> {
        match self.check {
            Check::None => Ok(()),
            Check::Peek => conn.peek(),
            Check::Ping => conn.ask(0).await.map(drop),
        }
    }
}

impl Manager for ByHand {
    type Type = Conn;
    type Error = io::Error;

    async fn create(&self) -> io::Result<Conn> {
        self.connect().await
    }

    async fn recycle(&self, conn: &mut Conn, _: &Metrics) -> RecycleResult<io::Error> {
        self.check(conn).await.map_err(RecycleError::Backend)
    }
}

impl bb8::ManageConnection for ByHand {
    type Connection = Conn;
    type Error = io::Error;

    async fn connect(&self) -> io::Result<Conn> {
        self.connect().await
    }

    async fn is_valid(&self, conn: &mut Conn) -> io::Result<()> {
        self.check(conn).await
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        conn.is_broken
    }
}

pub(crate) type Deadpool = managed::Pool<ByHand>;
pub(crate) type Bb8 = bb8::Pool<ByHand>;

pub(crate) fn deadpool(fleet: &Fleet, size: usize, check: Check) -> Deadpool {
    let limit = Some(PATIENCE);
    managed::Pool::builder(ByHand::new(fleet, check))
        .max_size(size)
        .timeouts(managed::Timeouts { wait: limit, create: limit, recycle: limit })
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .expect("a runtime is given")
}

pub(crate) fn bb8(fleet: &Fleet, size: usize, check: Check) -> Bb8 {
    bb8::Pool::builder()
        .max_size(u32::try_from(size).unwrap_or(u32::MAX))
        .connection_timeout(PATIENCE)
        .test_on_check_out(check != Check::None)
        .build_unchecked(ByHand::new(fleet, check))
}

impl Contender for Deadpool {
    type Held = managed::Object<ByHand>;

    async fn get(&self) -> Result<Self::Held, String> {
        managed::Pool::get(self).await.map_err(|error| match error {
            managed::PoolError::Timeout(_) => "no connection in time".to_owned(),
            managed::PoolError::Backend(error) => {
                format!("no connection: {}", in_a_word(&error))
            }
            _ => "no connection".to_owned(),
        })
    }

    fn origin(&self, held: &Self::Held) -> Option<(usize, Instant)> {
        Some((held.peer, held.opened))
    }

    async fn ask(&self, held: &mut Self::Held, number: u64) -> Result<u64, String> {
        Conn::ask(held, number).await.map_err(|error| in_a_word(&error))
    }

    fn discard(held: Self::Held) {
        drop(managed::Object::take(held));
    }
}

impl Contender for Bb8 {
    type Held = bb8::PooledConnection<'static, ByHand>;

    async fn get(&self) -> Result<Self::Held, String> {
        self.get_owned().await.map_err(|error| match error {
            bb8::RunError::TimedOut => "no connection in time".to_owned(),
            bb8::RunError::User(error) => format!("no connection: {}", in_a_word(&error)),
        })
    }

    fn origin(&self, held: &Self::Held) -> Option<(usize, Instant)> {
        Some((held.peer, held.opened))
    }

    async fn ask(&self, held: &mut Self::Held, number: u64) -> Result<u64, String> {
        Conn::ask(held, number).await.map_err(|error| in_a_word(&error))
    }

    fn discard(mut held: Self::Held) {
        held.is_broken = true;
    }
}

/// The socket address of a peer of ours, which all have one.
pub(crate) fn socket_addr(peer: &PeerAddr) -> Option<SocketAddr> {
    match peer {
        PeerAddr::Tcp(addr) => Some(*addr),
        _ => None,
    }
}
