//! What a careful user writes on plain deadpool: the same peek as livepool's.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult, Timeouts};
use tokio::net::TcpStream;

pub(crate) struct ByHand {
    pub(crate) addr: SocketAddr,
    pub(crate) peeks: bool,
}

impl Manager for ByHand {
    type Type = TcpStream;
    type Error = io::Error;

    async fn create(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.addr).await
    }

    async fn recycle(&self, stream: &mut TcpStream, _: &Metrics) -> RecycleResult<io::Error> {
        if !self.peeks {
            return Ok(());
        }
        let mut buf = [MaybeUninit::uninit(); 1];
        match socket2::SockRef::from(&*stream).peek(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(RecycleError::Backend(error)),
            Ok(_) => Err(RecycleError::message("closed or dirty")),
        }
    }
}

pub(crate) fn pool(manager: ByHand, size: usize) -> Pool<ByHand> {
    let second = manager.peeks.then_some(Duration::from_secs(1));
    Pool::builder(manager)
        .max_size(size)
        .timeouts(Timeouts { wait: second, create: second, recycle: second })
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .expect("a runtime is given")
}
