//! The answer to a list: one page of a SELECT.

use crate::{
    db::{Db, Row, Select},
    error::Result,
    page::{IdPage, NullPage, Page, Paging},
    request::Json,
};

/// A list as a caller asks for it: which rows, and which page of them.
pub struct List {
    /// The rows, as far as the caller's filters let them through.
    pub select: Select,
    /// The column of ids along which the list is walked.
    pub key: &'static str,
    /// The page.
    pub paging: Paging,
}

impl List {
    /// The page; `id` is what `key` holds of a row.
    pub async fn page<T: Send + 'static>(
        self,
        db: &Db,
        map: impl Fn(&Row<'_>) -> Result<T> + Send + Sync + 'static,
        id: fn(&T) -> String,
    ) -> Result<Json<Page<T>>> {
        let Self { select, key, paging } = self;
        db.read(move |tx| Ok(paging.page(select.page(tx, key, &paging, &map)?, id))).await.map(Json)
    }

    /// The same, of a list whose last page says so with null.
    pub async fn null_page<T: Send + 'static>(
        self,
        db: &Db,
        map: impl Fn(&Row<'_>) -> Result<T> + Send + Sync + 'static,
        id: fn(&T) -> String,
    ) -> Result<Json<NullPage<T>>> {
        let Json(page) = self.page(db, map, id).await?;
        Ok(Json(NullPage::from(page)))
    }

    /// The same, of a list whose cursors are the ids at the ends of its pages.
    pub async fn by_ids<T: Send + 'static>(
        self,
        db: &Db,
        map: impl Fn(&Row<'_>) -> Result<T> + Send + Sync + 'static,
        id: fn(&T) -> String,
    ) -> Result<Json<IdPage<T>>> {
        let Self { select, key, paging } = self;
        db.read(move |tx| Ok(paging.by_ids(select.page(tx, key, &paging, &map)?, id))).await.map(Json)
    }
}
