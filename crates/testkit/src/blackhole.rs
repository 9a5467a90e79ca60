//! An address that takes connection requests and never answers them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A loopback listener whose accept queue is full: the kernel drops every further SYN, as an
/// address does that no route leads to. Nothing leaves the machine.
pub struct Blackhole {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Blackhole {
    /// Fills the queue. Takes a tenth of a second: only silence tells that it is full.
    pub fn start() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
            queued.push(stream);
            assert!(queued.len() < 64, "this kernel does not bound the accept queue");
        }
        Self { listener, _queued: queued }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// From now on everybody is let in, and kept.
    pub fn heal(&self) {
        socket2::SockRef::from(&self.listener).listen(1024).unwrap();
        let listener = self.listener.try_clone().unwrap();
        // Ends with the test's process.
        std::thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                held.push(stream);
            }
        });
    }

    /// Sockets of this machine that are still asking to be let in here.
    #[cfg(target_os = "linux")]
    pub fn asking(&self) -> usize {
        super::sockets_to(self.addr(), super::SYN_SENT)
    }
}
