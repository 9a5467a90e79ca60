//! A tonic server whose answers depend on the name of the service that is asked for.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::Stream;
use livepool_testkit::lab::Host;
use livepool_testkit::{listen, port};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    calls: Arc<AtomicUsize>,
    /// Calls that were dropped before their end.
    pub(crate) given_up: Arc<AtomicUsize>,
    /// The `grpc-timeout` of the last call.
    pub(crate) timeout: Arc<Mutex<String>>,
    running: Option<Running>,
}

/// A runtime of its own, which takes all connections along when it ends.
struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start() -> Self {
        // Nobody else gets it while the server is down.
        Self::start_at(port::local(port::free_port()))
    }

    fn start_at(addr: SocketAddr) -> Self {
        let (calls, given_up, timeout) = Default::default();
        let mut server = Self { addr, calls, given_up, timeout, running: None };
        server.serve();
        server
    }

    /// On this host, until the test ends.
    pub(crate) fn on(host: &Host) -> SocketAddr {
        let addr = host.addr(50051);
        host.run(move || std::mem::forget(Self::start_at(addr)));
        addr
    }

    fn serve(&mut self) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let health = Answers {
            calls: Arc::clone(&self.calls),
            given_up: Arc::clone(&self.given_up),
            timeout: Arc::clone(&self.timeout),
        };
        let listener = listen(self.addr);
        self.addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .add_service(HealthServer::new(health))
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                    let _dropped = stopped.await;
                })
                .await
                .unwrap();
        });
        self.running = Some(Running { runtime, stop, served });
    }

    /// How many calls it has had.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// It finishes what it has taken, and another one takes its place.
    pub(crate) async fn restart(&mut self) {
        let Running { runtime, stop, served } = self.running.take().unwrap();
        stop.send(()).unwrap();
        served.await.unwrap();
        runtime.shutdown_background();
        self.serve();
    }

    /// After a [`kill`](Self::kill).
    pub(crate) fn start_again(&mut self) {
        self.serve();
    }

    /// It is gone, and so are its connections.
    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().runtime.shutdown_background();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
    }
}

struct Answers {
    calls: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
    timeout: Arc<Mutex<String>>,
}

/// Counts when it is dropped before it was told not to.
struct GivenUp(Arc<AtomicUsize>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn status(status: i32) -> HealthCheckResponse {
    HealthCheckResponse { status }
}

#[tonic::async_trait]
impl Health for Answers {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let timeout = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap());
        *self.timeout.lock().unwrap() = timeout.unwrap_or_default().to_owned();
        match request.into_inner().service.as_str() {
            "hold" => {
                let _given_up = GivenUp(Arc::clone(&self.given_up));
                std::future::pending().await
            }
            "unknown" => Err(Status::not_found("no such service")),
            _ => Ok(Response::new(status(1))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let pause = if service == "three-slowly" { 1000 } else { 0 };
        let statuses = if service == "fails" { vec![1] } else { vec![1, 2, 1] };
        let last = (service == "fails").then(|| Err(Status::data_loss("gone")));
        let answers = statuses.into_iter().map(|number| Ok(status(number))).chain(last);
        let stream =
            futures_util::stream::unfold((answers, 0), move |(mut answers, count)| async move {
                if count > 0 {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Some((answers.next()?, (answers, count + 1)))
            });
        Ok(Response::new(Box::pin(stream)))
    }
}
