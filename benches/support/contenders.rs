//! The pools livepool is measured beside, with the checks that their users write.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use deadpool::managed::{self, Manager, Metrics, RecycleError, RecycleResult, Timeouts};
use livepool::config::Validation;
use livepool::{BoxFuture, Config, Pool, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// How an idle connection is checked before it is handed out.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// Not at all.
    Nothing,
    /// One peek, as livepool's.
    Peek,
    /// One byte there and back.
    Ping,
}

/// A manager as people write it by hand.
#[derive(Debug, Clone, Copy)]
pub struct ByHand {
    addr: SocketAddr,
    check: Check,
}

impl ByHand {
    pub fn new(addr: SocketAddr, check: Check) -> Self {
        Self { addr, check }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn check(&self, stream: &mut TcpStream) -> io::Result<()> {
        match self.check {
            Check::Nothing => Ok(()),
            Check::Peek => peek(stream),
            Check::Ping => ping(stream).await,
        }
    }
}

/// Alive is: nothing to read.
pub fn peek(stream: &TcpStream) -> io::Result<()> {
    let mut buf = [MaybeUninit::uninit(); 1];
    match socket2::SockRef::from(stream).peek(&mut buf) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One byte there and back.
pub async fn ping<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(b"?").await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

impl Manager for ByHand {
    type Type = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        self.connect().await
    }

    async fn recycle(&self, stream: &mut TcpStream, _: &Metrics) -> RecycleResult<io::Error> {
        self.check(stream).await.map_err(RecycleError::Backend)
    }
}

impl bb8::ManageConnection for ByHand {
    type Connection = TcpStream;
    type Error = io::Error;

    async fn connect(&self) -> io::Result<TcpStream> {
        self.connect().await
    }

    async fn is_valid(&self, stream: &mut TcpStream) -> io::Result<()> {
        self.check(stream).await
    }

    fn has_broken(&self, _: &mut TcpStream) -> bool {
        false
    }
}

pub type Deadpool = managed::Pool<ByHand>;
pub type Bb8 = bb8::Pool<ByHand>;

/// Long enough that a busy machine does not end a bench. How long it is costs nothing: a timer is
/// armed and taken away.
const LIMIT: Option<Duration> = Some(Duration::from_secs(30));

/// None of deadpool's timeouts.
pub const UNBOUNDED: Timeouts = Timeouts { wait: None, create: None, recycle: None };
/// Only the one over the wait for a permit.
pub const WAIT: Timeouts = Timeouts { wait: LIMIT, create: None, recycle: None };
/// All three, as a careful user has them.
pub const BOUNDED: Timeouts = Timeouts { wait: LIMIT, create: LIMIT, recycle: LIMIT };

pub fn deadpool(addr: SocketAddr, size: usize, check: Check, timeouts: Timeouts) -> Deadpool {
    managed::Pool::builder(ByHand::new(addr, check))
        .max_size(size)
        .timeouts(timeouts)
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .expect("a runtime is given")
}

pub async fn bb8(addr: SocketAddr, size: u32, check: Check) -> Bb8 {
    bb8::Pool::builder()
        .max_size(size)
        .test_on_check_out(!matches!(check, Check::Nothing))
        .build(ByHand::new(addr, check))
        .await
        .expect("connections are made later")
}

/// livepool as it comes: a peek, a deadline, everything counted.
pub fn livepool(addr: SocketAddr, size: usize) -> Pool {
    Pool::new(Config::new(addr.to_string()).with_max_size(size)).expect("valid")
}

/// livepool with a round trip before each use.
pub fn livepool_pinging(addr: SocketAddr, size: usize) -> Pool {
    let config =
        Config::new(addr.to_string()).with_max_size(size).with_validation(Validation::Ping);
    Pool::builder(config).ping(Echo).build().expect("valid")
}

struct Echo;

impl livepool::Ping for Echo {
    fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(ping(stream))
    }
}

/// What every pool can do: give a connection, and take it back when that is dropped.
pub trait Contender: Clone + Send + Sync + 'static {
    type Held: Send;

    fn get(&self) -> impl Future<Output = Self::Held> + Send;
}

impl Contender for Deadpool {
    type Held = managed::Object<ByHand>;

    async fn get(&self) -> Self::Held {
        managed::Pool::get(self).await.expect("a connection")
    }
}

impl Contender for Bb8 {
    type Held = bb8::PooledConnection<'static, ByHand>;

    async fn get(&self) -> Self::Held {
        self.get_owned().await.expect("a connection")
    }
}

impl Contender for Pool {
    type Held = livepool::Guard;

    async fn get(&self) -> Self::Held {
        Self::get(self).await.expect("a connection")
    }
}
