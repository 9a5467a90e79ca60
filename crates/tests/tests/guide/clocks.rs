//! What the page on testing says of runtimes that end and of the paused clock.

use std::io;
use std::time::Duration;

use livepool::{Config, Pool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A thread that answers after a while of the real clock.
fn upstream(pause: Duration) -> Config {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::new(listener.local_addr().unwrap().to_string());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut ask = [0; 4];
                while stream.read_exact(&mut ask).is_ok() {
                    std::thread::sleep(pause);
                    if stream.write_all(b"pong").is_err() {
                        return;
                    }
                }
            });
        }
    });
    config
}

async fn ask(pool: &Pool) -> io::Result<[u8; 4]> {
    pool.run(async |conn| {
        conn.write_all(b"ping").await?;
        let mut answer = [0; 4];
        conn.read_exact(&mut answer).await?;
        Ok(answer)
    })
    .await
}

#[test]
fn tests_that_run_one_after_another_may_share_a_pool() {
    let pool = Pool::new(upstream(Duration::ZERO).with_max_size(1)).unwrap();
    for _ in 0..3 {
        assert_eq!(&runtime().block_on(ask(&pool)).unwrap(), b"pong");
    }
}

/// Why tests that run at the same time may not: the connection ends with the test that made it.
#[test]
fn a_connection_ends_in_use_when_the_test_that_made_it_ends() {
    let pool = Pool::new(upstream(Duration::ZERO).with_max_size(1)).unwrap();
    let first = runtime();
    assert_eq!(&first.block_on(ask(&pool)).unwrap(), b"pong");
    runtime().block_on(async {
        let mut conn = pool.get().await.unwrap();
        first.shutdown_background();
        conn.write_all(b"ping").await.unwrap_or_default();
        conn.read_exact(&mut [0; 4]).await.unwrap_err();
    });
}

#[tokio::test(start_paused = true)]
async fn under_the_paused_clock_deadlines_pass_while_a_socket_is_waited_for() {
    let pool = Pool::new(upstream(Duration::from_millis(300))).unwrap();
    let error = ask(&pool).await.unwrap_err();
    assert!(livepool::is_timeout(&error), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_blocking_task_keeps_the_paused_clock_from_jumping() {
    let pool = Pool::new(upstream(Duration::from_millis(300))).unwrap();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || until_done.recv().unwrap_err());
    assert_eq!(&ask(&pool).await.unwrap(), b"pong");
    drop(done);
    blocking.await.unwrap();
}

/// The warning on `Guard`, `release` and the page about raw protocols.
#[tokio::test]
async fn a_foreign_buffer_hides_bytes_that_the_next_caller_misses() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config::new(listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut ask = [0; 5];
        stream.read_exact(&mut ask).await.unwrap();
        stream.write_all(b"first\nsec").await.unwrap();
        stream.read_exact(&mut ask).await.unwrap();
        stream.write_all(b"ond\n").await.unwrap();
    });
    let pool = Pool::new(config).unwrap();
    let mut conn = tokio::io::BufReader::new(pool.get().await.unwrap());
    conn.write_all(b"hello").await.unwrap();
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut conn, &mut line).await.unwrap();
    assert_eq!(conn.into_inner().release(), livepool::Release::Reused, "which is wrong");
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"hello").await.unwrap();
    let mut rest = [0; 4];
    conn.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"ond\n", "the beginning went with the buffer");
}
