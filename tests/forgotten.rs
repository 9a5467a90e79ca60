//! A connection that is dropped after an answer without `release()` is closed every time; that is
//! said once.

use std::io::Write;
use std::sync::{Arc, Mutex};

use livepool::{CloseReason, Pool};
use livepool_testkit::{Upstream, ask, exchange, watched};
use tokio::io::AsyncWriteExt;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Those of this test's thread, from now on, that warn.
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn all(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

async fn forget(pool: &Pool) {
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
}

#[tokio::test]
async fn a_release_that_is_forgotten_is_told_once_per_pool_with_the_place_of_the_checkout() {
    let lines = Lines::default();
    let _guard = lines.begin();
    let upstream = Upstream::start();
    let (pool, events) = watched(upstream.config().with_name("orders"));
    for _ in 0..3 {
        forget(&pool).await;
    }
    assert_eq!(events.closed(), [CloseReason::Unfinished; 3]);
    let said = lines.all();
    assert_eq!(said.len(), 1, "{said:?}");
    let expected = ["release()", "orders", "tests/forgotten.rs"];
    assert!(expected.iter().all(|word| said[0].contains(word)), "{said:?}");
}

#[tokio::test]
async fn who_gives_up_or_says_what_becomes_of_a_connection_has_forgotten_nothing() {
    let lines = Lines::default();
    let _guard = lines.begin();
    let upstream = Upstream::start();
    let (pool, _) = watched(upstream.config());
    assert_eq!(exchange(&pool, "ECHO x").await, "x");
    // In the middle of a request.
    let mut conn = pool.get().await.unwrap();
    conn.write_all(b"HOLD\n").await.unwrap();
    drop(conn);
    let mut conn = pool.get().await.unwrap();
    assert_eq!(ask(&mut conn, "ECHO x").await.unwrap(), "x");
    conn.discard();
    // Nothing was done with it.
    drop(pool.get().await.unwrap());
    assert_eq!(lines.all(), Vec::<String>::new());
}
