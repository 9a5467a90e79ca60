// This file was generated with `clorinde`. Do not modify.

#[derive(Debug)]
pub struct InsertAuthorParams<T1: crate::StringSql> {
    pub name: T1,
    pub mood: crate::types::Mood,
    pub born: Option<i32>,
}
#[derive(Debug)]
pub struct RenameAuthorParams<T1: crate::StringSql, T2: crate::StringSql> {
    pub new_name: T1,
    pub name: T2,
}
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorsOfMood {
    pub id: i64,
    pub name: String,
    pub mood: crate::types::Mood,
    pub born: Option<i32>,
}
pub struct AuthorsOfMoodBorrowed<'a> {
    pub id: i64,
    pub name: &'a str,
    pub mood: crate::types::Mood,
    pub born: Option<i32>,
}
impl<'a> From<AuthorsOfMoodBorrowed<'a>> for AuthorsOfMood {
    fn from(AuthorsOfMoodBorrowed { id, name, mood, born }: AuthorsOfMoodBorrowed<'a>) -> Self {
        Self { id, name: name.into(), mood, born }
    }
}
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorByName {
    pub id: i64,
    pub name: String,
    pub mood: crate::types::Mood,
    pub born: Option<i32>,
}
pub struct AuthorByNameBorrowed<'a> {
    pub id: i64,
    pub name: &'a str,
    pub mood: crate::types::Mood,
    pub born: Option<i32>,
}
impl<'a> From<AuthorByNameBorrowed<'a>> for AuthorByName {
    fn from(AuthorByNameBorrowed { id, name, mood, born }: AuthorByNameBorrowed<'a>) -> Self {
        Self { id, name: name.into(), mood, born }
    }
}
use crate::client::async_::GenericClient;
use futures::{self, StreamExt, TryStreamExt};
pub struct I64Query<'c, 'a, 's, C: GenericClient, T, const N: usize> {
    client: &'c C,
    params: [&'a (dyn postgres_types::ToSql + Sync); N],
    query: &'static str,
    cached: Option<&'s tokio_postgres::Statement>,
    extractor: fn(&tokio_postgres::Row) -> Result<i64, tokio_postgres::Error>,
    mapper: fn(i64) -> T,
}
impl<'c, 'a, 's, C, T: 'c, const N: usize> I64Query<'c, 'a, 's, C, T, N>
where
    C: GenericClient,
{
    pub fn map<R>(self, mapper: fn(i64) -> R) -> I64Query<'c, 'a, 's, C, R, N> {
        I64Query {
            client: self.client,
            params: self.params,
            query: self.query,
            cached: self.cached,
            extractor: self.extractor,
            mapper,
        }
    }
    pub async fn one(self) -> Result<T, tokio_postgres::Error> {
        let row =
            crate::client::async_::one(self.client, self.query, &self.params, self.cached).await?;
        Ok((self.mapper)((self.extractor)(&row)?))
    }
    pub async fn all(self) -> Result<Vec<T>, tokio_postgres::Error> {
        self.iter().await?.try_collect().await
    }
    pub async fn opt(self) -> Result<Option<T>, tokio_postgres::Error> {
        let opt_row =
            crate::client::async_::opt(self.client, self.query, &self.params, self.cached).await?;
        Ok(opt_row
            .map(|row| {
                let extracted = (self.extractor)(&row)?;
                Ok((self.mapper)(extracted))
            })
            .transpose()?)
    }
    pub async fn iter(
        self,
    ) -> Result<
        impl futures::Stream<Item = Result<T, tokio_postgres::Error>> + 'c,
        tokio_postgres::Error,
    > {
        let stream = crate::client::async_::raw(
            self.client,
            self.query,
            crate::slice_iter(&self.params),
            self.cached,
        )
        .await?;
        let mapped = stream
            .map(move |res| {
                res.and_then(|row| {
                    let extracted = (self.extractor)(&row)?;
                    Ok((self.mapper)(extracted))
                })
            })
            .into_stream();
        Ok(mapped)
    }
}
pub struct AuthorsOfMoodQuery<'c, 'a, 's, C: GenericClient, T, const N: usize> {
    client: &'c C,
    params: [&'a (dyn postgres_types::ToSql + Sync); N],
    query: &'static str,
    cached: Option<&'s tokio_postgres::Statement>,
    extractor: fn(&tokio_postgres::Row) -> Result<AuthorsOfMoodBorrowed, tokio_postgres::Error>,
    mapper: fn(AuthorsOfMoodBorrowed) -> T,
}
impl<'c, 'a, 's, C, T: 'c, const N: usize> AuthorsOfMoodQuery<'c, 'a, 's, C, T, N>
where
    C: GenericClient,
{
    pub fn map<R>(
        self,
        mapper: fn(AuthorsOfMoodBorrowed) -> R,
    ) -> AuthorsOfMoodQuery<'c, 'a, 's, C, R, N> {
        AuthorsOfMoodQuery {
            client: self.client,
            params: self.params,
            query: self.query,
            cached: self.cached,
            extractor: self.extractor,
            mapper,
        }
    }
    pub async fn one(self) -> Result<T, tokio_postgres::Error> {
        let row =
            crate::client::async_::one(self.client, self.query, &self.params, self.cached).await?;
        Ok((self.mapper)((self.extractor)(&row)?))
    }
    pub async fn all(self) -> Result<Vec<T>, tokio_postgres::Error> {
        self.iter().await?.try_collect().await
    }
    pub async fn opt(self) -> Result<Option<T>, tokio_postgres::Error> {
        let opt_row =
            crate::client::async_::opt(self.client, self.query, &self.params, self.cached).await?;
        Ok(opt_row
            .map(|row| {
                let extracted = (self.extractor)(&row)?;
                Ok((self.mapper)(extracted))
            })
            .transpose()?)
    }
    pub async fn iter(
        self,
    ) -> Result<
        impl futures::Stream<Item = Result<T, tokio_postgres::Error>> + 'c,
        tokio_postgres::Error,
    > {
        let stream = crate::client::async_::raw(
            self.client,
            self.query,
            crate::slice_iter(&self.params),
            self.cached,
        )
        .await?;
        let mapped = stream
            .map(move |res| {
                res.and_then(|row| {
                    let extracted = (self.extractor)(&row)?;
                    Ok((self.mapper)(extracted))
                })
            })
            .into_stream();
        Ok(mapped)
    }
}
pub struct AuthorByNameQuery<'c, 'a, 's, C: GenericClient, T, const N: usize> {
    client: &'c C,
    params: [&'a (dyn postgres_types::ToSql + Sync); N],
    query: &'static str,
    cached: Option<&'s tokio_postgres::Statement>,
    extractor: fn(&tokio_postgres::Row) -> Result<AuthorByNameBorrowed, tokio_postgres::Error>,
    mapper: fn(AuthorByNameBorrowed) -> T,
}
impl<'c, 'a, 's, C, T: 'c, const N: usize> AuthorByNameQuery<'c, 'a, 's, C, T, N>
where
    C: GenericClient,
{
    pub fn map<R>(
        self,
        mapper: fn(AuthorByNameBorrowed) -> R,
    ) -> AuthorByNameQuery<'c, 'a, 's, C, R, N> {
        AuthorByNameQuery {
            client: self.client,
            params: self.params,
            query: self.query,
            cached: self.cached,
            extractor: self.extractor,
            mapper,
        }
    }
    pub async fn one(self) -> Result<T, tokio_postgres::Error> {
        let row =
            crate::client::async_::one(self.client, self.query, &self.params, self.cached).await?;
        Ok((self.mapper)((self.extractor)(&row)?))
    }
    pub async fn all(self) -> Result<Vec<T>, tokio_postgres::Error> {
        self.iter().await?.try_collect().await
    }
    pub async fn opt(self) -> Result<Option<T>, tokio_postgres::Error> {
        let opt_row =
            crate::client::async_::opt(self.client, self.query, &self.params, self.cached).await?;
        Ok(opt_row
            .map(|row| {
                let extracted = (self.extractor)(&row)?;
                Ok((self.mapper)(extracted))
            })
            .transpose()?)
    }
    pub async fn iter(
        self,
    ) -> Result<
        impl futures::Stream<Item = Result<T, tokio_postgres::Error>> + 'c,
        tokio_postgres::Error,
    > {
        let stream = crate::client::async_::raw(
            self.client,
            self.query,
            crate::slice_iter(&self.params),
            self.cached,
        )
        .await?;
        let mapped = stream
            .map(move |res| {
                res.and_then(|row| {
                    let extracted = (self.extractor)(&row)?;
                    Ok((self.mapper)(extracted))
                })
            })
            .into_stream();
        Ok(mapped)
    }
}
pub struct InsertAuthorStmt(&'static str, Option<tokio_postgres::Statement>);
pub fn insert_author() -> InsertAuthorStmt {
    InsertAuthorStmt(
        "INSERT INTO authors (name, mood, born) VALUES ($1, $2, $3) RETURNING id",
        None,
    )
}
impl InsertAuthorStmt {
    pub async fn prepare<'a, C: GenericClient>(
        mut self,
        client: &'a C,
    ) -> Result<Self, tokio_postgres::Error> {
        self.1 = Some(client.prepare(self.0).await?);
        Ok(self)
    }
    pub fn bind<'c, 'a, 's, C: GenericClient, T1: crate::StringSql>(
        &'s self,
        client: &'c C,
        name: &'a T1,
        mood: &'a crate::types::Mood,
        born: &'a Option<i32>,
    ) -> I64Query<'c, 'a, 's, C, i64, 3> {
        I64Query {
            client,
            params: [name, mood, born],
            query: self.0,
            cached: self.1.as_ref(),
            extractor: |row| Ok(row.try_get(0)?),
            mapper: |it| it,
        }
    }
}
impl<'c, 'a, 's, C: GenericClient, T1: crate::StringSql>
    crate::client::async_::Params<
        'c,
        'a,
        's,
        InsertAuthorParams<T1>,
        I64Query<'c, 'a, 's, C, i64, 3>,
        C,
    > for InsertAuthorStmt
{
    fn params(
        &'s self,
        client: &'c C,
        params: &'a InsertAuthorParams<T1>,
    ) -> I64Query<'c, 'a, 's, C, i64, 3> {
        self.bind(client, &params.name, &params.mood, &params.born)
    }
}
pub struct AuthorsOfMoodStmt(&'static str, Option<tokio_postgres::Statement>);
pub fn authors_of_mood() -> AuthorsOfMoodStmt {
    AuthorsOfMoodStmt("SELECT id, name, mood, born FROM authors WHERE mood = $1 ORDER BY id", None)
}
impl AuthorsOfMoodStmt {
    pub async fn prepare<'a, C: GenericClient>(
        mut self,
        client: &'a C,
    ) -> Result<Self, tokio_postgres::Error> {
        self.1 = Some(client.prepare(self.0).await?);
        Ok(self)
    }
    pub fn bind<'c, 'a, 's, C: GenericClient>(
        &'s self,
        client: &'c C,
        mood: &'a crate::types::Mood,
    ) -> AuthorsOfMoodQuery<'c, 'a, 's, C, AuthorsOfMood, 1> {
        AuthorsOfMoodQuery {
            client,
            params: [mood],
            query: self.0,
            cached: self.1.as_ref(),
            extractor:
                |row: &tokio_postgres::Row| -> Result<AuthorsOfMoodBorrowed, tokio_postgres::Error> {
                    Ok(AuthorsOfMoodBorrowed {
                        id: row.try_get(0)?,
                        name: row.try_get(1)?,
                        mood: row.try_get(2)?,
                        born: row.try_get(3)?,
                    })
                },
            mapper: |it| AuthorsOfMood::from(it),
        }
    }
}
pub struct AuthorByNameStmt(&'static str, Option<tokio_postgres::Statement>);
pub fn author_by_name() -> AuthorByNameStmt {
    AuthorByNameStmt("SELECT id, name, mood, born FROM authors WHERE name = $1", None)
}
impl AuthorByNameStmt {
    pub async fn prepare<'a, C: GenericClient>(
        mut self,
        client: &'a C,
    ) -> Result<Self, tokio_postgres::Error> {
        self.1 = Some(client.prepare(self.0).await?);
        Ok(self)
    }
    pub fn bind<'c, 'a, 's, C: GenericClient, T1: crate::StringSql>(
        &'s self,
        client: &'c C,
        name: &'a T1,
    ) -> AuthorByNameQuery<'c, 'a, 's, C, AuthorByName, 1> {
        AuthorByNameQuery {
            client,
            params: [name],
            query: self.0,
            cached: self.1.as_ref(),
            extractor:
                |row: &tokio_postgres::Row| -> Result<AuthorByNameBorrowed, tokio_postgres::Error> {
                    Ok(AuthorByNameBorrowed {
                        id: row.try_get(0)?,
                        name: row.try_get(1)?,
                        mood: row.try_get(2)?,
                        born: row.try_get(3)?,
                    })
                },
            mapper: |it| AuthorByName::from(it),
        }
    }
}
pub struct RenameAuthorStmt(&'static str, Option<tokio_postgres::Statement>);
pub fn rename_author() -> RenameAuthorStmt {
    RenameAuthorStmt("UPDATE authors SET name = $1 WHERE name = $2", None)
}
impl RenameAuthorStmt {
    pub async fn prepare<'a, C: GenericClient>(
        mut self,
        client: &'a C,
    ) -> Result<Self, tokio_postgres::Error> {
        self.1 = Some(client.prepare(self.0).await?);
        Ok(self)
    }
    pub async fn bind<'c, 'a, 's, C: GenericClient, T1: crate::StringSql, T2: crate::StringSql>(
        &'s self,
        client: &'c C,
        new_name: &'a T1,
        name: &'a T2,
    ) -> Result<u64, tokio_postgres::Error> {
        client.execute(self.0, &[new_name, name]).await
    }
}
impl<'a, C: GenericClient + Send + Sync, T1: crate::StringSql, T2: crate::StringSql>
    crate::client::async_::Params<
        'a,
        'a,
        'a,
        RenameAuthorParams<T1, T2>,
        std::pin::Pin<
            Box<dyn futures::Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>,
        >,
        C,
    > for RenameAuthorStmt
{
    fn params(
        &'a self,
        client: &'a C,
        params: &'a RenameAuthorParams<T1, T2>,
    ) -> std::pin::Pin<
        Box<dyn futures::Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>,
    > {
        Box::pin(self.bind(client, &params.new_name, &params.name))
    }
}
