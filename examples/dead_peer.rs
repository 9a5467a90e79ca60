//! Cut the wire without a word and watch the pool find out: when the peer was last heard, the
//! probes, the verdict, the eviction, and the recovery, with a timeline.
//!
//! ```sh
//! cargo run --example dead_peer
//! ```
//!
//! The wire is cut by telling the upstream's sockets to hear nothing (`IP_MINTTL`): no FIN, no RST,
//! no ACK, as after a power failure or in a balancer that forgot the connection. Linux only.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(target_os = "linux")]
    return linux::main();
    #[cfg(not(target_os = "linux"))]
    Err("this example needs Linux: only there can silence be made and probed without privileges"
        .into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use livepool::event::{Check, CheckVerdict};
    use livepool::{Config, Event, Guard, PeerSilent, Pool};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const CONNECTIONS: usize = 4;

    /// The upstream's sockets.
    type Sockets = Arc<Mutex<Vec<Arc<TcpStream>>>>;

    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn main() -> Result<(), Box<dyn std::error::Error>> {
        let sockets = Sockets::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let config = Config::new(listener.local_addr()?.to_string())
            .with_name("dead_peer")
            .with_max_size(CONNECTIONS)
            .with_max_silence(Some(Duration::from_secs(2)));
        tokio::spawn(upstream(listener, Arc::clone(&sockets)));

        let timeline = Timeline(Instant::now());
        let pool = Pool::builder(config).observer(timeline.observer()).build()?;

        timeline.say("four connections are made and used once");
        let guards =
            futures_util::future::try_join_all((0..CONNECTIONS).map(|_| pool.get())).await?;
        for mut conn in guards {
            echo(&mut conn).await?;
            conn.release();
        }
        timeline.say(&format!("{}", pool.status()));

        timeline.say(
            "quiet for a while; each was just used, and is asked for a sign of life every second",
        );
        tokio::time::sleep(Duration::from_secs(5)).await;

        timeline.say("THE WIRE IS CUT: no FIN, no RST, no answer from now on");
        silence(&sockets);
        let cut = Instant::now();
        while pool.status().idle > 0 || pool.status().quarantined > 0 {
            let before = pool.status();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if pool.status() != before {
                timeline.say(&format!("{}", pool.status()));
            }
        }
        timeline.say(&format!(
            "all found dead {:.1?} after the cut, with no caller involved",
            cut.elapsed()
        ));
        timeline.say("the kernel's keepalive alone would have taken 30 s");

        timeline.say("the next caller gets a new connection");
        let mut conn = pool.get().await?;
        echo(&mut conn).await?;
        timeline.say(&format!("it works: {}", pool.status()));

        timeline.say("three more; now a request is on its way when the wire is cut again");
        for mut idle in
            futures_util::future::try_join_all((1..CONNECTIONS).map(|_| pool.get())).await?
        {
            echo(&mut idle).await?;
            idle.release();
        }
        conn.write_all(b"?").await?;
        let mut answer = [0; 1];
        silence(&sockets);
        let cut = Instant::now();
        let error = conn.read_exact(&mut answer).await.err();
        match error.as_ref().and_then(PeerSilent::of) {
            Some(silent) => timeline.say(&format!(
                "{silent}; found {:.1?} after the cut, with a read timeout of 30 s",
                cut.elapsed()
            )),
            None => timeline.say(&format!("the answer was quicker than the cut: {error:?}")),
        }
        drop(conn);
        while pool.status().idle > 0 || pool.status().quarantined > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        timeline.say("its idle siblings were asked as well, and are gone; recovery:");
        let mut conn = pool.get().await?;
        echo(&mut conn).await?;
        conn.release();
        timeline.say(&format!("{}", pool.status()));
        Ok(())
    }

    /// Prints with the time since the start.
    #[derive(Clone, Copy)]
    struct Timeline(Instant);

    impl Timeline {
        fn say(self, text: &str) {
            println!("{:6.2} s  {text}", self.0.elapsed().as_secs_f64());
        }

        fn observer(self) -> impl livepool::Observer {
            move |_: &str, event: &Event| match event {
                Event::Checked { conn, check: Check::Life, verdict, heard: Some(ago), .. } => {
                    let then = match verdict {
                        CheckVerdict::Unproved => "too long: it is asked now",
                        _ => "that will do",
                    };
                    self.say(&format!("  {conn}: peer last heard {ago:.1?} ago, {then}"));
                }
                Event::Checked { conn, check: Check::Probe, verdict, heard, .. } => {
                    let ago = heard.unwrap_or_default();
                    self.say(&format!("  {conn} was probed: {verdict}, last heard {ago:.1?} ago"));
                }
                Event::PeerChanged { peer, from, to, .. } => {
                    self.say(&format!("  peer {peer}: {from} -> {to}"));
                }
                Event::Closed { conn, reason, .. } => {
                    self.say(&format!("  {conn} closed: {reason}"));
                }
                Event::Opened { conn, took, .. } => {
                    self.say(&format!("  {conn} opened in {took:.1?}"));
                }
                _ => {}
            }
        }
    }

    /// One byte there and back.
    async fn echo(conn: &mut Guard) -> std::io::Result<()> {
        conn.write_all(b"!").await?;
        conn.read_exact(&mut [0; 1]).await.map(drop)
    }

    /// Sends every `!` back, and never answers `?`.
    async fn upstream(listener: TcpListener, sockets: Sockets) {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = Arc::new(stream);
            sockets.lock().expect("not poisoned").push(Arc::clone(&stream));
            tokio::spawn(async move {
                let mut byte = [0; 1];
                while stream.readable().await.is_ok() {
                    match stream.try_read(&mut byte) {
                        Ok(0) => return,
                        Ok(_) if byte == *b"!" => drop(stream.try_write(&byte)),
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return,
                    }
                }
            });
        }
    }

    /// The upstream's sockets hear nothing any more.
    #[allow(unsafe_code)]
    fn silence(sockets: &Sockets) {
        use std::os::fd::AsRawFd;
        for socket in sockets.lock().expect("not poisoned").iter() {
            let ttl: libc::c_int = 255;
            // SAFETY: the descriptor is open, its stream is in the list; the kernel reads one int.
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
