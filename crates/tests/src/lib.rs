//! The snippets of the guide compile, and those that need no server run. They are doctests of this
//! package, since it has every adapter.

/// Doctests of the pages in `docs/guide`, which are rendered as `livepool::guide`.
macro_rules! pages {
    ($($page:ident $file:literal)+) => { $(
        #[cfg(doctest)]
        #[doc = include_str!(concat!("../../../docs/guide/", $file))]
        mod $page {}
    )+ };
}

pages! {
    sizing "sizing.md"
    deadlines "deadlines.md"
    proxies "proxies.md"
    failover "failover.md"
    credentials "credentials.md"
    reconfiguring "reconfiguring.md"
    raw_protocols "raw_protocols.md"
    migrating "migrating.md"
    testing "testing.md"
    blocking "blocking.md"
    limits "limits.md"
}
