//! Models of the stream's own parts: its timer; and the streams that other models are about.

use std::io::Read;
use std::os::unix::net::UnixStream as Peer;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Wake, Waker};

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;
use tokio::net::{TcpStream, UnixStream};

use super::handle::Side;
use super::timeouts::timer::Now;
use super::*;
use crate::models::{Model, advance};
use crate::telemetry::Emitter;

pub(crate) use crate::protocol::models::read;

pub(crate) fn all() -> Vec<Model> {
    vec![Model { name: "clock", run: a_deadline_is_kept_whenever_the_timer_fires }]
}

/// A stream over a Unix socket, and its other end.
pub(crate) fn pair() -> (Stream, Peer) {
    let (ours, theirs) = Peer::pair().expect("a pair of sockets");
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).expect("a socket that does not block");
    }
    let io = Io::Unix(UnixStream::from_std(ours).expect("the runtime takes it"));
    (stream(io, PeerAddr::Unix("".into())), theirs)
}

/// A stream over this socket.
pub(crate) fn tcp_stream(socket: std::net::TcpStream) -> Stream {
    socket.set_nonblocking(true).expect("a socket that does not block");
    let peer = PeerAddr::Tcp(socket.peer_addr().expect("it is connected"));
    stream(Io::Tcp(TcpStream::from_std(socket).expect("the runtime takes it")), peer)
}

/// As one that was dialed.
fn stream(io: Io, peer: PeerAddr) -> Stream {
    let emitter = Arc::new(Emitter::of_connector("model", None));
    let timeouts = Arc::new(Timeouts::never());
    let mut stream = Stream::new(io, ConnId::next(), peer.clone(), peer, timeouts, emitter);
    stream.opened = None;
    stream
}

/// Whether this end sees that the other one is closed.
pub(crate) fn is_closed(peer: &mut Peer) -> bool {
    let mut space = [0; 64];
    loop {
        match peer.read(&mut space) {
            Ok(0) => return true,
            Ok(_) => {}
            // Reset, because it had unread bytes.
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Notes that it was woken.
#[derive(Default)]
struct Noted(AtomicBool);

impl Wake for Noted {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// One operation after another, each given up or waited for. What is waited for ends when its time is
/// up, not before and not later. Time passes while the task waits and was not woken, and a second of it
/// once while it does something: its thread was held up.
fn a_deadline_is_kept_whenever_the_timer_fires() {
    let woken = Arc::new(Noted::default());
    let (is_waiting, is_over) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let held_up = Arc::new(AtomicUsize::new(0));
    let timer = {
        let (woken, is_waiting, is_over) =
            (Arc::clone(&woken), Arc::clone(&is_waiting), Arc::clone(&is_over));
        let held_up = Arc::clone(&held_up);
        thread::spawn(move || {
            let mut seconds = 0;
            while !is_over.load(SeqCst) {
                if is_waiting.load(SeqCst) && !woken.0.load(SeqCst) {
                    // What waited may have ended meanwhile, and the next one begun.
                    thread::yield_now();
                    advance(SECOND);
                    seconds += 1;
                    assert!(seconds < 60, "nobody woke the operation at its deadline");
                } else if !is_waiting.load(SeqCst)
                    && held_up.load(SeqCst) == 0
                    && thread_rng().gen_bool(0.1)
                {
                    held_up.store(1, SeqCst);
                    advance(SECOND);
                }
                thread::yield_now();
            }
        })
    };
    thread::yield_now();
    let link = Link::new();
    let mut clock = Clock::default();
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..3 {
        let limit = thread_rng().gen_range(1..5) * SECOND;
        let mut patience = thread_rng().gen_range(0..6);
        let start = Instant::now();
        let ended = loop {
            woken.0.store(false, SeqCst);
            // As a stream does.
            link.reader().register(&waker);
            let polled = clock.poll(&link, Side::Reading, &mut Now::default(), Some(limit), None);
            if polled.is_ready() {
                break true;
            }
            is_waiting.store(true, SeqCst);
            while patience > 0 && !woken.0.load(SeqCst) {
                patience -= usize::from(thread_rng().gen_bool(0.1));
                thread::yield_now();
            }
            is_waiting.store(false, SeqCst);
            if patience == 0 {
                // Its bytes came.
                clock.stop();
                break false;
            }
        };
        let took = start.elapsed();
        assert!(!ended || took >= limit, "after {took:?} of {limit:?}");
        // The timer's thread may have been on the way to one more second.
        let late = SECOND + held_up.load(SeqCst) as u32 * SECOND;
        assert!(took <= limit + late, "after {took:?} of {limit:?}");
    }
    is_over.store(true, SeqCst);
    timer.join().expect("the timer held");
}
