//! A page in the browser that shows a livepool at work, with buttons that do to real sockets what happens
//! to them.
//!
//! ```sh
//! cargo run -p livepool-playground                                  # at http://127.0.0.1:9002
//! cargo run -p livepool-playground -- --listen 127.0.0.1:0          # at a free port
//! cargo run -p livepool-playground -- --figures docs/playground.md  # what each button does to each pool
//! ```

mod board;
mod contenders;
mod echo;
mod figures;
mod fleet;
mod frame;
mod keeping_up;
mod load;
mod server;
mod stage;
mod sys;
mod tally;
mod upstream;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

const USAGE: &str = "usage: livepool-playground [--listen ADDRESS:PORT | --figures FILE]";

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => serve(([127, 0, 0, 1], 9002).into()),
        ["--listen", at] => serve(at.parse()?),
        ["--figures", file] => figures::write(file.as_ref()),
        // Ours alone: the process of an upstream.
        ["--upstream", port] => Ok(upstream::run(port.parse()?)?),
        _ => Err(USAGE.into()),
    }
}

#[tokio::main]
async fn serve(at: SocketAddr) -> Result<(), Box<dyn Error>> {
    if !at.ip().is_loopback() {
        return Err("the playground is for this machine alone: listen at 127.0.0.1 or [::1]".into());
    }
    let listener = TcpListener::bind(at).await?;
    let stage = Arc::new(stage::Stage::start().await?);
    let (frames, seen) = watch::channel(Arc::default());
    let frames = tokio::spawn(frame::run(Arc::clone(&stage), frames));
    println!("the playground is at http://{}", listener.local_addr()?);
    tokio::select! {
        served = server::serve(listener, Arc::clone(&stage), seen) => served?,
        stopped = frames => stopped?,
        pressed = tokio::signal::ctrl_c() => pressed?,
    }
    Ok(())
}
