//! What stands between a program and its servers: a real PgBouncer, a real HAProxy.
#![cfg(target_os = "linux")]

#[path = "proxies/crossed.rs"]
mod crossed;
#[path = "proxies/idle.rs"]
mod idle;

use livepool::{Config, Pool, Timeouts};
use livepool_http::Http1;
use livepool_postgres::Postgres;
use livepool_redis::Redis;
use livepool_testkit::Events;
use livepool_testkit::servers::{Haproxy, PgBouncer, Postgres as Server};

fn postgres_at(url: &str, change: impl FnOnce(Config) -> Config) -> (Pool<Postgres>, Events) {
    postgres_of(Postgres::from_url(url).unwrap(), change)
}

fn postgres_of(
    postgres: Postgres,
    change: impl FnOnce(Config) -> Config,
) -> (Pool<Postgres>, Events) {
    let events = Events::default();
    let builder = postgres.with_config(change).builder().unwrap();
    (builder.observer(events.observer()).build().unwrap(), events)
}

fn redis_at(addr: &str, change: impl FnOnce(Config) -> Config) -> (Pool<Redis>, Events) {
    let (events, adapter) =
        (Events::default(), Redis::from_url(format!("redis://{addr}")).unwrap());
    let builder = Pool::builder(change(adapter.config())).observer(events.observer());
    (builder.protocol(adapter).build().unwrap(), events)
}

fn http_at(addr: String, change: impl FnOnce(Config) -> Config) -> (Pool<Http1>, Events) {
    let events = Events::default();
    let builder = Pool::builder(change(Config::new(addr))).observer(events.observer());
    (builder.protocol(Http1::new()).build().unwrap(), events)
}

/// The superuser's address of what stands behind this port.
fn postgres_url(port: u16) -> String {
    format!("postgres://postgres:open%20sesame@127.0.0.1:{port}/app")
}

/// A server that asks for no password: to check one takes a client that was not optimized half a
/// second.
fn trusting_server() -> Server {
    let server = Server::start_with(&[("max_connections", "80")]);
    server.trust_everybody();
    server
}
