//! Nothing leaks into errors, events and logs: no secret of a careless user, no words of a server that
//! steer what reads them.

use std::error::Error;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livepool::{Config, Connector, Event, Listener, ListenerConfig, Manager, Pool, Timeouts};
use livepool_http as http1;
use livepool_http::PoolExt;
use livepool_http::tower::tower_service::Service;
use livepool_postgres as postgres;
use livepool_postgres::Postgres;
use livepool_redis::Redis;
use livepool_testkit::Events;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Everything that an error says, in every way it can be asked.
fn whole(error: &dyn Error) -> String {
    let mut text = format!("{error} | {error:?}");
    let mut next = error.source();
    while let Some(source) = next {
        let _ = write!(text, " <- {source} | {source:?}");
        next = source.source();
    }
    text
}

fn whole_of<T, E: Error>(result: Result<T, E>) -> Option<String> {
    result.err().map(|error| whole(&error))
}

/// Slips that people make, and some that nobody should. No piece of `hunter2` or `swordfish` may come back.
const CARELESS: &[&str] = &[
    "me:hunter2@db:5432",
    ":hunter2@db:5432",
    "hunter2@db:5432",
    "me:hunter2",
    "hunter2",
    "postgres://me:hunter2@db:5432/x",
    "postgresql://me:hunter2@db",
    "POSTGRES://me:hunter2@db/x",
    "postgres:/me:hunter2@db/x",
    "postgres:me:hunter2@db",
    "postgres//me:hunter2@db:5432/x",
    "//me:hunter2@db:5432",
    "jdbc:postgresql://db/x?user=me&password=hunter2",
    " postgres://me:hunter2@db/x",
    "\"postgres://me:hunter2@db/x\"",
    "DATABASE_URL=postgres://me:hunter2@db/x",
    "postgres://me:swordfish@hunter2@db/x",
    "postgres://me:swordfish@hunter2/x@db/y",
    "postgres://me:swordfish@hunter2?x@db/y",
    "postgres://me:swordfish/hunter2@db:x",
    "postgres://me:swordfish?hunter2@db:x",
    "postgres://me:swordfish#hunter2@db:x",
    "postgres://me:hunter2@db:port/x",
    "postgres://me:hunter2@[::1/x",
    "postgres://db:hunter2",
    "postgres://me@db/x?hunter2=1",
    "postgres://me@db/x?sslmode=hunter2",
    "postgres://me@db/x?port=hunter2",
    "postgres://me@db/x?pasword=hunter2",
    "postgres://me@db/x?hunter2",
    "postgres://me:%hunter2@db:x",
    "postgres://me:%ff@hunter2%ff",
    "host=db password=hunter2 x=1",
    "host=db password=swordfish hunter2",
    "host=db password=swordfish hunter2=x",
    "host=db password='hunter2",
    "host=db pasword=hunter2",
    "host=db port=hunter2",
    "host=me:hunter2@db",
    "redis://:hunter2@h:port",
    "redis://hunter2@h",
    "redis://me:hunter2@h/zero",
    "redis://h/hunter2",
    "redis://me:swordfish@hunter2@h/zero",
    "redis://me:swordfish/hunter2@h",
    "redis://me:swordfish?hunter2@h",
    "redis://me:swordfish#hunter2@h",
    "redis:me:hunter2@h",
    "redis:/:hunter2@h",
    "redis+unix:///run/r.sock?pass=hunter2&db=x",
    "rediss://me:hunter2@h#insecure",
    "http://me:hunter2@h",
    "https://me:hunter2@h/",
    "https://me:swordfish@hunter2@h/",
    "http://h:hunter2",
    "http://h/?access_token=hunter2",
    "http://h?access_token=hunter2",
    "http://h/hunter2",
    "http:/me:hunter2@h",
    "h/?access_token=hunter2",
    "h:80?access_token=hunter2",
    "h:80/hunter2",
    "h:80#hunter2",
    "ftp://me:hunter2@h",
    "hunter2://h:80",
    "me:hunter2://h:80",
    "me:hunter2@h:80\n",
    "me:hunter2@a:80,me:hunter2@b:80",
    "me:hunter2,x@a:80",
    "me;hunter2;h:x",
    "me%3Ahunter2@h:80",
    "unix:me:hunter2@/run/db.sock",
    "unix://me:hunter2@/run/db.sock",
    "mongodb+srv://me:hunter2@h",
];

/// Whoever takes an address or a URL: what it says when it refuses this one, and about itself when it
/// does not.
async fn said(text: &str) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    let mut add =
        |who: &'static str, text: Option<String>| said.extend(text.map(|text| (who, text)));
    let configs = [
        ("Config::new", Some(Config::new(text))),
        ("with_upstream", Some(Config::default().with_upstream(["db:1", text]))),
        ("serde", serde_json::from_value(serde_json::json!({ "upstream": text })).ok()),
        ("serde list", serde_json::from_value(serde_json::json!({ "upstream": [text] })).ok()),
    ];
    for (who, config) in configs {
        let config: Config = config.expect(who);
        add(who, whole_of(config.check()));
        add(who, whole_of(Pool::new(config.clone())));
        add(who, whole_of(Connector::new(&config)));
        add(who, whole_of(Manager::new(&config)));
    }
    let connector = Connector::new(&Config::new("db:1")).unwrap();
    add("Connector::to", whole_of(connector.to(text)));
    let config = ListenerConfig::default();
    let listening = Listener::bind(text, &config);
    if let Ok(bound) = tokio::time::timeout(Duration::from_millis(300), listening).await {
        add("Listener::bind", whole_of(bound));
    }
    add("Http1::from_url", whole_of(http1::Http1::from_url(text)));
    add("http1::pool", whole_of(http1::pool(text)));
    add("postgres::pool", whole_of(postgres::pool(text)));
    if let Ok(postgres) = Postgres::from_url(text) {
        add("Postgres::pool", whole_of(postgres.pool()));
    }
    match Redis::from_url(text) {
        Ok(redis) => {
            add("Redis", Some(format!("{redis:?}")));
            add("Redis::pool", whole_of(redis.pool()));
        }
        Err(error) => add("Redis::from_url", Some(whole(&error))),
    }
    if let Ok(uri) = text.parse::<http1::http::Uri>() {
        let timeouts = Timeouts::default().with_connect(Duration::from_millis(50));
        let nowhere = Config::default().with_timeouts(timeouts);
        let mut connect = livepool_http::tower::Connect::new(&nowhere).unwrap();
        let is_refused = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        if is_refused {
            add("tower", whole_of(connect.call(uri).await));
        }
    }
    said
}

#[tokio::test]
async fn no_error_repeats_a_secret_wherever_it_was_put_and_however_it_was_mistyped() {
    let mut count = 0;
    for careless in CARELESS {
        for (who, text) in said(careless).await {
            count += 1;
            for piece in ["hunter", "unter2", "swordfish"] {
                assert!(!text.contains(piece), "{who} with {careless:?}: {text}");
            }
        }
    }
    assert!(count > 10 * CARELESS.len(), "{count} refusals only");
}

#[tokio::test]
async fn an_error_of_a_request_shows_the_path_of_its_uri_and_nothing_else() {
    let timeouts = livepool::Timeouts::default().with_checkout(Duration::from_millis(100));
    let http = http1::Http1::from_url("http://127.0.0.1:1").unwrap();
    let pool = http.with_config(|config| config.with_timeouts(timeouts)).pool().unwrap();
    for uri in ["http://me:hunter2@127.0.0.1:1/path?access_token=hunter2", "/path?token=hunter2"] {
        let request = http1::Request::get(uri).body(()).unwrap();
        let text = whole(&pool.send(request).await.unwrap_err());
        assert!(text.contains("/path") && !text.contains("hunter2"), "{text}");
    }
    let mut connect = livepool_http::tower::Connect::new(&Config::default()).unwrap();
    for uri in ["ftp://me:hunter2@h/x?token=hunter2", "/?token=hunter2"] {
        let text = whole(&connect.call(uri.parse().unwrap()).await.unwrap_err());
        assert!(text.contains("the URI leads nowhere") && !text.contains("hunter2"), "{text}");
    }
}

/// What was logged, as a text format writes it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, meta: &tracing::Metadata<'_>) -> bool {
        meta.target().starts_with("livepool")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Visit<'a>(&'a mut String);
        impl tracing::field::Visit for Visit<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, "{field}={value:?} ");
            }
        }
        let mut log = self.0.lock().unwrap();
        let _ = write!(log, "[{}] ", event.metadata().target());
        event.record(&mut Visit(&mut log));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// As those have it who put a key into a variable, with its lines lost.
#[test]
fn the_key_of_a_client_is_in_no_debug_text_and_in_no_error() {
    const KEY: &str = "MC4CAQAwBQYDK2VwBCIEIHunter2";
    let list = format!("{:?}", KEY.as_bytes());
    let list = list.trim_matches(['[', ']']);
    for key in [
        KEY.to_owned(),
        format!("-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY----- {KEY} -----END PRIVATE KEY-----"),
        format!("-----BEGIN PRIVATE KEY-----{KEY}"),
        format!("-----BEGIN PRIVATE KEY {KEY}"),
        format!("-----BEGIN PRIVATE KEY----- {KEY}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{KEY}-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY"),
        format!("-----BEGIN PRIVATE KEY-----\n{KEY}!\n-----END PRIVATE KEY-----\n"),
    ] {
        // One whose key and certificate were taken for each other, too.
        for (cert, key) in [("a certificate", &*key), (&*key, "a key"), (&*key, &*key)] {
            let builder =
                livepool_tls::Tls::builder().with_webpki_roots().with_client_pem(cert, key);
            let text = format!("{builder:?} | ");
            let text = text + &whole_of(builder.build()).unwrap();
            assert!(!text.contains("Hunter2") && !text.contains(list), "{key}: {text}");
        }
        let root = livepool_tls::Tls::builder().with_root_pem(&*key);
        let text = format!("{root:?} | ") + &whole_of(root.build()).unwrap();
        assert!(!text.contains("Hunter2") && !text.contains(list), "{key}: {text}");
    }
}

/// A server that says this as soon as it is spoken to.
async fn says(text: Vec<u8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let text = text.clone();
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(&text).await;
                while socket.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    addr
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    message
}

/// What a server would say to forge a line, steer a terminal, turn the text or fill the disk.
const FORGED: &str = "no\r\nINFO root logged in\x1b[2J\u{9b}31m\u{202e}txet\u{2028}";

fn is_tame(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}'))
        && !text.contains(&"x".repeat(600))
}

#[tokio::test]
async fn what_a_server_says_reaches_errors_events_and_logs_escaped_and_cut() {
    let log = Log::default();
    let _logged = livepool_testkit::log::subscribe(log.clone());
    let events = Events::default();
    let mut body = b"SFATAL\0VFATAL\0C28P01\0M".to_vec();
    body.extend(FORGED.as_bytes());
    body.extend([b'x'; 10_000]);
    body.extend(b"\0\0");
    let addr = says(message(b'E', &body)).await;
    let postgres = Postgres::from_url(&format!("postgres://me:pw@{addr}/x")).unwrap();
    let builder = postgres.builder().unwrap().observer(events.observer());
    let error = builder.build().unwrap().get().await.unwrap_err();
    let connect = error.connect_error().unwrap();
    for text in [connect.to_string(), format!("{connect:?}"), error.to_string()] {
        assert!(is_tame(&text), "{text}");
    }
    assert!(connect.to_string().contains("INFO root logged in"), "{connect}");
    let own = connect.attempts()[0].error().get_ref().unwrap();
    let own = own.downcast_ref::<postgres::Error>().expect("the protocol's own error");
    assert!(is_tame(&own.to_string()), "{own}");
    assert_eq!(own.code().unwrap().code(), "28P01");

    let tame: String = FORGED.chars().filter(|c| !"\r\n".contains(*c)).collect();
    // Each command of the handshake is answered so.
    let answer = format!("-ERR {tame}{}\r\n", "x".repeat(7_000));
    let addr = says(answer.repeat(8).into_bytes()).await;
    let redis = Redis::from_url(format!("redis://:pw@{addr}")).unwrap();
    let pool = Pool::builder(redis.config()).protocol(redis).observer(events.observer());
    let error = pool.build().unwrap().get().await.unwrap_err();
    let chain = whole(&error);
    assert!(chain.contains("refused the user or password") && is_tame(&chain), "{chain}");

    let failed = |event: &Event| match event {
        Event::DialFailed { error, .. } => Some(error.to_string()),
        _ => None,
    };
    let failed: Vec<_> = events.all().iter().filter_map(failed).collect();
    assert!(failed.len() >= 2 && failed.iter().all(|error| is_tame(error)), "{failed:?}");
    let log = log.0.lock().unwrap();
    assert!(log.contains("INFO root logged in") && is_tame(&log), "{log}");
}

#[tokio::test]
async fn a_notice_of_a_server_is_a_line_of_the_pool_escaped_and_cut() {
    let log = Log::default();
    let _logged = livepool_testkit::log::subscribe(log.clone());
    let mut notice = b"SNOTICE\0VNOTICE\0C00000\0M".to_vec();
    notice.extend(FORGED.as_bytes());
    notice.extend([b'x'; 10_000]);
    notice.extend(b"\0\0");
    let greeting = [message(b'R', &[0; 4]), message(b'Z', b"I"), message(b'N', &notice)].concat();
    let addr = says(greeting).await;
    let pool = postgres::pool(&format!("postgres://me:pw@{addr}/x")).unwrap();
    let client = pool.get().await.unwrap();
    livepool_testkit::until(|| log.0.lock().unwrap().contains("root logged in")).await;
    drop(client);
    let log = log.0.lock().unwrap();
    assert!(is_tame(&log), "{log}");
    assert!(
        log.split('[')
            .all(|line| line.is_empty() || line.starts_with("livepool] ") || !line.contains("] ")),
        "{log}"
    );
}

/// Answers the first message with this, and tells all that it hears.
async fn listens(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                all.lock().unwrap().extend_from_slice(&bytes[..count]);
                let _ = socket.write_all(answer).await;
            }
        }
    });
    (addr, heard)
}

#[tokio::test]
async fn no_password_is_sent_in_clear_where_the_url_requires_tls_whatever_way_the_pool_is_built() {
    // AuthenticationCleartextPassword: whoever obeys sends it.
    let (addr, heard) = listens(b"R\0\0\0\x08\0\0\0\x03").await;
    let url = format!("postgres://me:hunter2@{addr}/x?sslmode=require");
    // Its own, with which nobody says whom to trust: a URL alone trusts whom this system trusts.
    let postgres = Postgres::new(url.parse().unwrap());
    assert!(postgres.clone().builder().is_err(), "the other way has always refused");
    let pool = Pool::builder(Config::new(addr.to_string())).protocol(postgres).build().unwrap();
    let start = std::time::Instant::now();
    let error = pool.get().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "it is told at once");
    let connect = error.connect_error().unwrap();
    assert!(
        connect.is_denied() && connect.to_string().contains("sslmode demands TLS"),
        "{connect}"
    );
    assert_eq!(*heard.lock().unwrap(), b"", "not even its name");

    // The URL alone: it asks for TLS, and goes no further with a server that has another answer.
    let pool = Postgres::from_url(&url).unwrap().pool().unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    pool.get_by(deadline).await.unwrap_err();
    let heard = heard.lock().unwrap().clone();
    assert!(!heard.is_empty(), "the system of this test trusts somebody");
    assert!(heard.chunks(8).all(|asked| asked == [0, 0, 0, 8, 4, 210, 22, 47]), "{heard:?}");
}

#[tokio::test]
async fn an_answer_to_the_question_for_tls_that_is_neither_yes_nor_no_ends_the_connection() {
    for (answer, expected) in [
        (&b"X"[..], "neither yes nor no"),
        (b"E", "with an error when it was asked for TLS: (no text)"),
        // As a server says it that cannot start a process, and as nobody should.
        (b"Ecould not fork new process for connection\n\0", "TLS: could not fork new process"),
        (b"E\x1b[2Jno\nroot: hunter\0", "TLS: \\u{1b}[2Jno\\nroot: hunter"),
    ] {
        let (addr, heard) = listens(answer).await;
        let tls = livepool_tls::Tls::builder().with_webpki_roots().build().unwrap();
        let url = format!("postgres://me:hunter2@{addr}/x?sslmode=prefer");
        let pool = Postgres::from_url(&url).unwrap().with_tls(tls).pool().unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        let error = pool.get_by(deadline).await.unwrap_err();
        let connect = error.connect_error().unwrap().to_string();
        assert!(connect.contains(expected), "{connect}");
        let heard = heard.lock().unwrap().clone();
        assert!(heard.chunks(8).all(|asked| asked == [0, 0, 0, 8, 4, 210, 22, 47]), "{heard:?}");
    }
}
