//! What the guide says: the tables for those who come from other pools, and what it claims of runtimes and
//! clocks.

#[path = "guide/clocks.rs"]
mod clocks;
#[path = "guide/examples.rs"]
mod examples;
#[path = "guide/from_others.rs"]
mod from_others;
