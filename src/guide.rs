// The snippets are doctests of crates/tests, which has every adapter: this crate names none.
#![cfg_attr(not(doctest), doc = include_str!("../docs/guide/index.md"))]

/// Modules of the pages, in whose scope their links are looked up.
macro_rules! pages {
    ($($page:ident $file:literal)+) => { $(
        pub mod $page {
            #![cfg_attr(not(doctest), doc = include_str!(concat!("../docs/guide/", $file)))]

            #[allow(unused_imports)]
            use crate::*;
        }
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
