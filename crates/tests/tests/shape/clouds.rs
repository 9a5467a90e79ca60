//! The connection strings that providers show, and what becomes of each.

use livepool::SetupError;
use livepool_postgres::Postgres;
use livepool_redis::Redis;

/// A string of a provider: whose it is, and where it leads; or what its refusal says.
struct Row(&'static str, &'static str, Outcome);

enum Outcome {
    /// Accepted, for this upstream.
    To(&'static str),
    /// Refused, with this advice.
    Write(&'static str),
}

use Outcome::{To, Write};

const POSTGRES: &[Row] = &[
    Row(
        "Heroku",
        "postgres://uabc:phunter2@ec2-52-1-2-3.compute-1.amazonaws.com:5432/d9f",
        To("ec2-52-1-2-3.compute-1.amazonaws.com:5432"),
    ),
    Row(
        "Heroku, with TLS",
        "postgres://uabc:phunter2@ec2-52-1-2-3.compute-1.amazonaws.com:5432/d9f?sslmode=require",
        To("ec2-52-1-2-3.compute-1.amazonaws.com:5432"),
    ),
    Row(
        "Heroku, of Node",
        "postgres://uabc:phunter2@ec2-52-1-2-3.compute-1.amazonaws.com:5432/d9f?ssl=true",
        To("ec2-52-1-2-3.compute-1.amazonaws.com:5432"),
    ),
    Row(
        "Neon",
        "postgresql://alex:hunter2@ep-cool-123456-pooler.us-east-2.aws.neon.tech/dbname?sslmode=require&channel_binding=require",
        To("ep-cool-123456-pooler.us-east-2.aws.neon.tech:5432"),
    ),
    Row(
        "Neon, without SNI",
        "postgresql://alex:hunter2@us-east-2.aws.neon.tech/dbname?sslmode=require&options=endpoint%3Dep-cool-123456",
        To("us-east-2.aws.neon.tech:5432"),
    ),
    Row(
        "Neon, without SNI, in the password",
        "postgresql://alex:endpoint%3Dep-cool-123456%3Bhunter2@us-east-2.aws.neon.tech/dbname?sslmode=require",
        To("us-east-2.aws.neon.tech:5432"),
    ),
    Row(
        "Vercel",
        "postgres://default:hunter2@ep-a-1-pooler.us-east-1.aws.neon.tech:5432/verceldb?pgbouncer=true&connect_timeout=15&sslmode=require",
        To("ep-a-1-pooler.us-east-1.aws.neon.tech:5432"),
    ),
    Row(
        "Supabase, pooler",
        "postgresql://postgres.abcdefghij:hunter2@aws-0-us-east-1.pooler.supabase.com:6543/postgres?pgbouncer=true",
        To("aws-0-us-east-1.pooler.supabase.com:6543"),
    ),
    Row(
        "Supabase, direct",
        "postgresql://postgres:hunter2@db.abcdefghij.supabase.co:5432/postgres",
        To("db.abcdefghij.supabase.co:5432"),
    ),
    Row(
        "Supabase, for Prisma",
        "postgresql://postgres.abc:hunter2@aws-0-us-east-1.pooler.supabase.com:6543/postgres?pgbouncer=true&connection_limit=1",
        Write("write pool_max_size"),
    ),
    Row(
        "RDS",
        "postgres://postgres:hunter2@mydb.123456789012.us-east-1.rds.amazonaws.com:5432/postgres?sslmode=require",
        To("mydb.123456789012.us-east-1.rds.amazonaws.com:5432"),
    ),
    Row(
        "RDS, as its manual has it",
        "host=mydb.123456789012.us-east-1.rds.amazonaws.com port=5432 dbname=postgres user=me password=hunter2 sslrootcert=/no/such/global-bundle.pem sslmode=verify-full",
        Write("sslrootcert cannot be read"),
    ),
    Row(
        "Azure, flexible server",
        "postgres://me:hunter2@demo.postgres.database.azure.com:5432/postgres?sslmode=require",
        To("demo.postgres.database.azure.com:5432"),
    ),
    Row(
        "Azure, single server",
        "postgres://me%40demo:hunter2@demo.postgres.database.azure.com:5432/postgres?sslmode=require",
        To("demo.postgres.database.azure.com:5432"),
    ),
    Row(
        "Azure, as it was pasted",
        "postgres://me@demo:hunter2@demo.postgres.database.azure.com/postgres",
        Write("must be written %40"),
    ),
    Row(
        "Azure, in libpq's words",
        "host=demo.postgres.database.azure.com port=5432 dbname=postgres user=me password=hunter2 sslmode=require",
        To("demo.postgres.database.azure.com:5432"),
    ),
    Row(
        "Azure, in .NET's words",
        "Server=demo.postgres.database.azure.com;Database=postgres;Port=5432;User Id=me;Password=hunter2;Ssl Mode=Require;",
        Write("they are those of libpq"),
    ),
    #[cfg(unix)]
    Row(
        "Cloud SQL, socket",
        "postgres://me:hunter2@/mydb?host=/cloudsql/project:region:instance",
        To("unix:/cloudsql/project:region:instance/.s.PGSQL.5432"),
    ),
    #[cfg(unix)]
    Row(
        "Cloud SQL, socket in the place of the host",
        "postgres://me:hunter2@%2Fcloudsql%2Fproject%3Aregion%3Ainstance/mydb",
        To("unix:/cloudsql/project:region:instance/.s.PGSQL.5432"),
    ),
    #[cfg(unix)]
    Row(
        "Cloud SQL, settings",
        "user=me password=hunter2 dbname=mydb host=/cloudsql/project:region:instance",
        To("unix:/cloudsql/project:region:instance/.s.PGSQL.5432"),
    ),
    Row(
        "DigitalOcean",
        "postgresql://doadmin:AVNS_hunter2@db-postgresql-nyc3-1-do-user-1-0.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
        To("db-postgresql-nyc3-1-do-user-1-0.b.db.ondigitalocean.com:25060"),
    ),
    Row("Render, inside", "postgresql://me:hunter2@dpg-abc-a/mydb", To("dpg-abc-a:5432")),
    Row(
        "Render, outside",
        "postgresql://me:hunter2@dpg-abc-a.oregon-postgres.render.com/mydb?ssl=true",
        To("dpg-abc-a.oregon-postgres.render.com:5432"),
    ),
    Row(
        "Railway",
        "postgresql://postgres:hunter2@postgres.railway.internal:5432/railway",
        To("postgres.railway.internal:5432"),
    ),
    Row(
        "Railway, outside",
        "postgresql://postgres:hunter2@monorail.proxy.rlwy.net:12345/railway",
        To("monorail.proxy.rlwy.net:12345"),
    ),
    Row(
        "Fly",
        "postgres://postgres:hunter2@my-db.flycast:5432/app?sslmode=disable",
        To("my-db.flycast:5432"),
    ),
    Row(
        "CockroachDB",
        "postgresql://me:hunter2@a-1.abc.gcp-us-east1.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full",
        To("a-1.abc.gcp-us-east1.cockroachlabs.cloud:26257"),
    ),
    Row(
        "CockroachDB, with a cluster",
        "postgresql://me:hunter2@free-tier.gcp-us-central1.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full&options=--cluster%3Dmy-cluster-123",
        To("free-tier.gcp-us-central1.cockroachlabs.cloud:26257"),
    ),
    Row(
        "Aiven",
        "postgres://avnadmin:AVNS_hunter2@pg-1-demo.aivencloud.com:12345/defaultdb?sslmode=require",
        To("pg-1-demo.aivencloud.com:12345"),
    ),
    Row(
        "Aiven, in MySQL's words",
        "postgres://avnadmin:AVNS_hunter2@pg-1-demo.aivencloud.com:12345/defaultdb?ssl_mode=REQUIRED",
        Write("write sslmode"),
    ),
    Row(
        "Timescale",
        "postgres://tsdbadmin:hunter2@abc.def.tsdb.cloud.timescale.com:35000/tsdb?sslmode=require",
        To("abc.def.tsdb.cloud.timescale.com:35000"),
    ),
    Row(
        "PlanetScale",
        "postgresql://me:pscale_pw_hunter2@eu-west-2.pg.psdb.cloud:5432/postgres?sslmode=verify-full",
        To("eu-west-2.pg.psdb.cloud:5432"),
    ),
    Row(
        "Yugabyte",
        "postgresql://admin:hunter2@us-west1.abc.gcp.ybdb.io:5433/yugabyte?ssl=true&sslmode=verify-full",
        To("us-west1.abc.gcp.ybdb.io:5433"),
    ),
    Row(
        "Prisma",
        "postgresql://me:hunter2@db.internal:5432/mydb?schema=public",
        Write("options=-csearch_path%3Dname"),
    ),
    Row(
        "Java",
        "jdbc:postgresql://db.internal:5432/mydb?user=me&password=hunter2",
        Write("postgres://user:password@host:5432/database"),
    ),
    Row(
        "SQLAlchemy",
        "postgresql+asyncpg://me:hunter2@db.internal/mydb",
        Write("postgres://user:password@host:5432/database"),
    ),
];

const REDIS: &[Row] = &[
    Row(
        "Heroku",
        "rediss://:phunter2@ec2-54-1-2-3.compute-1.amazonaws.com:21570",
        To("ec2-54-1-2-3.compute-1.amazonaws.com:21570"),
    ),
    Row(
        "Heroku, before Redis 6",
        "redis://h:phunter2@ec2-54-1-2-3.compute-1.amazonaws.com:21569",
        To("ec2-54-1-2-3.compute-1.amazonaws.com:21569"),
    ),
    Row(
        "Heroku, for Celery",
        "rediss://:phunter2@ec2-54-1-2-3.compute-1.amazonaws.com:21570?ssl_cert_reqs=none",
        Write("with_tls()"),
    ),
    Row(
        "Upstash",
        "rediss://default:AXhunter2@us1-caring-shark-12345.upstash.io:6379",
        To("us1-caring-shark-12345.upstash.io:6379"),
    ),
    Row(
        "Upstash, over HTTP",
        "https://us1-caring-shark-12345.upstash.io",
        Write("must look like redis://"),
    ),
    Row(
        "Redis Cloud",
        "redis://default:hunter2@redis-12345.c1.us-east-1-2.ec2.cloud.redislabs.com:12345",
        To("redis-12345.c1.us-east-1-2.ec2.cloud.redislabs.com:12345"),
    ),
    Row(
        "Redis Cloud, as its command line shows it",
        "redis-cli -u redis://default:hunter2@redis-12345.c1.cloud.redislabs.com:12345",
        Write("must look like redis://"),
    ),
    Row(
        "ElastiCache",
        "redis://demo.abc123.0001.use1.cache.amazonaws.com:6379",
        To("demo.abc123.0001.use1.cache.amazonaws.com:6379"),
    ),
    Row(
        "ElastiCache, with TLS",
        "rediss://app:hunter2@master.demo.abc123.use1.cache.amazonaws.com:6379",
        To("master.demo.abc123.use1.cache.amazonaws.com:6379"),
    ),
    Row(
        "Azure",
        "rediss://:hunter2%3D@demo.redis.cache.windows.net:6380",
        To("demo.redis.cache.windows.net:6380"),
    ),
    Row(
        "Azure, with its key as it is",
        "rediss://:hunter2=@demo.redis.cache.windows.net:6380/0",
        To("demo.redis.cache.windows.net:6380"),
    ),
    Row(
        "Azure, in .NET's words",
        "demo.redis.cache.windows.net:6380,password=hunter2=,ssl=True,abortConnect=False",
        Write("has no scheme"),
    ),
    Row("Memorystore", "redis://10.0.0.3:6379", To("10.0.0.3:6379")),
    Row(
        "DigitalOcean",
        "rediss://default:AVNS_hunter2@db-redis-nyc3-1-do-user-1-0.b.db.ondigitalocean.com:25061",
        To("db-redis-nyc3-1-do-user-1-0.b.db.ondigitalocean.com:25061"),
    ),
    Row(
        "Aiven, Valkey",
        "valkeys://default:AVNS_hunter2@valkey-1-demo.aivencloud.com:12345",
        To("valkey-1-demo.aivencloud.com:12345"),
    ),
    Row("Render", "redis://red-abc:6379", To("red-abc:6379")),
    Row(
        "Railway",
        "redis://default:hunter2@redis.railway.internal:6379?family=0",
        To("redis.railway.internal:6379"),
    ),
    Row("Fly", "redis://default:hunter2@fly-demo.upstash.io:6379", To("fly-demo.upstash.io:6379")),
    #[cfg(unix)]
    Row(
        "a socket",
        "redis+unix:///run/redis/redis.sock?db=1&user=app&pass=hunter2",
        To("unix:/run/redis/redis.sock"),
    ),
    Row("the newer protocol", "redis://default:hunter2@h:6379/0?protocol=resp3", To("h:6379")),
    Row("a user without a password", "redis://default@h:6379", Write("write user:password")),
    Row("the database as an option", "redis://h:6379?db=2", Write("redis://host:port/2")),
    Row("Python's options", "redis://h:6379?socket_timeout=5", Write("pool_timeouts.operation")),
    Row("Python's size", "redis://h:6379?max_connections=5", Write("write pool_max_size")),
    Row("an option that nobody knows", "redis://h:6379?hunter2=5", Write("there are protocol")),
];

fn check(rows: &[Row], read: fn(&str) -> Result<Vec<String>, SetupError>) {
    for Row(who, url, outcome) in rows {
        match (read(url), outcome) {
            (Ok(upstream), To(expected)) => assert_eq!(upstream, [*expected], "{who}"),
            (Err(error), Write(advice)) => {
                let text = error.to_string();
                assert!(text.contains(advice), "{who}: {text}");
                assert!(!format!("{error:?}{text}").contains("hunter2"), "{who}: {text}");
            }
            (Ok(upstream), Write(_)) => panic!("{who}: accepted, for {upstream:?}"),
            (Err(error), To(_)) => panic!("{who}: {error}"),
        }
    }
}

#[test]
fn the_urls_of_clouds_for_postgresql_are_accepted_or_refused_with_what_to_write() {
    check(POSTGRES, |url| {
        let postgres = Postgres::from_url(url)?;
        let upstream = postgres.config().upstream;
        // As far as it goes without a connection.
        postgres.pool().map(|_| upstream)
    });
}

#[test]
fn the_urls_of_clouds_for_redis_are_accepted_or_refused_with_what_to_write() {
    check(REDIS, |url| {
        let redis = Redis::from_url(url)?;
        let upstream = redis.config().upstream;
        redis.pool().map(|_| upstream)
    });
}
