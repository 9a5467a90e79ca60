//! Runs the model checks: see `scripts/models`, which sets `cfg(shuttle)`.

#[cfg(shuttle)]
fn main() -> std::process::ExitCode {
    livepool::models::main(livepool_postgres::models::all())
}

#[cfg(not(shuttle))]
fn main() {
    eprintln!("built without cfg(shuttle): run scripts/models");
    std::process::exit(1);
}
