//! HTTP/2: many requests on few connections, and what each of them is told when its server goes away,
//! refuses, resets, falls silent or is another one.
#![cfg(target_os = "linux")]

#[path = "http2/body.rs"]
mod body;
#[path = "http2/crossed.rs"]
mod crossed;
#[path = "http2/peer.rs"]
mod peer;
#[path = "http2/raw.rs"]
mod raw;
#[path = "http2/retry.rs"]
mod retry;
#[path = "http2/server.rs"]
mod server;
#[path = "http2/silence.rs"]
mod silence;
#[path = "http2/streams.rs"]
mod streams;

use std::time::Duration;

use livepool::{Config, Pool};
use livepool_http::http2::Http2;
use livepool_http::{Body, Error, PoolExt, Request, RequestBody, Response};
use livepool_testkit::Events;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn pool_of(config: Config) -> (Pool<Http2>, Events) {
    pool_with(config, Http2::new())
}

fn pool_with(config: Config, http2: Http2) -> (Pool<Http2>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(http2).build().unwrap(), events)
}

fn request_for(path: &str) -> Request<RequestBody> {
    Request::get(path).body(().into()).unwrap()
}

fn post(path: &str, body: impl Into<RequestBody>) -> Request<RequestBody> {
    Request::post(path).body(body.into()).unwrap()
}

async fn text(response: Response<Body>) -> Result<String, Error> {
    let bytes = response.into_body().bytes(1 << 22).await?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

async fn get_text(pool: &Pool<Http2>, path: &str) -> Result<String, Error> {
    text(pool.send(request_for(path)).await?).await
}
