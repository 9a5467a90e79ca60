//! Serves what a pool says of itself, while callers hold its connections for too long.
//!
//! ```sh
//! cargo run -p livepool-examples --features report --example report_server                  # until Ctrl-C
//! cargo run -p livepool-examples --features report --example report_server -- --seconds 5   # for five seconds
//! curl -s http://127.0.0.1:9001/report        # for people
//! curl -s http://127.0.0.1:9001/report.json   # for programs
//! ```

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use livepool::{Config, Pool, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// The handler: all there is to it. Axum's would return the same two.
fn answer(pool: &Pool, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (kind, page) = match request.uri().path() {
        "/report" => ("text/plain; charset=utf-8", pool.report().to_string()),
        "/report.json" => match serde_json::to_string_pretty(&pool.report()) {
            Ok(json) => ("application/json", json),
            Err(error) => return status(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => return status(StatusCode::NOT_FOUND, "see /report or /report.json\n".to_owned()),
    };
    let mut response = status(StatusCode::OK, page);
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("a header's value"));
    response
}

fn status(status: StatusCode, page: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page)));
    *response.status_mut() = status;
    response
}

/// Answers until the listener fails. A page like this belongs where only operators come.
async fn serve(listener: TcpListener, pool: Pool) -> std::io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        let pool = pool.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&pool, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no news.
            let _ = connection.serve_connection(TokioIo::new(client), answer).await;
        });
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let seconds: Option<u64> = match &args[..] {
        [] => None,
        [flag, seconds] if flag == "--seconds" => Some(seconds.parse()?),
        _ => return Err("usage: report_server [--seconds N]".into()),
    };
    let upstream = support::start_upstream().await?;
    let timeouts = Timeouts::default().with_checkout(Duration::from_secs(1));
    let config = Config::new(&upstream).with_name("orders").with_max_size(2);
    let pool = Pool::new(config.with_timeouts(timeouts))?;
    let address = SocketAddr::from(([127, 0, 0, 1], 9001));
    tokio::spawn(serve(TcpListener::bind(address).await?, pool.clone()));
    println!("report: curl -s http://{address}/report");

    // Somebody forgets to give two connections back, and six more wait for one, over and over.
    let forgotten = [pool.get().await?, pool.get().await?];
    for _ in 0..6 {
        let pool = pool.clone();
        tokio::spawn(async move {
            loop {
                let _ = pool.get().await;
            }
        });
    }
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    while end.is_none_or(|end| Instant::now() < end) {
        sleep(Duration::from_millis(100)).await;
    }
    // One look at what an operator gets, through the real HTTP endpoint.
    let mut http = TcpStream::connect(address).await?;
    http.write_all(b"GET /report HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut page = String::new();
    http.read_to_string(&mut page).await?;
    let (_, report) = page.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    println!("{report}");
    drop(forgotten);
    Ok(())
}
