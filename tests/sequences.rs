//! Sequences of events as data: each file in `tests/sequences/` is a situation, what is done in it,
//! and every event that follows, in order.
//!
//! ```text
//! pool max_size 1            settings: max_size, min_idle, max_waiting, max_connecting, checkout_ms
//! get a                      takes a connection; fails the test if there is none
//! wait b                     a caller joins the line
//! release a                  and what else is done with a connection: drop, discard, detach, ask
//! got b                      the caller has a connection now
//! => opened 1                an event; connections are numbered in the order of their opening
//! ```
//!
//! Further steps: `fails b timeout|queue_full|closed` (the caller got none), `cancel b`, `close`,
//! `drop pool`, `pause`, `resume`, `invalidate`, `resize 3`, `warm 2`, `upstream close|reset` (all
//! connections), `names hang|answer` (no dial gets further than its lookup), `idle 2`, `waiting 1` and `closed 2` (waits until it is so).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use livepool::error::CheckoutFailure;
use livepool::{BoxFuture, CheckoutError, Config, Event, Guard, Pool, Resolve};
use livepool_testkit::{Events, Order, Upstream, ask, until_status};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A name server that can be made to hang.
struct Names {
    addr: SocketAddr,
    answers: watch::Receiver<bool>,
}

impl Resolve for Names {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let mut answers = self.answers.clone();
        Box::pin(async move {
            let _ = answers.wait_for(|answers| *answers).await;
            Ok(vec![self.addr])
        })
    }
}

/// Everything a situation has.
struct Stage {
    upstream: Upstream,
    names: watch::Sender<bool>,
    pool: Option<Pool>,
    events: Events,
    held: HashMap<String, Guard>,
    callers: HashMap<String, JoinHandle<Result<Guard, CheckoutError>>>,
}

impl Stage {
    fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("the pool was dropped")
    }

    fn take(&mut self, name: &str) -> Guard {
        self.held.remove(name).unwrap_or_else(|| panic!("nobody holds {name}"))
    }

    async fn step(&mut self, step: &[&str]) {
        match *step {
            ["get", name] => {
                let conn = self.pool().get().await.unwrap();
                self.held.insert(name.to_owned(), conn);
            }
            ["try", name] => {
                let conn = self.pool().try_get().expect("an idle connection");
                self.held.insert(name.to_owned(), conn);
            }
            ["wait", name] => {
                let pool = self.pool().clone();
                self.callers.insert(name.to_owned(), tokio::spawn(async move { pool.get().await }));
                // Polled once: it is in line, or has what it wants, or was refused.
                tokio::task::yield_now().await;
            }
            ["got", name] => {
                let conn = self.callers.remove(name).expect("a caller").await.unwrap().unwrap();
                self.held.insert(name.to_owned(), conn);
            }
            ["fails", name, how] => {
                let error =
                    self.callers.remove(name).expect("a caller").await.unwrap().unwrap_err();
                let expected = match how {
                    "timeout" => matches!(error.failure(), CheckoutFailure::Timeout(_)),
                    "queue_full" => error.failure() == CheckoutFailure::QueueFull,
                    "closed" => error.failure() == CheckoutFailure::Closed,
                    other => panic!("no such failure: {other}"),
                };
                assert!(expected, "{error}");
            }
            ["cancel", name] => {
                let caller = self.callers.remove(name).expect("a caller");
                caller.abort();
                assert!(caller.await.unwrap_err().is_cancelled());
            }
            ["ask", name] => {
                let conn = self.held.get_mut(name).expect("a connection");
                assert_eq!(ask(conn, "ECHO x").await.unwrap(), "x");
            }
            ["release", name] => _ = self.take(name).release(),
            ["drop", "pool"] => self.pool = None,
            ["drop", name] => drop(self.take(name)),
            ["discard", name] => self.take(name).discard(),
            ["detach", name] => drop(self.take(name).detach()),
            ["close"] => self.pool().close(),
            ["pause"] => self.pool().pause(),
            ["resume"] => self.pool().resume(),
            ["invalidate"] => self.pool().invalidate(),
            ["resize", size] => self.pool().resize(number(size)).unwrap(),
            ["warm", count] => self.pool().warm_up(number(count)).await.unwrap(),
            ["upstream", "close"] => self.upstream.order_all(&Order::Close),
            ["upstream", "reset"] => self.upstream.order_all(&Order::Reset),
            ["names", "hang"] => _ = self.names.send_replace(false),
            ["names", "answer"] => _ = self.names.send_replace(true),
            ["idle", count] => until_status(self.pool(), |now| now.idle == number(count)).await,
            ["waiting", count] => {
                until_status(self.pool(), |now| now.waiting == number(count)).await
            }
            ["closed", count] => _ = self.events.until_closed(number(count)).await,
            ref other => panic!("no such step: {}", other.join(" ")),
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

fn with(config: Config, setting: &str, value: &str) -> Config {
    let value = number(value);
    match setting {
        "max_size" => config.with_max_size(value),
        "min_idle" => config.with_min_idle(value),
        "max_waiting" => config.with_max_waiting(value),
        "max_connecting" => config.with_max_connecting(value),
        "checkout_ms" => {
            let limit = config.timeouts.with_checkout(Duration::from_millis(value as u64));
            config.with_timeouts(limit)
        }
        other => panic!("no such setting: {other}"),
    }
}

/// The events as the files write them. Looks at connections are left out.
fn told(events: &Events) -> Vec<String> {
    let mut numbers = HashMap::new();
    let mut lines = Vec::new();
    for event in events.all() {
        let mut number = |conn| {
            let next = numbers.len() + 1;
            *numbers.entry(conn).or_insert(next)
        };
        lines.push(match event {
            Event::Opened { conn, took, .. } => {
                assert!(!took.is_zero(), "a dial takes time");
                format!("opened {}", number(conn))
            }
            Event::CheckedOut { conn, waited, .. } => {
                let waited = if waited.is_zero() { "at once" } else { "after a wait" };
                format!("checked out {} {waited}", number(conn))
            }
            Event::Returned { conn, used, .. } => {
                assert!(!used.is_zero(), "a use takes time");
                format!("returned {}", number(conn))
            }
            Event::Closed { conn, reason, age, used, .. } => {
                assert!(!age.is_zero(), "a life takes time");
                let used = if used.is_some() { " in use" } else { "" };
                format!("closed {} {reason}{used}", number(conn))
            }
            Event::CheckoutFailed { outcome, .. } => format!("checkout failed {outcome}"),
            Event::TimedOut { operation, .. } => format!("timed out {operation}"),
            Event::DialFailed { outcome, .. } => format!("dial failed {outcome}"),
            Event::Reconfigured { changed, .. } => format!("reconfigured {}", changed.join(" ")),
            Event::Checked { .. } => continue,
            other => format!("{other:?}"),
        });
    }
    lines
}

async fn run(text: &str) {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let upstream = Upstream::start();
    let mut config = Config::new("upstream.test:1");
    let (mut steps, mut expected) = (Vec::new(), Vec::new());
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["pool", setting, value] => config = with(config, setting, value),
            ["=>", ..] => expected.push(words[1..].join(" ")),
            _ => steps.push(words),
        }
    }
    assert!(!steps.is_empty() && !expected.is_empty(), "nothing is done, or nothing expected");
    let (names, answers) = watch::channel(true);
    let resolver = Names { addr: upstream.addr(), answers };
    let events = Events::default();
    let builder = Pool::builder(config).observer(events.observer()).resolver(resolver);
    let pool = builder.build().unwrap();
    let (held, callers) = (HashMap::new(), HashMap::new());
    let mut stage = Stage { upstream, names, pool: Some(pool), events, held, callers };
    for step in &steps {
        stage.step(step).await;
    }
    assert_eq!(told(&stage.events), expected);
    assert!(stage.callers.is_empty(), "a caller was forgotten");
}

#[test]
fn every_situation_is_followed_by_its_events_and_no_others() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sequences");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15, "the files were not found");
    let mut failed = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ran = std::panic::catch_unwind(|| runtime.block_on(run(&text)));
        if ran.is_err() {
            failed.push(file.file_name().unwrap().to_owned());
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
