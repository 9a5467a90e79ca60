//! A protocol of lines, spoken with [`Upstream`](super::Upstream): as a client that reads in a task
//! of its own, the way libraries for databases do.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use livepool::protocol::{
    Ledger, Multiplex, Protocol, RequestLost, Scanner, Share, Spread, Verdict, Wire,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};

/// What the client of a test says, does and allows.
#[derive(Clone)]
pub struct Lines {
    /// The first line of every connection; its answer is waited for.
    pub hello: String,
    /// What a ping and a reset ask.
    pub ping: String,
    pub reset: String,
    pub reuse: Verdict,
    /// Bytes that may wait while nobody uses the connection begin so.
    pub notice: Option<u8>,
    /// An answer that begins so makes the connection, or all of them, unfit.
    pub evict: &'static str,
    pub invalidate: &'static str,
    /// One that begins so says that the connection ends.
    pub goodbye: &'static str,
    /// One that begins so says that the connection needs a reset.
    pub stain: &'static str,
    /// A hello that is answered so is refused: for now, or for good.
    pub not_now: &'static str,
    pub never: &'static str,
    /// So many connections more are made; the next ones are refused for good.
    pub let_in: Arc<AtomicUsize>,
    /// How those who share are spread, and how many may use a connection.
    pub spread: Spread,
    pub most_shares: Arc<AtomicUsize>,
    /// Tasks that read.
    pub drivers: Arc<AtomicUsize>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            hello: "ECHO hello".to_owned(),
            ping: "ECHO ping".to_owned(),
            reset: "ECHO reset".to_owned(),
            reuse: Verdict::Keep,
            notice: None,
            evict: "evict",
            invalidate: "invalidate",
            goodbye: "goodbye",
            stain: "stain",
            not_now: "not now",
            never: "never",
            let_in: Arc::new(AtomicUsize::new(usize::MAX)),
            spread: Spread::Pack,
            most_shares: Arc::new(AtomicUsize::new(usize::MAX)),
            drivers: Arc::default(),
        }
    }
}

/// What a client asks its driver: a line, and where the answer goes.
type Request = (String, oneshot::Sender<String>);

pub struct Client {
    requests: mpsc::UnboundedSender<Request>,
    pub ledger: Ledger,
    /// Lines that nobody had asked for, which begin with `#` or come while nothing is owed.
    pub notices: Arc<Mutex<Vec<String>>>,
}

impl Client {
    /// Asks later, whoever has the connection then.
    pub fn asks_later(&self) -> impl FnOnce(&str) -> oneshot::Receiver<String> + use<> {
        let requests = self.requests.clone();
        move |line| {
            let (answer, answered) = oneshot::channel();
            requests.send((line.to_owned(), answer)).unwrap();
            answered
        }
    }

    /// Sends at once, and waits for the answer; whoever gives up waiting does not take the question
    /// back.
    pub async fn ask(&self, line: &str) -> io::Result<String> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.requests.send((line.to_owned(), answer)).map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))
    }
}

struct Count {
    owed: usize,
    /// The beginning of a line that was received, as far as anybody looks at it.
    line: Vec<u8>,
    evict: &'static str,
    invalidate: &'static str,
    goodbye: &'static str,
    stain: &'static str,
    verdict: Verdict,
    /// The line that it followed from.
    code: Option<String>,
}

impl Scanner for Count {
    fn sent(&mut self, bytes: &[u8]) {
        self.owed += bytes.iter().filter(|byte| **byte == b'\n').count();
    }

    fn received(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            if !self.line.starts_with(b"#") {
                self.owed = self.owed.saturating_sub(1);
            }
            if self.line.starts_with(self.invalidate.as_bytes()) {
                self.verdict = Verdict::InvalidatePool;
            } else if self.line.starts_with(self.goodbye.as_bytes()) {
                self.verdict = Verdict::PeerCloses;
            } else if self.line.starts_with(self.stain.as_bytes()) {
                self.verdict = Verdict::NeedsReset;
            } else if self.line.starts_with(self.evict.as_bytes()) {
                self.verdict = Verdict::Close;
            }
            if self.verdict != Verdict::Keep && self.code.is_none() {
                self.code = Some(String::from_utf8_lossy(&self.line).into_owned());
            }
            self.line.clear();
        }
    }

    fn owed(&self) -> usize {
        self.owed
    }

    fn verdict(&mut self) -> Verdict {
        std::mem::replace(&mut self.verdict, Verdict::Keep)
    }

    fn code(&self) -> Option<String> {
        self.code.clone()
    }
}

impl Lines {
    pub async fn client(&self, wire: Wire) -> io::Result<Client> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.let_in.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err() {
            return Err(io::Error::other(self.never));
        }
        let count = Count {
            owed: 0,
            line: Vec::new(),
            evict: self.evict,
            invalidate: self.invalidate,
            goodbye: self.goodbye,
            stain: self.stain,
            verdict: Verdict::Keep,
            code: None,
        };
        let ledger = wire.scan(count);
        let (requests, asked) = mpsc::unbounded_channel();
        let notices = Arc::<Mutex<Vec<String>>>::default();
        self.drivers.fetch_add(1, Ordering::SeqCst);
        let driver = wire.driver();
        let task = drive(wire, asked, Arc::clone(&notices), Arc::clone(&self.drivers));
        tokio::spawn(driver.run(task));
        let client = Client { requests, ledger, notices };
        match client.ask(&self.hello).await? {
            no if no == self.not_now || no == self.never => Err(io::Error::other(no)),
            _ => Ok(client),
        }
    }
}

async fn drive(
    wire: Wire,
    mut asked: mpsc::UnboundedReceiver<Request>,
    notices: Arc<Mutex<Vec<String>>>,
    drivers: Arc<AtomicUsize>,
) {
    let (read, mut write) = tokio::io::split(wire);
    let mut lines = BufReader::new(read).lines();
    let mut waiting: VecDeque<oneshot::Sender<String>> = VecDeque::new();
    loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(notice)) if notice.starts_with('#') => {
                    notices.lock().unwrap().push(notice);
                }
                Ok(Some(line)) => match waiting.pop_front() {
                    Some(answer) => drop(answer.send(line)),
                    None => notices.lock().unwrap().push(line),
                },
                Ok(None) | Err(_) => break,
            },
            request = asked.recv() => {
                let Some((line, answer)) = request else { break };
                waiting.push_back(answer);
                if write.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }
    drivers.fetch_sub(1, Ordering::SeqCst);
}

impl Protocol for Lines {
    type Client = Client;
    type Error = io::Error;

    async fn connect(&self, wire: Wire) -> io::Result<Client> {
        self.client(wire).await
    }

    async fn ping(&self, client: &mut Client) -> io::Result<()> {
        client.ask(&self.ping).await.map(drop)
    }

    fn reuse(&self, _: &Client) -> Verdict {
        self.reuse
    }

    async fn reset(&self, client: &mut Client) -> io::Result<()> {
        match client.ask(&self.reset).await?.as_str() {
            "error" => Err(io::Error::other("it would not be reset")),
            _ => Ok(()),
        }
    }

    fn classify(&self, error: &io::Error) -> Verdict {
        match error.to_string() {
            text if text == self.invalidate => Verdict::InvalidatePool,
            text if text == self.evict => Verdict::Close,
            text if text == self.goodbye => Verdict::PeerCloses,
            text if text == self.stain => Verdict::NeedsReset,
            _ => Verdict::Keep,
        }
    }

    fn code(&self, error: &io::Error) -> Option<String> {
        Some(error.to_string())
    }

    fn is_permanent(&self, error: &io::Error) -> bool {
        error.to_string() == self.never
    }

    fn unread(&self, bytes: &[u8]) -> Verdict {
        match bytes.first() {
            first if first == self.notice.as_ref() => Verdict::Keep,
            Some(b'!') => Verdict::PeerCloses,
            Some(b'*') => Verdict::InvalidatePool,
            Some(b'~') => Verdict::NeedsReset,
            _ => Verdict::Close,
        }
    }
}

/// What those get who share a connection.
pub struct SharedLines(pub Share<Lines>);

impl SharedLines {
    /// As [`Client::ask`].
    pub async fn ask(&self, line: &str) -> io::Result<String> {
        match self.0.run(self.0.client().ask(line)).await? {
            Err(error) => Err(self.0.lost(true).map_or(error, RequestLost::into)),
            answer => answer,
        }
    }
}

impl Multiplex for Lines {
    type Shared = SharedLines;

    fn shared(&self, share: Share<Self>) -> SharedLines {
        SharedLines(share)
    }

    fn spread(&self) -> Spread {
        self.spread
    }

    fn most_shares(&self, _: &Client) -> usize {
        self.most_shares.load(Ordering::SeqCst)
    }
}
