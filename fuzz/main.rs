//! One property of the library under libFuzzer: `LIVEPOOL_FUZZ` names it. See `scripts/fuzz`.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use livepool::fuzzed::Property;

static PROPERTY: OnceLock<Property> = OnceLock::new();

fuzz_target!(
    init: choose(),
    |bytes: &[u8]| {
        if let Some(property) = PROPERTY.get() {
            (property.holds)(bytes);
        }
    }
);

fn all() -> Vec<Property> {
    let mut all = livepool::fuzzed::all();
    all.extend(livepool_postgres::fuzzed::all());
    all.extend(livepool_redis::fuzzed::all());
    all.extend(livepool_http::fuzzed::all());
    all.extend(livepool_http::tower::fuzzed::all());
    all
}

/// Takes the property that is wanted; without one, says which there are. Where `LIVEPOOL_SEEDS` names a
/// directory, leaves there what is known to be interesting.
fn choose() {
    let wanted = std::env::var("LIVEPOOL_FUZZ").unwrap_or_default();
    let Some(property) = all().into_iter().find(|property| property.name == wanted) else {
        all().iter().for_each(|property| println!("{}", property.name));
        std::process::exit(i32::from(!wanted.is_empty()));
    };
    if let Some(seeds) = std::env::var_os("LIVEPOOL_SEEDS") {
        for (number, seed) in property.seeds.iter().enumerate() {
            let file = Path::new(&seeds).join(format!("seed-{number}"));
            std::fs::write(&file, seed).expect("the directory takes files");
        }
    }
    let _ = PROPERTY.set(property);
}
