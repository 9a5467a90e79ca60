//! A real nginx: in clear, over TLS, reloaded, and one that does not speak HTTP/2.

use livepool::{Config, Pool};
use livepool_http::http2::{self, Http2};
use livepool_http::{Http1, PoolExt};
use livepool_testkit::servers::{Certs, Nginx};
use livepool_tls::Tls;

use crate::{get_text, pool_of, pool_with, request_for};

fn https(nginx: &Nginx) -> Config {
    Config::new(format!("127.0.0.1:{}", nginx.tls_port()))
}

fn tls_of(certs: &Certs) -> Tls {
    Tls::builder().with_root_pem(certs.ca_pem()).build().unwrap()
}

#[tokio::test]
async fn a_server_speaks_http2_over_tls_or_is_an_error_that_says_so() {
    let certs = Certs::new();
    let nginx = Nginx::start_with("", Some(&certs));
    let (pool, _) = pool_with(https(&nginx), Http2::new().with_tls(&tls_of(&certs)));
    let error = get_text(&pool, "/tag/a").await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");

    let nginx = Nginx::start_http2(Some(&certs));
    let (pool, events) = pool_with(https(&nginx), Http2::new().with_tls(&tls_of(&certs)));
    for tag in ["a", "b"] {
        assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag);
    }
    let response = pool.send(request_for("/")).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!((events.opened(), events.closed()), (1, vec![]));
    // And the same server in HTTP/1.1.
    let http1 = Http1::new().with_tls(tls_of(&certs));
    let pool = Pool::builder(https(&nginx)).protocol(http1).build().unwrap();
    let response = pool.send(request_for("/")).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
}

#[tokio::test]
async fn a_server_that_answers_in_http1_is_an_error_that_says_so() {
    let nginx = Nginx::start();
    let (pool, _) = pool_of(Config::new(format!("127.0.0.1:{}", nginx.port())));
    let error = get_text(&pool, "/tag/a").await.unwrap_err().to_string();
    assert!(error.contains("answered in HTTP/1.1"), "{error}");
    assert!(error.contains("does the server there speak HTTP/2?"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_reloaded_costs_no_request() {
    let nginx = Nginx::start_http2(None);
    let pool = http2::pool(&nginx.http2_url()).unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (pool, stopped) = (pool.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut served = 0;
                while !*stopped.borrow() {
                    let tag = format!("{caller}-{served}");
                    assert_eq!(get_text(&pool, &format!("/tag/{tag}")).await.unwrap(), tag);
                    served += 1;
                }
                served
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        tokio::task::block_in_place(|| nginx.reload());
    }
    stop.send(true).unwrap();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
}
