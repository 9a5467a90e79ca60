//! The protocol of the pool: eight bytes there, the same eight bytes back. Its client routes answers, so
//! that callers may share a connection.

use std::collections::VecDeque;
use std::io;

use livepool::PeerSilent;
use livepool::protocol::{Ledger, Multiplex, Owed, Protocol, Share, Spread, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// The length of a request and of its answer.
pub(crate) const LENGTH: usize = 8;

/// Requests that may wait for the task of one connection. More wait in their callers.
const QUEUE: usize = 256;

/// What is pooled.
pub(crate) struct Echo;

/// One connection, whose task reads and writes.
pub(crate) struct Client {
    requests: mpsc::Sender<Request>,
    ledger: Ledger,
}

struct Request {
    number: u64,
    answer: oneshot::Sender<Result<u64, String>>,
    // Stays with the request when its caller goes: its answer comes all the same.
    owed: Owed,
}

impl Client {
    /// Sends a number, and returns the answer.
    ///
    /// # Errors
    ///
    /// In words, of the connection's end.
    pub(crate) async fn ask(&self, number: u64) -> Result<u64, String> {
        let (answer, answered) = oneshot::channel();
        let request = Request { number, answer, owed: self.ledger.owe() };
        let gone = || "connection closed".to_owned();
        self.requests.send(request).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// Writes what is asked and hands out what is answered, in the same order, until one end has gone.
async fn drive(wire: Wire, mut requests: mpsc::Receiver<Request>) {
    let (mut read, mut write) = tokio::io::split(wire);
    let mut waiting: VecDeque<Request> = VecDeque::new();
    let mut answer = [0; LENGTH];
    let mut have = 0;
    let error = loop {
        tokio::select! {
            length = read.read(&mut answer[have..]) => match length {
                Ok(0) => break io::ErrorKind::UnexpectedEof.into(),
                Ok(length) => {
                    have += length;
                    if have == LENGTH {
                        have = 0;
                        let Some(asked) = waiting.pop_front() else {
                            break io::ErrorKind::InvalidData.into();
                        };
                        let _ = asked.answer.send(Ok(u64::from_be_bytes(answer)));
                        drop(asked.owed);
                    }
                }
                Err(error) => break error,
            },
            request = requests.recv() => {
                let Some(request) = request else { return };
                let bytes = request.number.to_be_bytes();
                waiting.push_back(request);
                // Eight bytes fit into a socket's buffer, or the upstream takes nothing any more: then the
                // write has its timeout.
                if let Err(error) = write.write_all(&bytes).await {
                    break error;
                }
            }
        }
    };
    requests.close();
    while let Ok(request) = requests.try_recv() {
        waiting.push_back(request);
    }
    for request in waiting {
        let _ = request.answer.send(Err(in_a_word(&error)));
    }
}

/// An error as it is counted: few kinds, without numbers.
pub(crate) fn in_a_word(error: &io::Error) -> String {
    if PeerSilent::of(error).is_some() {
        return "peer silent".to_owned();
    }
    let word = match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => "connection closed",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "connection reset",
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::TimedOut => "timed out",
        kind => return kind.to_string(),
    };
    word.to_owned()
}

impl Protocol for Echo {
    type Client = Client;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Client> {
        let ledger = wire.count_debt();
        let driver = wire.driver();
        let (requests, asked) = mpsc::channel(QUEUE);
        tokio::spawn(driver.run(drive(wire, asked)));
        Ok(Client { requests, ledger })
    }

    async fn ping(&self, client: &mut Client) -> io::Result<()> {
        client.ask(0).await.map(drop).map_err(io::Error::other)
    }

    fn speaks(&self) -> &'static str {
        "eight bytes and back"
    }
}

/// What those get who share a connection.
pub(crate) struct SharedEcho(pub(crate) Share<Echo>);

impl Multiplex for Echo {
    type Shared = SharedEcho;

    fn shared(&self, share: Share<Self>) -> SharedEcho {
        SharedEcho(share)
    }

    // So that the page has more than one connection to show.
    fn spread(&self) -> Spread {
        Spread::Even(2)
    }
}
