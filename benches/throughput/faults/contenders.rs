//! Those that are measured, each as it comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use livepool_http::{PoolExt, Request, http2};
use livepool_testkit::servers::{Nginx, Postgres, Redis};
use sqlx::postgres::PgPoolOptions;
use tokio_postgres::NoTls;

/// There are so many different questions.
pub const TAGS: u64 = 1000;
/// Connections of every exclusive pool, and of what is shared.
const CONNECTIONS: usize = 16;
const SHARED: usize = 4;

type Answer = Result<String, String>;

#[derive(Clone)]
pub struct Contender {
    pub name: &'static str,
    /// One request, from the question for a connection to the answer.
    pub ask: Arc<dyn Fn(u64) -> BoxFuture<'static, Answer> + Send + Sync>,
}

/// Makes a contender for this URL.
pub type Make = fn(String) -> BoxFuture<'static, Contender>;

pub trait Server {
    fn addr(&self) -> SocketAddr;
    /// The same at this address.
    fn url(&self, addr: SocketAddr) -> String;
    fn kill(&mut self);
    fn start_again(&mut self);
    fn contenders(&self) -> Vec<Make>;
}

type Start = fn() -> Box<dyn Server>;

pub const SERVERS: [(&str, Start); 3] = [
    ("redis", || Box::new(Redis::start())),
    ("postgres", || Box::new(Postgres::start())),
    ("http/2", || Box::new(Nginx::start_http2(None))),
];

fn contender<T, F>(
    name: &'static str,
    with: T,
    ask: impl Fn(T, u64) -> F + Send + Sync + 'static,
) -> Contender
where
    T: Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    Contender { name, ask: Arc::new(move |number| Box::pin(ask(with.clone(), number))) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Server for Redis {
    fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    fn url(&self, addr: SocketAddr) -> String {
        format!("redis://{addr}")
    }

    fn kill(&mut self) {
        self.kill_9();
    }

    fn start_again(&mut self) {
        self.start_again();
    }

    fn contenders(&self) -> Vec<Make> {
        async fn echo(to: &mut impl redis::aio::ConnectionLike, number: u64) -> Answer {
            redis::cmd("ECHO").arg(number).query_async(to).await.map_err(text)
        }
        fn pool(url: String) -> livepool::Pool<livepool_redis::Redis> {
            let adapter = livepool_redis::Redis::from_url(url).expect("a URL");
            let config = adapter.config().with_max_size(CONNECTIONS);
            livepool::Pool::builder(config).protocol(adapter).build().expect("a pool")
        }
        vec![
            |url| {
                Box::pin(async move {
                    contender("livepool, shared", pool(url), |pool, number| async move {
                        echo(&mut pool.share().await.map_err(text)?, number).await
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let client = redis::Client::open(url).expect("a URL");
                    let manager = client.get_connection_manager().await.expect("a server");
                    contender("ConnectionManager", manager, |mut manager, number| async move {
                        echo(&mut manager, number).await
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let config = fred::types::config::Config::from_url(&url).expect("a URL");
                    let pool = fred::types::Builder::from_config(config).build_pool(SHARED);
                    let pool = pool.expect("a pool");
                    fred::interfaces::ClientLike::init(&pool).await.expect("a server");
                    contender("fred", pool, |pool, number| async move {
                        let command = fred::types::CustomCommand::new("ECHO", None::<u16>, false);
                        fred::interfaces::ClientLike::custom(
                            &pool,
                            command,
                            vec![number.to_string()],
                        )
                        .await
                        .map_err(text)
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    contender("livepool", pool(url), |pool, number| async move {
                        let mut client = pool.get().await.map_err(text)?;
                        echo(&mut *client, number).await
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let pool = deadpool_redis::Config::from_url(url).builder().expect("a URL");
                    let pool = pool.max_size(CONNECTIONS).runtime(deadpool_redis::Runtime::Tokio1);
                    let pool = pool.build().expect("a pool");
                    contender("deadpool-redis", pool, |pool, number| async move {
                        let mut client = pool.get().await.map_err(text)?;
                        echo(&mut *client, number).await
                    })
                })
            },
        ]
    }
}

impl Server for Postgres {
    fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    fn url(&self, addr: SocketAddr) -> String {
        self.url().replace(&format!(":{}", self.port()), &format!(":{}", addr.port()))
    }

    fn kill(&mut self) {
        self.kill_9();
    }

    fn start_again(&mut self) {
        self.start_again();
    }

    fn contenders(&self) -> Vec<Make> {
        fn pool(url: String) -> livepool::Pool<livepool_postgres::Postgres> {
            let adapter = livepool_postgres::Postgres::from_url(&url).expect("a URL");
            let config = adapter.config().with_max_size(CONNECTIONS);
            livepool::Pool::builder(config).protocol(adapter).build().expect("a pool")
        }
        const ECHO: &str = "SELECT $1::text";
        vec![
            |url| {
                Box::pin(async move {
                    contender("livepool", pool(url), |pool, number| async move {
                        let client = pool.get().await.map_err(text)?;
                        let row = client.query_one(ECHO, &[&number.to_string()]).await;
                        Ok(row.map_err(text)?.get(0))
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let config = url.parse().expect("a URL");
                    let manager = deadpool_postgres::Manager::new(config, NoTls);
                    let pool = deadpool_postgres::Pool::builder(manager).max_size(CONNECTIONS);
                    let pool = pool.build().expect("a pool");
                    contender("deadpool-postgres", pool, |pool, number| async move {
                        let client = pool.get().await.map_err(text)?;
                        let statement = client.prepare_cached(ECHO).await.map_err(text)?;
                        let row = client.query_one(&statement, &[&number.to_string()]).await;
                        Ok(row.map_err(text)?.get(0))
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let config = url.parse().expect("a URL");
                    let manager = bb8_postgres::PostgresConnectionManager::new(config, NoTls);
                    let pool = bb8_postgres::bb8::Pool::builder().max_size(CONNECTIONS as u32);
                    let pool = pool.build(manager).await.expect("a pool");
                    contender("bb8-postgres", pool, |pool, number| async move {
                        let client = pool.get().await.map_err(text)?;
                        let row = client.query_one(ECHO, &[&number.to_string()]).await;
                        Ok(row.map_err(text)?.get(0))
                    })
                })
            },
            // Its own client in its own pool: it takes no other.
            |url| {
                Box::pin(async move {
                    let pool = PgPoolOptions::new().max_connections(CONNECTIONS as u32);
                    let pool = pool.connect(&url).await.expect("a pool");
                    contender("sqlx", pool, |pool, number| async move {
                        let echo = sqlx::query_scalar(ECHO).bind(number.to_string());
                        echo.fetch_one(&pool).await.map_err(text)
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    contender("livepool, shared", pool(url), |pool, number| async move {
                        let client = pool.share().await.map_err(text)?;
                        let row = client.query_one(ECHO, &[&number.to_string()]).await;
                        Ok(row.map_err(text)?.get(0))
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let config: tokio_postgres::Config = url.parse().expect("a URL");
                    let mut clients = Vec::new();
                    for _ in 0..SHARED {
                        let (client, connection) = config.connect(NoTls).await.expect("a server");
                        tokio::spawn(connection);
                        let statement = client.prepare(ECHO).await.expect("a statement");
                        clients.push((client, statement));
                    }
                    let clients = Arc::new((AtomicUsize::new(0), clients));
                    contender("4 tokio-postgres clients", clients, |clients, number| async move {
                        let next = clients.0.fetch_add(1, Ordering::Relaxed);
                        let (client, statement) = &clients.1[next % SHARED];
                        let row = client.query_one(statement, &[&number.to_string()]).await;
                        Ok(row.map_err(text)?.get(0))
                    })
                })
            },
        ]
    }
}

impl Server for Nginx {
    fn addr(&self) -> SocketAddr {
        self.http2_url().trim_start_matches("http://").parse().expect("an address")
    }

    fn url(&self, addr: SocketAddr) -> String {
        format!("http://{addr}")
    }

    fn kill(&mut self) {
        self.kill_9();
    }

    fn start_again(&mut self) {
        self.start_again();
    }

    fn contenders(&self) -> Vec<Make> {
        vec![
            |url| {
                Box::pin(async move {
                    let pool = http2::pool(&url).expect("a pool");
                    contender("livepool", pool, |pool, number| async move {
                        let request = Request::get(format!("/tag/{number}")).body(());
                        let request = request.expect("a request");
                        let response = pool.send(request).await.map_err(text)?;
                        let body = response.into_body().bytes(1 << 20).await.map_err(text)?;
                        Ok(String::from_utf8_lossy(&body).into_owned())
                    })
                })
            },
            |url| {
                Box::pin(async move {
                    let client: Client<_, Empty<Bytes>> =
                        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
                    contender("hyper-util", (client, url), |(client, url), number| async move {
                        let uri = format!("{url}/tag/{number}").parse().expect("a URI");
                        let response = client.get(uri).await.map_err(text)?;
                        let body = response.into_body().collect().await.map_err(text)?.to_bytes();
                        Ok(String::from_utf8_lossy(&body).into_owned())
                    })
                })
            },
        ]
    }
}
