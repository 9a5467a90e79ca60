//! An upstream that sends back what it gets, or nothing, in a thread and runtime of its own.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Answers at once.
pub fn echo() -> SocketAddr {
    start(Some(Duration::ZERO))
}

/// Answers after this time, as from the other end of a network.
pub fn echo_after(delay: Duration) -> SocketAddr {
    start(Some(delay))
}

/// Answers at once, in the runtime of its client: what they exchange wakes no other thread.
pub fn echo_in(runtime: &Runtime) -> SocketAddr {
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let addr = listener.local_addr().expect("bound");
        tokio::spawn(accept(listener, Some(Duration::ZERO)));
        addr
    })
}

/// Never answers.
pub fn sink() -> SocketAddr {
    start(None)
}

fn start(answers_after: Option<Duration>) -> SocketAddr {
    let (tell, addr) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            tell.send(listener.local_addr().expect("bound")).expect("somebody waits");
            accept(listener, answers_after).await;
        });
    });
    addr.recv().expect("the thread binds")
}

async fn accept(listener: TcpListener, answers_after: Option<Duration>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, answers_after));
    }
}

async fn serve(mut stream: TcpStream, answers_after: Option<Duration>) {
    let _ = stream.set_nodelay(true);
    let mut buf = [0; 64];
    while let Ok(bytes @ 1..) = stream.read(&mut buf).await {
        let Some(delay) = answers_after else { continue };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if stream.write_all(&buf[..bytes]).await.is_err() {
            return;
        }
    }
}
