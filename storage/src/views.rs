//! Views: queries that are kept under a name, in the catalogue beside the tables.
//!
//! Storage keeps their text and the scope in which it is to be read; what it means is for the engine of
//! SQL. A view and a table of one database never have the same name.

use async_recursion::async_recursion as boxed;
use lakebed_core::{
    DatabaseName, Error, ErrorKind, NamespacePath, Result, Subject, TableId, nearest_names,
};
use serde::{Deserialize, Serialize};

use crate::catalog::is_in;
use crate::lake::Lake;

/// A query that is kept under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Its text.
    pub query: String,
    /// The database of tables that the text names without one.
    pub database: String,
    /// The namespace of tables that the text names without one, as SQL writes it.
    pub namespace: String,
    /// The columns that it had when it was made.
    pub schema: serde_json::Value,
}

impl Lake {
    /// Keeps a view under a name; with `replace` also where there is a view of that name.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    #[boxed]
    pub async fn create_view(&self, id: &TableId, view: View, replace: bool) -> Result<()> {
        // A data set that another tool left at the place of the name is a table as well.
        if self.find_table(id).await?.is_some() {
            let message = format!("table `{}` already exists", id.text());
            return Err(Error::new(ErrorKind::AlreadyExists, message).about(Subject::Table));
        }
        self.catalog
            .change(&id.database, |state| {
                let was_there = state.views.remove(&id.text()).is_some();
                if was_there && !replace {
                    let message = format!("view `{}` already exists", id.text());
                    return Err(Error::new(ErrorKind::AlreadyExists, message));
                }
                state.check_free(id)?;
                state.views.insert(id.text(), view.clone());
                state.is_gone = false;
                Ok(())
            })
            .await
    }

    /// The view of that name, or nothing.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn find_view(&self, id: &TableId) -> Result<Option<View>> {
        let (state, _) = self.catalog.state(&id.database).await?;
        Ok(state.views.get(&id.text()).cloned())
    }

    /// The view of that name.
    ///
    /// # Errors
    /// `NotFound` naming the nearest views.
    #[boxed]
    pub async fn view(&self, id: &TableId) -> Result<View> {
        let (state, _) = self.catalog.state(&id.database).await?;
        let view = state.views.get(&id.text()).cloned();
        view.ok_or_else(|| no_view(id, state.views.keys().map(String::as_str)))
    }

    /// The views of a namespace, or of the whole database, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_views(
        &self,
        database: &DatabaseName,
        namespace: Option<&NamespacePath>,
    ) -> Result<Vec<(TableId, View)>> {
        let (state, _) = self.catalog.state(database).await?;
        let mut views = Vec::new();
        for (text, view) in &state.views {
            let id = TableId::parse(database, text)?;
            if namespace.is_none_or(|namespace| is_in(&id, namespace)) {
                views.push((id, view.clone()));
            }
        }
        Ok(views)
    }

    /// Forgets a view.
    ///
    /// # Errors
    /// `NotFound` naming the nearest views.
    #[boxed]
    pub async fn drop_view(&self, id: &TableId) -> Result<()> {
        // Nothing is written for a name that is none.
        self.view(id).await?;
        self.catalog
            .change(&id.database, |state| match state.views.remove(&id.text()) {
                Some(_) => Ok(()),
                None => Err(no_view(id, state.views.keys().map(String::as_str))),
            })
            .await
    }
}

fn no_view<'a>(id: &TableId, known: impl Iterator<Item = &'a str>) -> Error {
    let near = nearest_names(&id.text(), known);
    Error::not_found(format!("view `{}` does not exist{near}", id.text())).about(Subject::Table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_lake::{create, id, lake};

    fn view(query: &str) -> View {
        View {
            query: query.to_owned(),
            database: "default".to_owned(),
            namespace: "public".to_owned(),
            schema: serde_json::Value::Null,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_belongs_to_a_table_or_to_a_view() {
        let (lake, _folder) = lake().await;
        create(&lake, "t").await;
        let error = lake.create_view(&id("t"), view("SELECT 1"), true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        lake.create_view(&id("ns$v"), view("SELECT 1"), false).await.unwrap();
        let error = lake.create_view(&id("ns$v"), view("SELECT 2"), false).await.unwrap_err();
        assert!(error.message().contains("view `ns$v`"), "{error}");
        assert_eq!(lake.view(&id("ns$v")).await.unwrap().query, "SELECT 1");
        lake.create_view(&id("ns$v"), view("SELECT 2"), true).await.unwrap();
        assert_eq!(lake.view(&id("ns$v")).await.unwrap().query, "SELECT 2");
        let taken = lake.rename_table(&id("t"), &id("ns$v")).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        let error = lake.table(&id("ns$v")).await.unwrap_err();
        assert!(error.message().contains("is a view"), "{error}");
        let database = id("t").database;
        assert_eq!(lake.list_namespaces(&database, &NamespacePath::root()).await.unwrap(), ["ns"]);
        lake.drop_view(&id("ns$v")).await.unwrap();
        assert_eq!(lake.drop_view(&id("ns$v")).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(lake.list_views(&database, None).await.unwrap().is_empty());
    }
}
