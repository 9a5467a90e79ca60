//! [`Fields`]: what an ErrorResponse says, as far as a pool has to know. Pure.

/// An error of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PgError {
    /// The server closes the connection after it.
    pub(crate) fatal: bool,
    /// Its SQLSTATE; zeros if it has none.
    pub(crate) code: [u8; 5],
    /// It refuses a Parse or a Bind: nothing was run.
    pub(crate) is_early: bool,
}

/// The server's function that finds a plan outdated: the text of the error is in the server's language.
const REVALIDATE: &[u8] = b"RevalidateCachedQuery";

/// Reads the fields of one error and keeps four of them, cut short.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// The field that is being read, and how much of it came.
    field: Option<(u8, usize)>,
    severity: [u8; 6],
    /// The same in the server's language. Servers before 9.6 have no other.
    localized: [u8; 6],
    code: [u8; 5],
    routine: [u8; REVALIDATE.len() + 1],
}

impl Fields {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match (&mut self.field, byte) {
                (field, 0) => *field = None,
                (None, _) => self.field = Some((byte, 0)),
                (Some((field, at)), _) => {
                    let kept = match field {
                        b'V' => &mut self.severity[..],
                        b'S' => &mut self.localized[..],
                        b'C' => &mut self.code[..],
                        b'R' => &mut self.routine[..],
                        _ => continue,
                    };
                    if let Some(place) = kept.get_mut(*at) {
                        *place = byte;
                        *at += 1;
                    }
                }
            }
        }
    }

    /// A prepared statement is not what it was when it was prepared.
    pub(super) fn is_of_plan(&self) -> bool {
        self.routine.strip_suffix(b"\0") == Some(REVALIDATE)
    }

    pub(super) fn error(&self) -> PgError {
        let known = self.severity[0] != 0;
        let severity = if known { &self.severity } else { &self.localized };
        PgError {
            fatal: [b"FATAL\0", b"PANIC\0"].contains(&severity),
            code: self.code,
            is_early: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(fields: &[u8]) -> PgError {
        let mut read = Fields::default();
        fields.iter().for_each(|byte| read.read(&[*byte]));
        read.error()
    }

    #[test]
    fn the_severity_is_read_in_english_if_the_server_says_it() {
        let shutdown = PgError { fatal: true, code: *b"57P01", is_early: false };
        assert_eq!(error(b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0"), shutdown);
        assert_eq!(error(b"SFATALE\0VFATAL\0C57P01\0\0"), shutdown);
        assert_eq!(error(b"SPANIC\0C57P01\0\0"), shutdown);
        let wrong = PgError { fatal: false, code: *b"42601", is_early: false };
        assert_eq!(error(b"SFATAL\0VERROR\0C42601\0\0"), wrong);
    }

    #[test]
    fn fields_that_are_missing_or_too_long_do_no_harm() {
        assert_eq!(error(b"\0"), PgError { fatal: false, code: [0; 5], is_early: false });
        assert_eq!(
            error(b"C4260199\0VFATALLY\0\0"),
            PgError { fatal: false, code: *b"42601", is_early: false }
        );
    }
}
