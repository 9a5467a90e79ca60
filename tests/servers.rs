//! The servers that other tests start: each one really runs, dies, comes back and leaves nothing.
#![cfg(target_os = "linux")]

mod support;

use std::net::TcpStream;
use std::time::Instant;

use support::servers::process::{ask, local};
use support::servers::{Certs, Nginx, Postgres, Redis};

#[test]
fn a_redis_comes_back_after_any_end() {
    let mut redis = Redis::start_with(&["timeout 7"]);
    assert_eq!(redis.cli(&["CONFIG", "GET", "timeout"]), "timeout\n7");
    redis.restart();
    redis.kill_9();
    assert_eq!(ask(redis.port(), b"PING\r\n"), None);
    redis.start_again();
    redis.freeze();
    assert_eq!(ask(redis.port(), b"PING\r\n"), None, "it stands still");
    redis.thaw();
    assert_eq!(ask(redis.port(), b"PING\r\n").unwrap(), b"+PONG\r\n");
}

#[test]
fn an_nginx_comes_back_after_any_end() {
    let mut nginx = Nginx::start();
    let get = b"GET /tag/me HTTP/1.0\r\n\r\n";
    nginx.restart_fast();
    nginx.kill_9();
    assert_eq!(ask(nginx.port(), get), None);
    nginx.start_again();
    nginx.freeze();
    assert_eq!(ask(nginx.port(), get), None, "it stands still");
    nginx.thaw();
    assert!(ask(nginx.port(), get).unwrap().ends_with(b"me"));
}

#[test]
fn a_postgres_comes_back_after_any_end() {
    let mut postgres = Postgres::start_with(&[("max_connections", "17")]);
    assert_eq!(postgres.psql("SHOW max_connections"), "17");
    postgres.restart_fast();
    postgres.kill_9();
    postgres.start_again();
    postgres.freeze();
    postgres.thaw();
    postgres.set("work_mem", "5MB");
    let standby = postgres.standby();
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
    standby.promote();
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "f");
}

#[test]
fn servers_speak_tls_and_leave_nothing_behind() {
    let certs = Certs::new();
    let began = Instant::now();
    let postgres = Postgres::start_with_tls(&[], &certs);
    let redis = Redis::start_with_tls(&[], &certs);
    let nginx = Nginx::start_with("", Some(&certs));
    println!("all three within {:?}", began.elapsed());
    assert_eq!(postgres.psql("SHOW ssl"), "on");
    for port in [redis.tls_port(), nginx.tls_port()] {
        TcpStream::connect(local(port)).unwrap();
    }
    let ports = [postgres.port(), redis.port(), nginx.port()];
    drop((postgres, redis, nginx));
    for port in ports {
        assert_eq!(ask(port, b"x"), None);
    }
}
