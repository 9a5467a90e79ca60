//! The servers that other tests start: each one really runs, dies, comes back and leaves nothing.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livepool_testkit::Upstream;
use livepool_testkit::servers::dir::root;
use livepool_testkit::servers::port::{ask, free_port, local};
use livepool_testkit::servers::process::{Process, is_alive, processes, wait_for, works_in};
use livepool_testkit::servers::programs::program;
use livepool_testkit::servers::{Certs, Haproxy, Nginx, PgBouncer, Postgres, Redis, are_here};

/// A connection to a frozen server is accepted by the kernel, and nobody answers.
fn nobody_answers(port: u16, question: &[u8]) -> bool {
    let mut stream = TcpStream::connect(local(port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.write_all(question).unwrap();
    // A process that was stopped meanwhile is told so (signal(7)).
    let got = loop {
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            got => break got,
        }
    };
    got.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn is_refused(port: u16) -> bool {
    let error = TcpStream::connect(local(port)).err();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A program that is being started has every listener of the one that starts it, until it is that program.
#[test]
fn nobody_listens_where_an_upstream_was_stopped_or_never_started_while_other_tests_start_programs()
{
    let is_over = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    Command::new("true").status().unwrap();
                }
            });
        }
        let served = (0..500).fold((0, 0), |(stopped, free), _| {
            let mut upstream = Upstream::start();
            upstream.stop();
            let was_stopped = !is_refused(upstream.addr().port());
            (stopped + usize::from(was_stopped), free + usize::from(!is_refused(free_port())))
        });
        is_over.store(true, Ordering::SeqCst);
        served
    });
    assert_eq!(served, (0, 0), "(where one was stopped, at a free port)");
}

/// The whole answer of an nginx, which closes after it.
fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(local(port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_redis_comes_back_after_any_end() {
    if !are_here(&["redis-server", "redis-cli"]) {
        return;
    }
    let mut redis = Redis::start_with(&["timeout 7"]);
    assert_eq!(redis.cli(&["CONFIG", "GET", "timeout"]), "timeout\n7");
    redis.restart();
    redis.kill_9();
    assert!(is_refused(redis.port()));
    redis.start_again();
    redis.freeze();
    assert!(nobody_answers(redis.port(), b"PING\r\n"));
    redis.thaw();
    assert_eq!(ask(redis.port(), b"PING\r\n").unwrap(), b"+PONG\r\n");
    redis.freeze();
    redis.restart();
    assert_eq!(redis.cli(&["SET", "a", "1"]), "OK");
    let replica = redis.replica();
    assert_eq!(replica.cli(&["GET", "a"]), "1");
    assert!(replica.cli(&["SET", "a", "2"]).starts_with("READONLY"));
}

#[test]
fn an_nginx_comes_back_after_any_end() {
    if !are_here(&["nginx"]) {
        return;
    }
    let mut nginx = Nginx::start();
    let get = "GET /tag/me HTTP/1.0\r\n\r\n";
    nginx.restart_fast();
    nginx.kill_9();
    assert!(is_refused(nginx.port()));
    nginx.start_again();
    nginx.freeze();
    assert!(nobody_answers(nginx.port(), get.as_bytes()));
    nginx.thaw();
    assert!(http(nginx.port(), get).ends_with("me"));
    nginx.freeze();
    nginx.restart_fast();
    assert!(http(nginx.port(), get).ends_with("me"));
}

#[test]
fn an_nginx_reloads_and_closes_what_is_idle() {
    if !are_here(&["nginx"]) {
        return;
    }
    let nginx = Nginx::start_with("keepalive_timeout 1h;", None);
    let mut idle = TcpStream::connect(local(nginx.port())).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    idle.write_all(b"GET /tag/idle HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"idle") {
        let mut byte = [0];
        idle.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    nginx.reload();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the end");
    let body = "x".repeat(300_000);
    let post = format!("POST /upload HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(http(nginx.port(), &post).ends_with("took it"));
    assert!(http(nginx.port(), "GET / HTTP/1.0\r\n\r\n").ends_with("hello\n"));
}

#[test]
fn a_postgres_comes_back_after_any_end() {
    if !are_here(&["postgres", "psql"]) {
        return;
    }
    let mut postgres = Postgres::start_with(&[("max_connections", "17")]);
    assert_eq!(postgres.psql("SHOW max_connections"), "17");
    postgres.psql("CREATE TABLE kept (a int)");
    postgres.restart_fast();
    postgres.kill_9();
    assert!(is_refused(postgres.port()));
    postgres.start_again();
    postgres.freeze();
    // A request for TLS, which a server without it declines with one byte.
    let request = [0, 0, 0, 8, 4, 210, 22, 47];
    assert!(nobody_answers(postgres.port(), &request));
    postgres.thaw();
    assert_eq!(ask(postgres.port(), &request).unwrap(), b"N");
    postgres.freeze();
    postgres.restart_fast();
    assert_eq!(postgres.psql("SELECT count(*) FROM kept"), "0");
}

#[test]
fn a_postgres_lets_in_who_knows_the_password() {
    if !are_here(&["postgres", "psql"]) {
        return;
    }
    let certs = Certs::new();
    let postgres = Postgres::start_with_tls(&[], &certs);
    assert_eq!(postgres.psql("SHOW ssl"), "on");
    let verified = format!("sslmode=verify-full&sslrootcert={}", certs.ca_file().display());
    let with_cert = format!(
        "{verified}&sslcert={}&sslkey={}",
        certs.client_cert_file().display(),
        certs.client_key_file().display()
    );
    for url in [postgres.url(), postgres.app_url()] {
        assert_eq!(encrypted(&url, "sslmode=disable").as_deref(), Some("f"));
        assert_eq!(encrypted(&url, &verified).as_deref(), Some("t"));
        assert_eq!(encrypted(&url.replace("sesame", "barley"), &verified), None);
    }
    postgres.admit("hostssl all postgres all scram-sha-256 clientcert=verify-full");
    assert_eq!(encrypted(&postgres.url(), &verified), None);
    assert_eq!(encrypted(&postgres.url(), &with_cert).as_deref(), Some("t"));

    let misnamed = Postgres::start_with_tls(&[], &certs.misnamed());
    assert_eq!(encrypted(&misnamed.url(), &verified), None);
    let chain_only = verified.replace("verify-full", "verify-ca");
    assert_eq!(encrypted(&misnamed.url(), &chain_only).as_deref(), Some("t"));
}

/// Whether a connection to this address is encrypted; None if there is none.
fn encrypted(url: &str, parameters: &str) -> Option<String> {
    let output = Command::new(program("psql"))
        .arg(format!("{url}?{parameters}"))
        .args(["-XqAtc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"])
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn a_standby_takes_over_from_a_postgres_that_refuses_to_write() {
    if !are_here(&["postgres", "psql", "pg_basebackup"]) {
        return;
    }
    let primary = Postgres::start_with(&[("max_connections", "120")]);
    let standby = primary.standby();
    primary.psql("CREATE TABLE a AS SELECT 1 AS b");
    standby.catch_up_with(&primary);
    assert_eq!(standby.psql("SELECT b FROM a"), "1");
    assert!(!standby.try_psql("INSERT INTO a VALUES (2)").status.success());
    primary.set_read_only(true);
    standby.promote();
    let refused = primary.try_psql("INSERT INTO a VALUES (2)");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("read-only transaction"));
    standby.psql("INSERT INTO a VALUES (2)");
    primary.set_read_only(false);
    primary.psql("INSERT INTO a VALUES (3)");
}

#[test]
fn a_pgbouncer_comes_back_after_any_end() {
    if !are_here(&["postgres", "psql", "pgbouncer"]) {
        return;
    }
    let server = Postgres::start();
    let mut pgbouncer = PgBouncer::start(&server, &[("pool_mode", "transaction")]);
    let ask_one = |pgbouncer: &PgBouncer| {
        let output = Command::new(program("psql"))
            .args([&pgbouncer.app_url(), "-XqAtc", "SELECT 1"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask_one(&pgbouncer), "1\n");
    assert!(pgbouncer.admin("SHOW POOLS").contains("app|app|0|0"));
    pgbouncer.restart();
    pgbouncer.kill_9();
    assert!(is_refused(pgbouncer.port()) && !pgbouncer.is_alive());
    pgbouncer.start_again();
    pgbouncer.freeze();
    let request = [0, 0, 0, 8, 4, 210, 22, 47];
    assert!(nobody_answers(pgbouncer.port(), &request));
    pgbouncer.thaw();
    assert_eq!(ask(pgbouncer.port(), &request).unwrap(), b"N");
    pgbouncer.admin("PAUSE");
    pgbouncer.admin("RESUME");
    pgbouncer.admin("RECONNECT");
    assert_eq!(ask_one(&pgbouncer), "1\n");
}

#[test]
fn a_haproxy_comes_back_after_any_end_and_switches() {
    if !are_here(&["haproxy", "redis-server", "redis-cli"]) {
        return;
    }
    let redis = [Redis::start(), Redis::start()];
    redis[0].cli(&["SET", "who", "1"]);
    redis[1].cli(&["SET", "who", "2"]);
    let servers = redis.each_ref().map(|redis| format!("{} check inter 50ms", redis.addr()));
    let mut haproxy = Haproxy::tcp(&servers, &["timeout client 1m"]);
    let who = |haproxy: &Haproxy| ask(haproxy.port(), b"GET who\r\n").unwrap();
    for number in [2, 1, 2] {
        haproxy.switch_to(number);
        assert_eq!(who(&haproxy), format!("$1\r\n{number}\r\n").as_bytes());
    }
    haproxy.restart();
    haproxy.kill_9();
    assert!(is_refused(haproxy.port()));
    haproxy.start_again();
    let [_, mut second] = redis;
    second.kill_9();
    haproxy.until_server_is(2, "DOWN");
    second.start_again();
    haproxy.until_server_is(2, "UP");
    haproxy.freeze();
    assert!(nobody_answers(haproxy.port(), b"PING\r\n"));
    haproxy.thaw();
    assert_eq!(ask(haproxy.port(), b"PING\r\n").unwrap(), b"+PONG\r\n");
}

/// The directory is gone, and so are these processes and all others that work in it.
fn nothing_is_left(dir: &Path, ids: &[u32]) -> bool {
    let mut others = processes();
    !dir.exists() && !ids.iter().any(|id| is_alive(*id)) && !others.any(|id| works_in(id, dir))
}

#[test]
fn servers_leave_nothing_when_dropped() {
    if !are_here(&["postgres", "redis-server", "nginx", "pgbouncer", "haproxy"]) {
        return;
    }
    let certs = Certs::new();
    let postgres = Postgres::start();
    let redis = Redis::start_with_tls(&[], &certs);
    let nginx = Nginx::start_with("", Some(&certs));
    for port in [redis.tls_port(), nginx.tls_port()] {
        TcpStream::connect(local(port)).unwrap();
    }
    let pgbouncer = PgBouncer::start(&postgres, &[]);
    let haproxy = Haproxy::tcp(&[redis.addr()], &[]);
    let ports = [postgres.port(), redis.port(), nginx.port(), pgbouncer.port(), haproxy.port()];
    let all = [
        postgres.process(),
        redis.process(),
        nginx.process(),
        pgbouncer.process(),
        haproxy.process(),
    ];
    let left = all.map(|process| (process.dir().to_owned(), process.family()));
    assert!(left[0].1.len() > 3, "a postmaster and its children");
    postgres.freeze();
    let panicked = std::thread::spawn(move || {
        let _servers = (postgres, redis, nginx, pgbouncer, haproxy);
        std::panic::resume_unwind(Box::new("a test that fails"));
    });
    panicked.join().unwrap_err();
    assert!(ports.into_iter().all(is_refused));
    assert!(left.iter().all(|(dir, ids)| nothing_is_left(dir, ids)));
}

/// A stopped parent has not asked for the status of its child.
#[test]
fn who_has_ended_is_no_member_of_a_servers_family() {
    if !are_here(&["postgres"]) {
        return;
    }
    let server = Postgres::start();
    server.freeze();
    let child = server.process().family()[1];
    assert!(Command::new("kill").args(["-9", &child.to_string()]).status().unwrap().success());
    wait_for("it has ended", || !is_alive(child));
    assert!(!server.process().family().contains(&child));
}

#[test]
fn servers_do_not_outlive_a_test_binary_that_is_killed() {
    const INSIDE: &str = "LIVEPOOL_TEST_TO_BE_KILLED";
    if !are_here(&["postgres", "redis-server", "nginx"]) {
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        let (postgres, redis, nginx) = (Postgres::start(), Redis::start(), Nginx::start());
        postgres.freeze();
        let ids = [postgres.process(), redis.process(), nginx.process()].map(Process::family);
        println!("\n{}", root().display());
        println!("servers: {}", ids.concat().iter().map(|id| format!("{id} ")).collect::<String>());
        loop {
            std::thread::park();
        }
    }
    let mut inside = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers_do_not_outlive_a_test_binary_that_is_killed", "--nocapture"])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut root = String::new();
    let mut ids: Vec<u32> = Vec::new();
    for line in BufReader::new(inside.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(list) = line.strip_prefix("servers: ") {
            ids = list.split_whitespace().map(|id| id.parse().unwrap()).collect();
            break;
        }
        root = line;
    }
    assert!(ids.len() > 5, "it has started its servers");
    assert!(ids.iter().all(|id| is_alive(*id)));
    inside.kill().unwrap();
    inside.wait().unwrap();
    wait_for("nothing is left", || nothing_is_left(Path::new(&root), &ids));
}
