//! An upstream that sends back what it gets, in a thread and runtime of its own.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers at once.
pub fn echo() -> SocketAddr {
    echo_after(Duration::ZERO)
}

/// Answers after this time, as from the other end of a network.
pub fn echo_after(delay: Duration) -> SocketAddr {
    let (tell, addr) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            tell.send(listener.local_addr().expect("bound")).expect("somebody waits");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, delay));
            }
        });
    });
    addr.recv().expect("the thread binds")
}

async fn serve(mut stream: TcpStream, delay: Duration) {
    let _ = stream.set_nodelay(true);
    let mut buf = [0; 64];
    while let Ok(bytes @ 1..) = stream.read(&mut buf).await {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if stream.write_all(&buf[..bytes]).await.is_err() {
            return;
        }
    }
}
