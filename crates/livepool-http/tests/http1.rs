//! HTTP/1.1: which connections are used again, which requests are made again, and what becomes of
//! both when a real server is restarted, killed or stopped.
#![cfg(target_os = "linux")]

#[path = "http1/crossed.rs"]
mod crossed;
#[path = "http1/framing.rs"]
mod framing;
#[path = "http1/nginx.rs"]
mod nginx;
#[path = "http1/retry.rs"]
mod retry;
#[path = "http1/rules.rs"]
mod rules;
#[path = "http1/speed.rs"]
mod speed;
#[path = "http1/upload.rs"]
mod upload;

use livepool::{Config, Pool};
use livepool_http::{Body, Error, Http1, PoolExt, Request, RequestBody, Response};
use livepool_testkit::Events;

fn pool_of(config: Config) -> (Pool<Http1>, Events) {
    pool_with(config, Http1::new())
}

fn pool_with(config: Config, http1: Http1) -> (Pool<Http1>, Events) {
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer());
    (builder.protocol(http1).build().unwrap(), events)
}

fn request_for(path: &str) -> Request<RequestBody> {
    Request::get(path).body(().into()).unwrap()
}

async fn get(pool: &Pool<Http1>, path: &str) -> Result<Response<Body>, Error> {
    pool.send(request_for(path)).await
}

async fn text(response: Response<Body>) -> Result<String, Error> {
    let bytes = response.into_body().bytes(1 << 22).await?;
    Ok(String::from_utf8(bytes.to_vec()).unwrap())
}

async fn get_text(pool: &Pool<Http1>, path: &str) -> Result<String, Error> {
    text(get(pool, path).await?).await
}
