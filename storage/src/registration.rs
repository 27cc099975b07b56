//! Names that are kept for tables whose first version another tool writes, and tables that leave the
//! catalogue or enter it with their folder as it is.
//!
//! ```text
//!   declare ─► name and place ─► another tool writes there ─► first asked for: a table
//!   table ─► deregister ─► a folder that nobody adopts ─► register ─► the same table, under any name
//! ```

use async_recursion::async_recursion as boxed;
use lakebed_core::{DatabaseName, Error, ErrorKind, NamespacePath, Result, TableId};

use crate::catalog::{Entry, is_in};
use crate::lake::Lake;

/// How the folder of a table ends.
const TABLE_ENDING: &str = ".lance";

impl Lake {
    /// Keeps a name for a table and says where its first version is to be written, relative to the lake's
    /// root. The table is there once somebody did.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    #[boxed]
    pub async fn declare_table(&self, id: &TableId) -> Result<String> {
        // Finding it adopts what stands there already.
        self.find_table(id).await?;
        let location = self.free_location(id).await?;
        self.catalog.declare(id, &location).await?;
        Ok(location)
    }

    /// Where the first version of a declared table is to be written; nothing for any other name.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn declared_location(&self, id: &TableId) -> Result<Option<String>> {
        self.catalog.declared(id).await
    }

    /// The declared tables of a namespace, or of the whole database, that have no version yet as far as the
    /// catalogue knows, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_declared(
        &self,
        database: &DatabaseName,
        namespace: Option<&NamespacePath>,
    ) -> Result<Vec<TableId>> {
        let declared = self.catalog.list_declared(database).await?;
        let is_wanted = |id: &TableId| namespace.is_none_or(|namespace| is_in(id, namespace));
        Ok(declared.into_iter().filter(is_wanted).collect())
    }

    /// Takes a table out of the catalogue and leaves its folder as it is; says where that lies, relative to
    /// the lake's root. What changes the table meanwhile is waited for.
    ///
    /// # Errors
    /// `NotFound` when there is no such table, `Busy` when a change of it takes long.
    #[boxed]
    pub async fn deregister_table(&self, id: &TableId) -> Result<String> {
        let table = self.table(id).await?;
        let _quiet = table.stand_down().await?;
        Ok(self.catalog.deregister(id).await?.location)
    }

    /// Enters the dataset in a folder of the lake under a name; says where it lies, relative to the lake's
    /// root. With `replace` a table of that name is deregistered first.
    ///
    /// # Errors
    /// `AlreadyExists` when the name or the folder is a table's, `NotFound` when no dataset lies there,
    /// `Denied` for a place outside of the lake, `InvalidArgument` for one that can be no table's.
    #[boxed]
    pub async fn register_table(
        &self,
        id: &TableId,
        location: &str,
        replace: bool,
    ) -> Result<String> {
        let location = self.place_in_lake(location)?;
        if !self.holds_dataset(&location).await? {
            return Err(Error::not_found(format!("no Lance dataset lies at `{location}`")));
        }
        self.shared.open_dataset(&location, None).await?;
        for database in self.catalog.databases().await? {
            if database != id.database && self.catalog.is_taken(&database, &location).await? {
                let message = format!("`{location}` belongs to database `{database}`");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
        }
        if replace && self.find_table(id).await?.is_some() {
            self.deregister_table(id).await?;
        }
        let uid = uuid::Uuid::now_v7().simple().to_string();
        let entry = Entry { location: location.clone(), uid };
        self.catalog.register(id, entry).await?;
        Ok(location)
    }

    /// A place as clients name it, relative to the lake's root.
    pub(crate) fn place_in_lake(&self, location: &str) -> Result<String> {
        let uri = self.uri_of("");
        let whole = location.strip_prefix("file://").unwrap_or(location);
        let inside =
            [uri.as_str(), "lakebed:///"].into_iter().find_map(|it| whole.strip_prefix(it));
        let relative = inside.unwrap_or(location).trim_end_matches('/');
        if relative.starts_with('/') || relative.contains("://") {
            return Err(Error::new(
                ErrorKind::Denied,
                "a table can be registered only from within the lake: name its folder relative to the \
                 lake's root",
            ));
        }
        let segments: Vec<&str> = relative.split('/').collect();
        let (name, above) = segments.split_last().unwrap_or((&"", &[]));
        let are_names = above.iter().all(|segment| DatabaseName::parse(segment).is_ok());
        // A numbered folder has a `~`, see `catalog.rs`.
        let is_table = name.strip_suffix(TABLE_ENDING).is_some_and(|name| {
            let is_known = |it: char| it.is_ascii_alphanumeric() || "-_.~".contains(it);
            !name.is_empty() && name.chars().all(is_known)
        });
        if above.is_empty() || !are_names || !is_table {
            return Err(Error::invalid(format!(
                "`{}` can be no table's folder, which is called DATABASE/…/NAME.lance",
                relative.chars().take(200).flat_map(char::escape_debug).collect::<String>()
            )));
        }
        Ok(relative.to_owned())
    }
}
