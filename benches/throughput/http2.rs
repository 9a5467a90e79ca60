//! GETs of a few bytes over HTTP/2, and unary calls of gRPC.

use std::any::Any;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use livepool_http::tower::Grpc;
use livepool_http::{PoolExt, Request, http2};
use livepool_testkit::servers::Nginx;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::Group;
use crate::rounds::contender;

const CALLERS: &[usize] = &[1, 16, 64, 256];

pub fn groups(runtime: &Runtime) -> (Box<dyn Any>, Vec<Group>) {
    let nginx = Nginx::start_http2(None);
    let (server, addr) = grpc_server();
    let _entered = runtime.enter();
    let ours = http2::pool(&nginx.http2_url()).expect("a pool");
    let theirs: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let uri: Uri = format!("{}/", nginx.http2_url()).parse().expect("a URI");
    let get = Group {
        name: "http/2 GET".to_owned(),
        callers: CALLERS,
        contenders: vec![
            contender("livepool", &ours, |pool| async move {
                let request = Request::get("/").body(()).expect("a request");
                let response = pool.send(request).await.expect("a response");
                response.into_body().bytes(1 << 20).await.expect("a body");
            }),
            contender("hyper-util", &(theirs, uri), |(client, uri)| async move {
                // It does not make a request again whose connection had all that its server takes.
                if let Ok(response) = client.get(uri).await {
                    let _ended = response.into_body().collect().await;
                }
            })
            .with_goal(1.0),
        ],
    };
    let url = format!("http://{addr}");
    let on_pool = HealthClient::new(Grpc::new(http2::pool(&url).expect("a pool")));
    let channel = Endpoint::from_shared(url).expect("a URL").connect_lazy();
    let on_channel: HealthClient<Channel> = HealthClient::new(channel);
    let unary = Group {
        name: "http/2 gRPC, unary".to_owned(),
        callers: CALLERS,
        contenders: vec![
            contender("livepool", &on_pool, |mut client| async move {
                client.check(HealthCheckRequest::default()).await.expect("an answer");
            }),
            contender("tonic's Channel", &on_channel, |mut client| async move {
                client.check(HealthCheckRequest::default()).await.expect("an answer");
            })
            .with_goal(1.0),
        ],
    };
    (Box::new((nginx, server)), vec![get, unary])
}

/// A tonic server on a thread of its own.
fn grpc_server() -> (Runtime, SocketAddr) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("a port");
    let addr = listener.local_addr().expect("it has one");
    runtime.spawn(async move {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming).await
    });
    (runtime, addr)
}
