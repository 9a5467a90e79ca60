//! A tonic server in this process that can be killed and unplugged.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;

/// The server's sockets, the one that listens among them.
type Sockets = Arc<Mutex<Vec<OwnedFd>>>;

pub(crate) struct Server {
    addr: SocketAddr,
    sockets: Sockets,
    /// Of its own: its connections end with it.
    runtime: Option<Runtime>,
}

impl Server {
    /// At a free port of this machine.
    pub(crate) fn start() -> io::Result<Self> {
        let addr = ([127, 0, 0, 1], 0).into();
        let mut server = Self { addr, sockets: Sockets::default(), runtime: None };
        server.start_again()?;
        Ok(server)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        let listener = std::net::TcpListener::bind(self.addr)?;
        listener.set_nonblocking(true)?;
        self.addr = listener.local_addr()?;
        self.sockets = Sockets::default();
        keep(&self.sockets, listener.try_clone()?.into());
        let sockets = Arc::clone(&self.sockets);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        runtime.spawn(async move {
            let (reporter, health) = tonic_health::server::health_reporter();
            reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
            let listener = TcpListener::from_std(listener).expect("a listener");
            let incoming = TcpListenerStream::new(listener).map(move |socket| {
                let socket = socket?;
                let copy = std::os::fd::AsFd::as_fd(&socket).try_clone_to_owned()?;
                keep(&sockets, copy);
                Ok::<_, io::Error>(socket)
            });
            tonic::transport::Server::builder()
                .add_service(health)
                .serve_with_incoming(incoming)
                .await
        });
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Its connections end with it.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.sockets = Sockets::default();
    }

    /// It hears nothing any more, and so says nothing: no packet has a lifetime of 255 hops here.
    #[allow(unsafe_code)]
    pub(crate) fn unplug(&self) {
        for socket in &*self.sockets.lock().expect("not poisoned") {
            let ttl: libc::c_int = 255;
            // SAFETY: the descriptor is open, it is in the list; the kernel reads one int.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_MINTTL,
                    (&raw const ttl).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn keep(sockets: &Sockets, socket: OwnedFd) {
    sockets.lock().expect("not poisoned").push(socket);
}
