//! [`StatementCounts`]: how well a protocol's prepared statements are used.

/// How many prepared statements a protocol keeps, and how often one was there when it was wanted. See
/// [`Protocol::statement_counts`](super::Protocol::statement_counts).
///
/// ```
/// use livepool::protocol::StatementCounts;
///
/// let counts = StatementCounts::new(12, 3_400, 60);
/// assert_eq!((counts.kept, counts.hits, counts.misses), (12, 3_400, 60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StatementCounts {
    /// Statements that are kept now, by all connections together.
    pub kept: usize,
    /// How often a statement was there, since the pool was built.
    pub hits: u64,
    /// How often it had to be prepared.
    pub misses: u64,
}

impl StatementCounts {
    /// These counts.
    pub const fn new(kept: usize, hits: u64, misses: u64) -> Self {
        Self { kept, hits, misses }
    }
}
