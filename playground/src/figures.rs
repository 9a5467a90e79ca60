//! What each button does to each pool, as a page.

use std::error::Error;
use std::path::Path;

/// Writes the page.
pub(crate) fn write(_: &Path) -> Result<(), Box<dyn Error>> {
    Err("not yet".into())
}
