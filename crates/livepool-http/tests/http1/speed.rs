//! How fast requests go through the pool, beside hyper-util's own client, in the same run.
//!
//! `LIVEPOOL_ROUNDS=7 cargo test --release -p livepool-http --all-features --test http1 -- --nocapture beside`

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use livepool::{Config, Pool};
use livepool_http::Http1;

use crate::get;
use livepool_testkit::rates::{Rates, beside};
use livepool_testkit::servers::Nginx;

type Theirs = Client<HttpConnector, Empty<bytes::Bytes>>;

async fn ask_ours(pool: Pool<Http1>) {
    let body = get(&pool, "/").await.unwrap().into_body();
    assert_eq!(body.bytes(100).await.unwrap().as_ref(), b"hello\n");
}

async fn ask_theirs(client: Theirs, uri: hyper::Uri) {
    let body = client.get(uri).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes().as_ref(), b"hello\n");
}

#[test]
fn requests_per_second_beside_those_of_hyper_utils_client() {
    let nginx = Nginx::start_with("keepalive_requests 10000000;", None);
    let rates = Rates::asked_for();
    for callers in [1, 16] {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let config = Config::new(format!("127.0.0.1:{}", nginx.port())).with_max_size(callers);
            // Without an observer: theirs has none either.
            let pool = Pool::builder(config).protocol(Http1::new()).build().unwrap();
            let client: Theirs = Client::builder(TokioExecutor::new()).build_http();
            let uri: hyper::Uri = nginx.url().parse().unwrap();
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            // In turn, so that what the machine does meanwhile falls on both.
            for _ in 0..rates.rounds {
                let pool = pool.clone();
                ours.push(rates.of(callers, move || ask_ours(pool.clone())).await);
                let (client, uri) = (client.clone(), uri.clone());
                let ask = move || ask_theirs(client.clone(), uri.clone());
                theirs.push(rates.of(callers, ask).await);
            }
            println!("{callers:2} callers: livepool {} of hyper-util", beside(&ours, &theirs));
        });
    }
}
