//! Ten thousand commands whose callers go away at any moment: nobody reads another one's answer, and
//! nobody waits long for a connection. The same on raw streams crosses answers, so the test can fail.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleResult};
use livepool::Pool;
use livepool_redis::Redis as Adapter;
use livepool_redis::redis::{RedisResult, Value, cmd, pipe};
use livepool_testkit::seed::seed;
use livepool_testkit::servers::Redis;
use livepool_testkit::{Events, until_seen, until_status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const COMMANDS: usize = 10_000;
const CONNECTIONS: usize = 16;
const CALLERS: usize = 48;

#[derive(Default)]
struct Count {
    begun: AtomicUsize,
    answered: AtomicUsize,
    cancelled: AtomicUsize,
    crossed: AtomicUsize,
}

impl Count {
    /// The number of the next command, while there is one to make.
    fn next(&self) -> Option<usize> {
        let next = self.begun.fetch_add(1, Ordering::SeqCst);
        (next < COMMANDS).then_some(next)
    }

    fn add(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        let (answered, cancelled) = (of(&self.answered), of(&self.cancelled));
        write!(f, "{answered} answered, {cancelled} cancelled, {} crossed", of(&self.crossed))
    }
}

/// How long a caller is willing to wait: most of them hardly, some not at all, some for ever.
fn willing(random: &mut fastrand::Rng) -> Duration {
    match random.u8(..10) {
        0..4 => Duration::from_secs(60),
        4..6 => Duration::ZERO,
        _ => Duration::from_micros(random.u64(..3000)),
    }
}

async fn one_command(
    pool: &Pool<Adapter>,
    tag: &str,
    random: &mut fastrand::Rng,
    count: &Count,
) -> Duration {
    let kind = random.u8(..100);
    let willing = willing(random);
    let began = Instant::now();
    let mut conn = pool.get().await.expect("the server is well");
    let waited = began.elapsed();
    let asked = async {
        match kind {
            0..60 => cmd("ECHO").arg(tag).query_async::<String>(&mut *conn).await,
            60..75 => {
                let mut many = pipe();
                many.cmd("ECHO").arg(tag).cmd("SELECT").arg(kind % 16).cmd("ECHO").arg(tag);
                let (first, _, last): (String, Value, String) =
                    many.query_async(&mut *conn).await?;
                assert_eq!(first, last);
                RedisResult::Ok(last)
            }
            75..85 => {
                let mut many = pipe();
                many.atomic().set("tag", tag).cmd("ECHO").arg(tag);
                let (_, last): (Value, String) = many.query_async(&mut *conn).await?;
                Ok(last)
            }
            85..87 => {
                cmd("DEBUG").arg("SLEEP").arg("0.003").query_async::<()>(&mut *conn).await?;
                cmd("ECHO").arg(tag).query_async(&mut *conn).await
            }
            87..94 => {
                let nothing: Value =
                    cmd("BLPOP").arg("none").arg("0.02").query_async(&mut *conn).await?;
                assert_eq!(nothing, Value::Nil);
                cmd("ECHO").arg(tag).query_async(&mut *conn).await
            }
            _ => {
                cmd("MULTI").query_async::<()>(&mut *conn).await?;
                cmd("ECHO").arg(tag).query_async::<()>(&mut *conn).await?;
                let (answer,): (String,) = cmd("EXEC").query_async(&mut *conn).await?;
                Ok(answer)
            }
        }
    };
    match tokio::time::timeout(willing, asked).await {
        Ok(answer) if answer.as_ref().is_ok_and(|answer| answer == tag) => {
            Count::add(&count.answered);
        }
        Ok(answer) => {
            println!("{tag} was answered {answer:?}");
            Count::add(&count.crossed);
        }
        Err(_) => Count::add(&count.cancelled),
    }
    drop(conn);
    waited
}

async fn ten_thousand(protocol: &str) {
    let redis = Redis::start();
    let url = format!("{}?protocol={protocol}", redis.url());
    let adapter = Adapter::from_url(url).unwrap();
    let events = Events::default();
    let config = adapter.config().with_max_size(CONNECTIONS).with_max_connecting(8);
    let builder = Pool::builder(config).observer(events.observer());
    let pool = builder.protocol(adapter).build().unwrap();
    let count = Arc::<Count>::default();
    let seed = seed();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (pool, count) = (pool.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(caller as u64));
                let mut longest = Duration::ZERO;
                while let Some(number) = count.next() {
                    let tag = format!("{caller}-{number}");
                    longest = longest.max(one_command(&pool, &tag, &mut random, &count).await);
                }
                longest
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for caller in callers {
        longest = longest.max(caller.await.unwrap());
    }
    println!("{protocol}: {count}; {} connections; longest wait {longest:?}", events.opened());
    let total = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    assert_eq!(total(&count.crossed), 0, "{count}");
    assert_eq!(total(&count.answered) + total(&count.cancelled), COMMANDS);
    assert!(total(&count.cancelled) > COMMANDS / 20, "they were cancelled in the middle: {count}");
    assert!(total(&count.answered) > COMMANDS / 4, "and not all of them: {count}");
    assert!(longest < Duration::from_secs(8), "nobody waits long for a connection: {longest:?}");
    until_status(&pool, |now| now.in_use == 0).await;
    // All that is left is as new.
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut conn = pool.get().await.unwrap();
        let info: String = cmd("CLIENT").arg("INFO").query_async(&mut *conn).await.unwrap();
        assert!(info.contains("db=0") && info.contains("flags=N "), "{info}");
        all.push(conn);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_commands_that_are_given_up_at_random_cross_no_answers() {
    ten_thousand("resp2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_do_they_in_the_newer_protocol() {
    ten_thousand("resp3").await;
}

/// What many begin with: deadpool, and bare streams.
struct Bare(std::net::SocketAddr);

impl Manager for Bare {
    type Type = TcpStream;
    type Error = std::io::Error;

    async fn create(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }

    async fn recycle(&self, _: &mut TcpStream, _: &Metrics) -> RecycleResult<std::io::Error> {
        Ok(())
    }
}

async fn echo(stream: &mut TcpStream, tag: &str) -> std::io::Result<String> {
    let request = format!("*2\r\n$4\r\nECHO\r\n${}\r\n{tag}\r\n", tag.len());
    stream.write_all(request.as_bytes()).await?;
    let mut lines = [const { String::new() }; 2];
    for line in &mut lines {
        while !line.ends_with("\r\n") {
            line.push(char::from(stream.read_u8().await?));
        }
    }
    Ok(lines[1].trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_on_raw_streams_crosses_answers_so_that_this_test_can_fail() {
    let redis = Redis::start();
    let manager = Bare(redis.addr().parse().unwrap());
    let pool = deadpool::managed::Pool::<Bare>::builder(manager).max_size(CONNECTIONS);
    let pool = pool.build().unwrap();
    let count = Arc::<Count>::default();
    let seed = seed();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (pool, count) = (pool.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(caller as u64));
                while let Some(number) = count.next() {
                    let tag = format!("{caller}-{number}");
                    let mut stream = pool.get().await.unwrap();
                    let willing = willing(&mut random);
                    match tokio::time::timeout(willing, echo(&mut stream, &tag)).await {
                        Ok(Ok(answer)) if answer == tag => Count::add(&count.answered),
                        Ok(_) => Count::add(&count.crossed),
                        Err(_) => Count::add(&count.cancelled),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    println!("raw streams: {count}");
    assert!(count.crossed.load(Ordering::SeqCst) > COMMANDS / 100, "{count}");
}

/// Each caller asks again and again, over a connection of its own or one that others use as well.
async fn ask_until(
    pool: Pool<Adapter>,
    caller: usize,
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) {
    while !is_over.load(Ordering::SeqCst) {
        let mut set = cmd("SET");
        set.arg(caller).arg("x");
        // The others fail with their connections.
        let answer: RedisResult<()> = if caller.is_multiple_of(2) {
            let Ok(mut conn) = pool.get().await else { continue };
            set.query_async(&mut *conn).await
        } else {
            let Ok(mut conn) = pool.share().await else { continue };
            set.query_async(&mut conn).await
        };
        served.fetch_add(usize::from(answer.is_ok()), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_the_answer_to_a_command_that_was_sent_as_its_connection_ended() {
    let redis = Redis::start();
    let adapter = Adapter::from_url(format!("redis://{}", redis.addr())).unwrap();
    let pool = adapter.with_config(|config| config.with_max_size(8)).pool().unwrap();
    let (is_over, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let ask = |caller| {
        let (is_over, served) = (Arc::clone(&is_over), Arc::clone(&served));
        tokio::spawn(ask_until(pool.clone(), caller, is_over, served))
    };
    let callers: Vec<_> = (0..16).map(ask).collect();
    let mut server = TcpStream::connect(redis.addr()).await.unwrap();
    let mut random = fastrand::Rng::with_seed(seed());
    // On a busy machine few are served between two of them.
    let mut round = 0;
    while round < 600 || served.load(Ordering::SeqCst) <= 600 {
        round += 1;
        assert!(round < 60_000, "{served:?} commands were served");
        tokio::time::sleep(Duration::from_micros(random.u64(..6000))).await;
        if round % 2 == 0 {
            pool.invalidate_and_interrupt();
        } else {
            server.write_all(b"CLIENT KILL TYPE normal SKIPME yes\r\n").await.unwrap();
            assert!(server.read(&mut [0; 64]).await.unwrap() > 0);
        }
    }
    is_over.store(true, Ordering::SeqCst);
    let left = || callers.iter().filter(|caller| !caller.is_finished()).count();
    until_seen(|| (left(), pool.report()), |(left, _)| *left == 0).await;
    for caller in callers {
        caller.await.unwrap();
    }
}
