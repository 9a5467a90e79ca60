//! The page and its two doors: `/events` (server-sent events) and `/do` (what a button does).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, ORIGIN,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::frame::Frame;
use crate::stage::Stage;

/// The most connections of browsers at a time.
const MOST_CLIENTS: usize = 64;

/// The longest request of a button.
const LONGEST: usize = 4096;

/// The page: its address, its type, its text.
const PAGE: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("/dots.js", "text/javascript; charset=utf-8", include_str!("../page/dots.js")),
    ("/charts.js", "text/javascript; charset=utf-8", include_str!("../page/charts.js")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../page/page.js")),
];

/// The page asks nobody but us for anything.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Body = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

#[derive(Clone)]
struct Server {
    stage: Arc<Stage>,
    frames: watch::Receiver<Arc<Frame>>,
    /// What browsers have to call us. A page of another site that has its own name lead here gets nothing.
    host: Arc<[String]>,
}

/// Serves until the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    stage: Arc<Stage>,
    frames: watch::Receiver<Arc<Frame>>,
) -> std::io::Result<()> {
    let at: SocketAddr = listener.local_addr()?;
    let host = [at.to_string(), format!("localhost:{}", at.port())].into();
    let server = Server { stage, frames, host };
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, say: it passes, and is not to be tried without a pause.
                eprintln!("accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let _ = client.set_nodelay(true);
        let server = server.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(|request| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            let mut connection = hyper::server::conn::http1::Builder::new();
            connection.timer(TokioTimer::new());
            // A client that goes away is no news.
            let _ = connection.serve_connection(TokioIo::new(client), answer).await;
        });
    }
}

impl Server {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if !self.is_ours(&request) {
            return say(StatusCode::FORBIDDEN, "the playground is for pages of its own\n");
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/events") => self.events(),
            (&Method::POST, "/do") => self.press(request).await,
            (&Method::GET, path) => match PAGE.iter().find(|(at, ..)| *at == path) {
                Some((_, kind, text)) => answer(StatusCode::OK, kind, full(*text)),
                None => say(StatusCode::NOT_FOUND, "there is only /\n"),
            },
            _ => say(StatusCode::METHOD_NOT_ALLOWED, "GET, or POST to /do\n"),
        }
    }

    fn is_ours(&self, request: &Request<Incoming>) -> bool {
        let header =
            |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let is_host = |host: &str| self.host.iter().any(|ours| ours == host);
        let origin = header(ORIGIN).map(|origin| origin.trim_start_matches("http://"));
        header(HOST).is_some_and(is_host) && origin.is_none_or(is_host)
    }

    async fn press(&self, request: Request<Incoming>) -> Response<Body> {
        let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
        // A form of another site cannot send this type without being asked for leave.
        if !request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
            return say(StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json\n");
        }
        let Ok(body) = Limited::new(request.into_body(), LONGEST).collect().await else {
            return say(StatusCode::BAD_REQUEST, "the request is too long, or broke off\n");
        };
        let button = match serde_json::from_slice(&body.to_bytes()) {
            Ok(button) => button,
            Err(error) => return say(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let stage = Arc::clone(&self.stage);
        // In a task of its own: it is done to its end even if the browser goes away.
        match tokio::spawn(async move { stage.press(button).await }).await {
            Ok(Ok(())) => say(StatusCode::NO_CONTENT, ""),
            Ok(Err(why)) => say(StatusCode::CONFLICT, why),
            Err(error) => say(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn events(&self) -> Response<Body> {
        // One frame at a time: a browser that is slow skips some.
        let (sender, body) = Channel::new(1);
        tokio::spawn(send_frames(self.frames.clone(), sender));
        answer(StatusCode::OK, "text/event-stream", Either::Right(body))
    }
}

/// Ends when the browser has gone.
async fn send_frames(mut frames: watch::Receiver<Arc<Frame>>, mut sender: Sender<Bytes>) {
    let mut seen = 0;
    while frames.changed().await.is_ok() {
        let frame = Arc::clone(&frames.borrow_and_update());
        let lines = frame.lines.iter().filter(|(number, _)| *number > seen);
        let lines: Vec<&str> = lines.map(|(_, line)| &**line).collect();
        let text = format!("data: {{\"now\":{},\"lines\":[{}]}}\n\n", frame.json, lines.join(","));
        seen = frame.lines.back().map_or(seen, |(number, _)| *number);
        if sender.send_data(Bytes::from(text)).await.is_err() {
            return;
        }
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(text.into()))
}

fn say(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", full(text))
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}
