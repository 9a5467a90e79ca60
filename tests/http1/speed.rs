//! How fast requests go through the pool, beside hyper-util's own client, in the same run.
//!
//! `cargo test --release --features http1 --test http1 -- --ignored --nocapture speed`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use livepool::http1::Http1;
use livepool::{Config, Pool};

use crate::get;
use crate::support::servers::Nginx;

const REQUESTS: usize = 30_000;
const ROUNDS: usize = 7;

type Theirs = Client<HttpConnector, Empty<bytes::Bytes>>;

/// Requests per second.
async fn rate<F>(callers: usize, one: impl Fn() -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let callers = (0..callers).map(|_| {
        let (one, next) = (one.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < REQUESTS {
                one().await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    REQUESTS as f64 / began.elapsed().as_secs_f64()
}

async fn ours(callers: usize, pool: &Pool<Http1>) -> f64 {
    let pool = pool.clone();
    rate(callers, move || {
        let pool = pool.clone();
        async move {
            let body = get(&pool, "/").await.unwrap().into_body();
            assert_eq!(body.bytes(100).await.unwrap().as_ref(), b"hello\n");
        }
    })
    .await
}

async fn theirs(callers: usize, client: &Theirs, url: &str) -> f64 {
    let (client, uri) = (client.clone(), url.parse::<hyper::Uri>().unwrap());
    rate(callers, move || {
        let (client, uri) = (client.clone(), uri.clone());
        async move {
            let body = client.get(uri).await.unwrap().into_body();
            assert_eq!(body.collect().await.unwrap().to_bytes().as_ref(), b"hello\n");
        }
    })
    .await
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
#[ignore = "prints figures, which depend on the machine"]
fn requests_per_second_beside_those_of_hyper_utils_client() {
    let nginx = Nginx::start_with("keepalive_requests 10000000;", None);
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    for callers in [1, 16] {
        let runtime = runtime().unwrap();
        runtime.block_on(async {
            let config = Config::new(format!("127.0.0.1:{}", nginx.port())).with_max_size(callers);
            // Without an observer: theirs has none either.
            let pool = Pool::builder(config).protocol(Http1::new()).build().unwrap();
            let client: Theirs = Client::builder(TokioExecutor::new()).build_http();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            // In turn, so that what the machine does meanwhile falls on both.
            for _ in 0..ROUNDS {
                a.push(ours(callers, &pool).await);
                b.push(theirs(callers, &client, &nginx.url()).await);
            }
            let ratios = a.iter().zip(&b).map(|(a, b)| a / b).collect();
            println!(
                "{callers:2} callers: livepool {:.0}/s, hyper-util {:.0}/s, ratio {:.2}",
                median(a),
                median(b),
                median(ratios)
            );
        });
    }
}
