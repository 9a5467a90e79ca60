//! gRPC with a real tonic server and client: servers that are killed, unplugged and moved, seen by a tonic
//! client on a pool, and by the same client on tonic's own `Channel`.
//!
//! ```sh
//! cargo run -p livepool-http --features http2,tower --example grpc
//! ```
//!
//! Each makes a call every 5 ms, with no deadline of its own. The cable is pulled by telling the server's
//! sockets to hear nothing (`IP_MINTTL`): no FIN, no RST, no ACK. What such a server has said last it says
//! again for some seconds, so that it is found later than one behind a cable that is really cut (3 s). Linux only.

#[cfg(target_os = "linux")]
#[path = "support/health.rs"]
mod health;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(target_os = "linux")]
    return linux::main();
    #[cfg(not(target_os = "linux"))]
    Err("this example needs Linux: only there can silence be made without privileges".into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use futures_util::future::BoxFuture;
    use livepool::{Config, Pool, Resolve};
    use livepool_http::http2::Http2;
    use livepool_http::tower::Grpc;
    use tokio::task::JoinHandle;
    use tonic::transport::{Channel, Endpoint};
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::health::Server;

    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn main() -> Result<(), Box<dyn std::error::Error>> {
        let mut servers = [Server::start()?, Server::start()?];
        let name = Name::of(servers.iter().map(Server::addr));
        // One name with two addresses, which is looked up again every second.
        let config = Config::new("service.test:50051")
            .with_name("grpc")
            .with_max_size(4)
            .with_dns_refresh(Duration::from_secs(1));
        let began = Instant::now();
        let pool = Pool::builder(config)
            .resolver(name.clone())
            .observer(move |_: &str, event: &livepool::Event| {
                let at = began.elapsed();
                match event {
                    livepool::Event::Closed { conn, peer, reason, .. } => {
                        println!("{at:10.1?}  closed {conn} to {peer}: {reason}");
                    }
                    livepool::Event::PeerChanged { peer, to, .. } => {
                        println!("{at:10.1?}  {peer} is {to}");
                    }
                    _ => {}
                }
            })
            .protocol(Http2::new())
            .build()?;
        pool.warm_up(2).await?;
        // As its documentation has it for several servers.
        let endpoint = |server: &Server| Endpoint::from_shared(format!("http://{}", server.addr()));
        let endpoints: Result<Vec<_>, _> = servers.iter().map(endpoint).collect();
        let channel = Channel::balance_list(endpoints?.into_iter());

        println!("               calls    errors   longest wait");
        let (on_pool, on_channel) = (Grpc::new(pool.clone()), channel);
        let phase = async |what: &str, seconds| {
            println!("{:10.1?}  {what}", began.elapsed());
            let callers = [
                ("on a pool", call_for(HealthClient::new(on_pool.clone()), seconds)),
                ("on a Channel", call_for(HealthClient::new(on_channel.clone()), seconds)),
            ];
            for (who, caller) in callers {
                let Tally { calls, errors, longest, last } = caller.await.expect("no panic");
                println!("{who:>14} {calls:5} {errors:9} {longest:14.1?}");
                if let Some(last) = last {
                    println!("        {last}");
                }
            }
        };
        phase("two servers, all is well", 1).await;
        servers[0].kill();
        phase("one is killed", 2).await;
        servers[0].start_again()?;
        phase("and is back", 2).await;
        servers[1].unplug();
        phase("the cable of the other one is pulled", 8).await;
        servers[1].kill();
        servers[1] = Server::start()?;
        name.moves_to([servers[1].addr()]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        servers[0].kill();
        phase("all moved to a new address; the old ones are gone", 2).await;
        println!("{}", pool.status());
        Ok(())
    }

    /// What became of somebody's calls.
    #[derive(Default)]
    struct Tally {
        calls: usize,
        errors: usize,
        longest: Duration,
        last: Option<tonic::Status>,
    }

    /// Makes calls for so many seconds, and begins one every 5 ms. A call that has no answer at the end counts
    /// as an error.
    fn call_for<T>(client: HealthClient<T>, seconds: u64) -> JoinHandle<Tally>
    where
        T: tonic::client::GrpcService<tonic::body::Body> + Clone + Send + 'static,
        T::Future: Send,
        T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        <T::ResponseBody as http_body::Body>::Error:
            Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        tokio::spawn(async move {
            let (began, tally) = (Instant::now(), Arc::new(Mutex::new(Tally::default())));
            let mut callers = tokio::task::JoinSet::new();
            while began.elapsed() < Duration::from_secs(seconds) {
                let (mut client, tally) = (client.clone(), Arc::clone(&tally));
                callers.spawn(async move {
                    let mut call =
                        Call { tally, began: Instant::now(), is_answered: AtomicBool::new(false) };
                    let answer = client.check(HealthCheckRequest::default()).await;
                    call.is_answered(answer.err());
                });
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(callers);
            tokio::task::yield_now().await;
            take(&tally)
        })
    }

    fn take(tally: &Mutex<Tally>) -> Tally {
        std::mem::take(&mut *tally.lock().expect("not poisoned"))
    }

    /// A call that is under way.
    struct Call {
        tally: Arc<Mutex<Tally>>,
        began: Instant,
        is_answered: AtomicBool,
    }

    impl Call {
        fn is_answered(&mut self, error: Option<tonic::Status>) {
            self.is_answered.store(error.is_none(), Ordering::Relaxed);
            if error.is_some() {
                self.tally.lock().expect("not poisoned").last = error;
            }
        }
    }

    impl Drop for Call {
        fn drop(&mut self) {
            let mut tally = self.tally.lock().expect("not poisoned");
            tally.calls += 1;
            tally.errors += usize::from(!self.is_answered.load(Ordering::Relaxed));
            tally.longest = tally.longest.max(self.began.elapsed());
        }
    }

    /// A name whose addresses change.
    #[derive(Clone)]
    struct Name(Arc<Mutex<Vec<SocketAddr>>>);

    impl Name {
        fn of(addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
            Self(Arc::new(Mutex::new(addrs.into_iter().collect())))
        }

        fn moves_to(&self, addrs: impl IntoIterator<Item = SocketAddr>) {
            *self.0.lock().expect("not poisoned") = addrs.into_iter().collect();
        }
    }

    impl Resolve for Name {
        fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
            let addrs = self.0.lock().expect("not poisoned").clone();
            Box::pin(async move { Ok(addrs) })
        }
    }
}
