//! The same callers for either pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime, TimeoutType};
use livepool::error::CheckoutFailure;
use livepool::{Pool, Timeouts};
use livepool_postgres::Postgres;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, NoTls};

/// More than there are connections, so that some always wait for one.
pub(crate) const CALLERS: usize = 12;
pub(crate) const CONNECTIONS: usize = 8;

/// How long a caller waits for a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// How long one waits for an answer, connection and all.
const WHOLE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) enum Contender {
    Livepool(Pool<Postgres>),
    Deadpool(deadpool_postgres::Pool),
}

impl Contender {
    pub(crate) fn livepool(url: &str) -> Self {
        let timeouts = Timeouts::default().with_checkout(PATIENCE);
        let postgres = Postgres::from_url(url).unwrap();
        let postgres = postgres
            .with_config(|config| config.with_max_size(CONNECTIONS).with_timeouts(timeouts));
        Self::Livepool(postgres.pool().unwrap())
    }

    /// With what its documents recommend.
    pub(crate) fn deadpool(url: &str) -> Self {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(url.parse().unwrap(), NoTls, config);
        let builder = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS);
        let builder = builder.runtime(Runtime::Tokio1).wait_timeout(Some(PATIENCE));
        let builder = builder.create_timeout(Some(PATIENCE)).recycle_timeout(Some(PATIENCE));
        Self::Deadpool(builder.build().unwrap())
    }

    /// What one caller wants, or a word for why it was not to be had.
    async fn ask(&self, number: i32) -> Result<i32, String> {
        match self {
            Self::Livepool(pool) => {
                let conn = pool.get().await.map_err(|error| match error.failure() {
                    CheckoutFailure::Timeout(_) => "no connection in time".to_owned(),
                    other => format!("{other:?}"),
                })?;
                query(&conn, number).await
            }
            Self::Deadpool(pool) => {
                use deadpool_postgres::PoolError;
                let conn = pool.get().await.map_err(|error| match error {
                    PoolError::Backend(error) => format!("no connection: {}", kind(&error)),
                    PoolError::Timeout(TimeoutType::Wait | TimeoutType::Create) => {
                        "no connection in time".to_owned()
                    }
                    other => other.to_string(),
                })?;
                query(&conn, number).await
            }
        }
    }
}

/// Without a named statement, so that it may be asked behind a bouncer.
async fn query(client: &Client, number: i32) -> Result<i32, String> {
    let sql = "SELECT $1 FROM pg_sleep(0.005)";
    let rows = client.query_typed(sql, &[(&number, Type::INT4)]).await;
    let rows = rows.map_err(|error| format!("in use: {}", kind(&error)))?;
    Ok(rows[0].get(0))
}

fn kind(error: &Error) -> String {
    if let Some(code) = error.code() {
        return code.code().to_owned();
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind().to_string();
        }
        cause = error.source();
    }
    if error.is_closed() { "connection closed".to_owned() } else { error.to_string() }
}

/// One request, from the question to the answer.
pub(crate) struct Asked {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) error: Option<String>,
}

/// Callers that ask without a pause.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Asked>>>,
}

impl Load {
    pub(crate) fn start(contender: Contender) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let tasks = (0..CALLERS).map(|caller| {
            let (contender, stop, served) = (contender.clone(), stop.clone(), served.clone());
            tokio::spawn(async move {
                let mut all = Vec::new();
                while !stop.load(SeqCst) {
                    let (begun, number) = (Instant::now(), (caller * 1_000_000 + all.len()) as i32);
                    let asked = tokio::time::timeout(WHOLE, contender.ask(number)).await;
                    let error = match asked.unwrap_or_else(|_| Err("no answer in time".into())) {
                        Ok(answer) => {
                            assert_eq!(answer, number, "another caller's answer");
                            served.fetch_add(1, SeqCst);
                            None
                        }
                        Err(error) => Some(error),
                    };
                    if error.is_some() {
                        // As a caller would who means well.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    all.push(Asked { begun, ended: Instant::now(), error });
                }
                all
            })
        });
        Self { tasks: tasks.collect(), stop, served }
    }

    /// Until so many more were served.
    pub(crate) async fn serves(&self, more: usize) {
        let goal = self.served.load(SeqCst) + more;
        let began = Instant::now();
        while self.served.load(SeqCst) < goal {
            assert!(began.elapsed() < 2 * WHOLE, "not served again within {:?}", 2 * WHOLE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn stop(self) -> Vec<Asked> {
        self.stop.store(true, SeqCst);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}
