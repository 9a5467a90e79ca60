//! Runs the model checks: see `scripts/models`.

use std::process::ExitCode;

fn main() -> ExitCode {
    livepool_models::models::main()
}
