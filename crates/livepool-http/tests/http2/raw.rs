//! A server that sends frames by hand, where a library would not do what the test needs.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

/// `:status 200`, by its number in the static table of RFC 7541.
pub(crate) const STATUS_200: &[u8] = &[0x88];

pub(crate) struct Raw(TcpStream);

pub(crate) struct Frame {
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// A listener whose connections, by their number, are each served by this.
    pub(crate) async fn listen<F, S>(serve: S) -> SocketAddr
    where
        S: Fn(usize, Self) -> F + Send + 'static,
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for number in 0.. {
                if let Ok(raw) = Self::accept(&listener).await {
                    tokio::spawn(serve(number, raw));
                }
            }
        });
        addr
    }

    /// The next connection, greeted.
    pub(crate) async fn accept(listener: &TcpListener) -> io::Result<Self> {
        let mut raw = Self(listener.accept().await?.0);
        raw.greet().await?;
        Ok(raw)
    }

    async fn greet(&mut self) -> io::Result<()> {
        self.0.read_exact(&mut [0; 24]).await?;
        // Room for a megabyte, so that nobody has to make more.
        self.send(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0]).await?;
        self.send(WINDOW_UPDATE, 0, 0, &[0, 16, 0, 0]).await
    }

    pub(crate) async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await
    }

    /// A GOAWAY: the last stream that was taken, and a code.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) -> io::Result<()> {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await
    }

    /// Answers with a head, and nothing else.
    pub(crate) async fn answer(&mut self, stream: u32) -> io::Result<()> {
        self.send(HEADERS, 5, stream, STATUS_200).await
    }

    /// The next frame of this type; others are read over.
    pub(crate) async fn next(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if head[3] == kind {
                return Ok(Frame { flags: head[4], stream, payload });
            }
        }
    }
}

impl Raw {
    /// Reads a frame of data, and counts it. `false` for the last one.
    pub(crate) async fn next_data(&mut self, length: &mut usize) -> io::Result<bool> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            self.0.read_exact(&mut vec![0; size]).await?;
            if head[3] == 0 {
                *length += size;
                return Ok(head[4] & 1 == 0);
            }
        }
    }
}
