//! A protocol of one's own, in an afternoon: requests and answers in frames, over a codec.
//!
//! Run it: `cargo run --example custom_protocol`
//!
//! Every frame is a length and so many bytes, as `tokio_util`'s `LengthDelimitedCodec` has it. The
//! first one a client sends is a password. After that, every request has one answer:
//!
//! - `ping`: `pong`
//! - `upper TEXT`: the text in capitals
//! - `slow MS`: `done`, after so many milliseconds
//! - `retire`: `error standby`, from now on: this server is no longer the one to talk to
//!
//! What a pool has to know of it stands in `impl Protocol`. The rest is a client as one would write it
//! anyway, and a server to talk to.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use livepool::protocol::{Ledger, Owed, Protocol, Verdict, Wire};
use livepool::{Config, Event, Pool};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

// ---- the client, and its errors

/// One connection of the protocol.
struct Client {
    frames: Framed<Wire, LengthDelimitedCodec>,
    ledger: Ledger,
    /// The answer that was not read yet. It stays here when a caller goes away in the middle, and
    /// the connection is not reused.
    owed: Option<Owed>,
}

#[derive(Debug)]
enum Error {
    Io(io::Error),
    /// The server understood, and said no.
    Refused(String),
}

impl Client {
    async fn ask(&mut self, request: &str) -> Result<String, Error> {
        self.owed = Some(self.ledger.owe());
        self.frames.send(Bytes::copy_from_slice(request.as_bytes())).await?;
        let answer = self.frames.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        self.owed = None;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        match answer.strip_prefix("error ") {
            Some(why) => Err(Error::Refused(why.to_owned())),
            None => Ok(answer),
        }
    }
}

// ---- what a pool has to know of it

struct Shout {
    password: String,
}

impl Protocol for Shout {
    type Client = Client;
    type Error = Error;

    async fn connect(&self, wire: Wire) -> Result<Client, Error> {
        let ledger = wire.count_debt();
        let frames = Framed::new(wire, LengthDelimitedCodec::new());
        let mut client = Client { frames, ledger, owed: None };
        client.ask(&self.password).await?;
        Ok(client)
    }

    async fn ping(&self, client: &mut Client) -> Result<(), Error> {
        client.ask("ping").await.map(drop)
    }

    fn classify(&self, error: &Error) -> Verdict {
        match error {
            Error::Refused(why) if why == "standby" => Verdict::InvalidatePool,
            Error::Refused(_) => Verdict::Keep,
            Error::Io(_) => Verdict::Close,
        }
    }

    fn is_permanent(&self, error: &Error) -> bool {
        matches!(error, Error::Refused(why) if why == "wrong password")
    }

    // This server never speaks first, so `unread` stays as it is: whatever comes is dirt.
    fn unread(&self, _: &[u8]) -> Verdict {
        Verdict::Close
    }
}

// ---- and what one does with it

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start().await?;
    let config = Config::new(server.addr.to_string()).with_max_size(4);
    let closed = |_: &str, event: &Event| {
        if let Event::Closed { conn, reason, .. } = event {
            println!("         connection {conn} is closed: {reason}");
        }
    };
    let shout = Shout { password: "open sesame".to_owned() };
    let pool = Pool::builder(config.clone()).observer(closed).protocol(shout).build()?;

    println!("a request and its answer");
    let mut client = pool.get().await?;
    println!("         {}", client.ask("upper hello").await?);
    drop(client);
    println!("         {}: nothing was owed, so it is back", pool.status());

    println!("a caller who gives up in the middle");
    let mut client = pool.get().await?;
    let impatient = tokio::time::timeout(Duration::from_millis(20), client.ask("slow 500")).await;
    println!("         {}", if impatient.is_err() { "gave up" } else { "was served" });
    drop(client);
    let mut client = pool.get().await?;
    println!("         the next one reads its own answer: {}", client.ask("upper mine").await?);
    drop(client);

    println!("a server that is not the one to talk to any more");
    let (mut first, second) = (pool.get().await?, pool.get().await?);
    drop(second);
    if let Err(error) = first.ask("retire").await {
        println!("         it says {error}: {:?}", first.report(&error));
    }
    drop(first);
    server.retired.store(false, Ordering::SeqCst);

    println!("a wrong password");
    let wrong = Shout { password: "open barley".to_owned() };
    let refused = Pool::builder(config).protocol(wrong).build()?;
    if let Err(error) = refused.get().await {
        let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        println!("         {error}\n         {why}");
    }
    println!("         {} connections in all: it was not tried twice", server.dials());
    Ok(())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(why) => write!(f, "the server refused: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<io::ErrorKind> for Error {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Io(kind.into())
    }
}

// ---- a server to talk to

struct Server {
    addr: std::net::SocketAddr,
    retired: Arc<AtomicBool>,
    dials: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (retired, dials) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let server = Self { addr, retired: Arc::clone(&retired), dials: Arc::clone(&dials) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                dials.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&retired)));
            }
        });
        Ok(server)
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

async fn serve(stream: TcpStream, retired: Arc<AtomicBool>) -> io::Result<()> {
    let mut frames = Framed::new(stream, LengthDelimitedCodec::new());
    let mut known = false;
    while let Some(request) = frames.next().await {
        let request = request?;
        let request = String::from_utf8_lossy(&request).into_owned();
        let (word, rest) = request.split_once(' ').unwrap_or((&request, ""));
        if word == "retire" {
            retired.store(true, Ordering::SeqCst);
        }
        let answer = match word {
            _ if retired.load(Ordering::SeqCst) => "error standby".to_owned(),
            _ if !known && request == "open sesame" => {
                known = true;
                "welcome".to_owned()
            }
            _ if !known => "error wrong password".to_owned(),
            "ping" => "pong".to_owned(),
            "upper" => rest.to_uppercase(),
            "slow" => {
                tokio::time::sleep(Duration::from_millis(rest.parse().unwrap_or(0))).await;
                "done".to_owned()
            }
            _ => "error what?".to_owned(),
        };
        frames.send(Bytes::from(answer)).await?;
    }
    Ok(())
}
