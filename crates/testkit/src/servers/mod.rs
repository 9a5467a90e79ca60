//! Real servers, each started by a test on a private port, with its data in a private directory.
//! Starting one blocks: before the runtime's work, that harms nothing.

pub mod certs;
pub mod dir;
pub mod haproxy;
pub mod nginx;
pub mod pgbouncer;
pub mod postgres;
mod postgres_files;
pub mod process;
pub mod programs;
pub mod prometheus;
pub mod redis;
pub mod redis_cluster;
pub mod redis_sentinel;

pub use crate::port;

pub use certs::Certs;
pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use programs::are_here;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
pub use redis_sentinel::RedisSentinel;
