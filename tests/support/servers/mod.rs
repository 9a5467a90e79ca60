//! Real servers, each started by a test on a private port, with its data in a private directory.
#![allow(unused_imports)]

pub mod certs;
pub mod nginx;
pub mod postgres;
pub mod process;
pub mod redis;

pub use certs::Certs;
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use redis::Redis;
