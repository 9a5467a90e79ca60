//! GETs of a few bytes over HTTP/1.1.

use std::any::Any;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use livepool_http::{Http1, PoolExt, Request, tower};
use livepool_testkit::servers::Nginx;
use tokio::runtime::Runtime;

use crate::Group;
use crate::rounds::contender;

/// More than there are callers, as hyper-util has no bound.
const CONNECTIONS: usize = 64;

pub fn groups(runtime: &Runtime) -> (Box<dyn Any>, Vec<Group>) {
    let server = Nginx::start();
    let _entered = runtime.enter();
    let config = livepool::Config::new(format!("127.0.0.1:{}", server.port()));
    let config = config.with_max_size(CONNECTIONS).with_max_waiting(None);
    let ours = livepool::Pool::builder(config.clone()).protocol(Http1::new()).build();
    let ours = ours.expect("a pool");
    let theirs: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let connect = tower::Connect::new(&config).expect("a connector");
    let over: Client<tower::Connect, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build(connect);
    let uri: Uri = format!("http://127.0.0.1:{}/", server.port()).parse().expect("a URI");

    let group = Group {
        name: "http GET".to_owned(),
        callers: &[1, 16, 64],
        contenders: vec![
            contender("livepool", &ours, |pool| async move {
                let request = Request::get("/").body(()).expect("a request");
                let response = pool.send(request).await.expect("a response");
                response.into_body().bytes(1 << 20).await.expect("a body");
            }),
            contender("hyper-util", &(theirs, uri.clone()), |(client, uri)| async move {
                let response = client.get(uri).await.expect("a response");
                response.into_body().collect().await.expect("a body");
            })
            .with_goal(1.0),
            contender("hyper-util over livepool's", &(over, uri), |(client, uri)| async move {
                let response = client.get(uri).await.expect("a response");
                response.into_body().collect().await.expect("a body");
            }),
        ],
    };
    (Box::new(server), vec![group])
}
