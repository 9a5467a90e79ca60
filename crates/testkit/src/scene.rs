//! What the tests of this process have made and what can be seen of it, for whoever gives up.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Something that can say how it is. It does so for a test that is about to fail.
pub trait Witness: Send + Sync {
    fn tell(&self) -> String;
}

/// A witness, and the thread that made it: the test harness gives it the name of the test.
type Entry = (Option<String>, Weak<dyn Witness>);

static SCENE: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Has `witness` asked by [`describe`], for as long as it is there.
pub fn add<W: Witness + 'static>(witness: &Arc<W>) {
    let witness: Weak<W> = Arc::downgrade(witness);
    let mut scene = SCENE.lock().unwrap_or_else(PoisonError::into_inner);
    scene.retain(|(_, witness)| witness.strong_count() > 0);
    scene.push((this_thread(), witness));
}

/// What every witness of this test says. From a thread that belongs to no test: of all tests.
pub fn describe() -> String {
    let scene = SCENE.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |(thread, _): &&Entry| *thread == this_thread();
    let ours: Vec<_> = scene.iter().filter(is_ours).collect();
    let all = if ours.is_empty() { scene.iter().collect() } else { ours };
    let present: Vec<_> = all.iter().filter_map(|(_, witness)| witness.upgrade()).collect();
    drop(scene);
    present.iter().map(|witness| format!("{}\n", witness.tell())).collect()
}

fn this_thread() -> Option<String> {
    std::thread::current().name().map(str::to_owned)
}
