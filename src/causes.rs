//! The causes of an error: all of them in a line, or a single one by its type.
//!
//! The rule for every error of this crate: its text carries its causes, each once and in one line,
//! and its `source` is `None`, so that a program that prints the error and a walk over its sources
//! prints nothing twice. A cause that is wanted with its type is found by that type. Errors of
//! others do as they like, so their chains are walked here.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::foreign;
use crate::text::Escaped;

/// The most causes of an error that are looked at: a foreign chain may have no end.
const MAX_CAUSES: usize = 16;

/// An error and its causes in one line, each text once. Escaped and cut as
/// [`Escaped`](crate::protocol::Escaped).
///
/// ```
/// use livepool::protocol::OneLine;
///
/// let error = std::io::Error::other("no\nroom");
/// assert_eq!(OneLine(&error).to_string(), r"no\nroom");
/// ```
pub struct OneLine<'a>(pub &'a (dyn Error + 'static));

impl fmt::Debug for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Escaped(self.0).to_string();
        // By `source`, and not by `inner_error`: an `io::Error` shows what it holds in its own
        // text.
        let causes = std::iter::successors(source(self.0), |error| source(*error));
        for cause in causes.take(MAX_CAUSES) {
            let said = Escaped(cause).to_string();
            // Many repeat the words of their cause, and some say nothing else.
            if said.starts_with(&text) {
                text = said;
            } else if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
        }
        Escaped(&text).fmt(f)
    }
}

/// The cause of this type: the error itself, or one of its [sources](Error::source), also inside an
/// [`io::Error`] and an `Arc`. An error of this crate has no sources: see [`error`](crate::error).
///
/// ```
/// let error = std::io::Error::other(std::fmt::Error);
/// assert!(livepool::error::find::<std::fmt::Error>(&error).is_some());
/// ```
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| inner_error(*error))
        .take(MAX_CAUSES)
        .find_map(|error| error.downcast_ref())
}

/// Whether the connection ended, or carried what nobody understands, rather than that the program at
/// its other end said what is wrong. Looks into whatever the error is wrapped in, as
/// [`find`](crate::error::find) does.
pub fn is_connection_error(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof,
    };
    let is_end = |error: &io::Error| {
        matches!(
            error.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | UnexpectedEof
        )
    };
    find(error).is_some_and(is_end)
}

/// The next error of the chain.
fn inner_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    // `source` of an `io::Error` and of an `Arc` skips the error inside and gives that one's source.
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return Some(inner);
    }
    match error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        Some(inner) => Some(&**inner),
        None => source(error),
    }
}

fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    foreign::call(|| error.source()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<dyn Error + Send + Sync>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|error| error as _)
        }
    }

    fn over(text: &'static str, cause: Layer) -> Layer {
        Layer(text, Some(Box::new(cause)))
    }

    #[test]
    fn each_cause_is_told_once_and_in_one_line() {
        let end = || Layer("broken\npipe", None);
        for (error, text) in [
            (end(), "broken\\npipe"),
            (over("cannot read", end()), "cannot read: broken\\npipe"),
            (over("cannot read: broken\npipe", end()), "cannot read: broken\\npipe"),
            (over("a", over("a: cannot read", end())), "a: cannot read: broken\\npipe"),
            (over("x", over("x", over("x", end()))), "x: broken\\npipe"),
        ] {
            assert_eq!(OneLine(&error).to_string(), text);
        }
    }

    #[test]
    fn a_chain_without_an_end_is_a_text_all_the_same() {
        #[derive(Debug)]
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("again")
            }
        }
        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert_eq!(OneLine(&Endless).to_string(), "again");
        assert!(find::<Layer>(&Endless).is_none());
    }

    #[test]
    fn a_cause_is_found_by_its_type_in_whatever_hides_it() {
        let inner: Arc<dyn Error + Send + Sync> =
            Arc::new(io::Error::other(over("outer", Layer("inner", None))));
        let error = io::Error::new(io::ErrorKind::BrokenPipe, inner);
        assert_eq!(find::<Layer>(&error).unwrap().0, "outer");
        assert!(find::<fmt::Error>(&error).is_none());
        assert!(is_connection_error(&error));
        assert!(!is_connection_error(&Layer("too many clients", None)));
    }
}
