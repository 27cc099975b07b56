//! Functions that users registered: in the catalogue beside the tables, their code beside it.
//!
//! A function has versions, numbered from 1; each is fixed for good, and they go together. Storage keeps
//! what was registered, and knows nothing of what it means: that is for the use cases and for workers. The
//! code lies under `_lakebed/function_code/` by its digest, written before the catalogue names it, so what
//! the catalogue names is always there.

use std::collections::BTreeMap;

use async_recursion::async_recursion as boxed;
use bytes::Bytes;
use lakebed_core::{
    DatabaseName, Error, ErrorKind, NamespacePath, Result, Subject, TableId, nearest_names,
};
use serde::{Deserialize, Serialize};

use crate::catalog::{State, is_in};
use crate::lake::Lake;
use crate::system::SystemStore;

/// A function with its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserFunction {
    /// Differs between a function and a later one of the same name.
    pub uid: String,
    /// The number of the next version.
    next: u64,
    /// What is registered, by version.
    pub versions: BTreeMap<u64, UserFunctionVersion>,
}

/// One version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserFunctionVersion {
    /// `sha256:` and the digest of all that decides its results.
    pub digest: String,
    /// `sha256:` and the digest of its code.
    pub code_digest: String,
    /// What was registered, without the code.
    pub definition: serde_json::Value,
    /// When it was registered, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

impl UserFunction {
    /// The newest version that there is.
    pub fn newest(&self) -> Option<(u64, &UserFunctionVersion)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }
}

impl Lake {
    /// Registers a version of a function, and the function where it is new; returns its number. The same
    /// digest as the newest version's is that version.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn add_function(
        &self,
        id: &TableId,
        version: UserFunctionVersion,
        code: Bytes,
    ) -> Result<(UserFunction, u64)> {
        self.system().put(&code_path(&version.code_digest), code).await?;
        let mut made = None;
        let uid = uuid::Uuid::now_v7().simple().to_string();
        self.catalog
            .change(&id.database, |state| {
                let function = state.functions.entry(id.text()).or_insert_with(|| UserFunction {
                    uid: uid.clone(),
                    next: 1,
                    versions: BTreeMap::new(),
                });
                let number = match function.newest() {
                    Some((number, newest)) if newest.digest == version.digest => number,
                    _ => {
                        let number = function.next;
                        function.versions.insert(number, version.clone());
                        function.next += 1;
                        number
                    }
                };
                made = Some((function.clone(), number));
                state.is_gone = false;
                Ok(())
            })
            .await?;
        made.ok_or_else(|| Error::internal("a function was not registered"))
    }

    /// The function of that name.
    ///
    /// # Errors
    /// `NotFound` naming the nearest functions.
    #[boxed]
    pub async fn function(&self, id: &TableId) -> Result<UserFunction> {
        let (state, _) = self.catalog.state(&id.database).await?;
        let function = state.functions.get(&id.text()).cloned();
        function.ok_or_else(|| no_function(id, &state))
    }

    /// One version of a function.
    ///
    /// # Errors
    /// `NotFound` naming the versions that there are.
    #[boxed]
    pub async fn function_version(
        &self,
        id: &TableId,
        number: u64,
    ) -> Result<(UserFunction, UserFunctionVersion)> {
        let function = self.function(id).await?;
        match function.versions.get(&number).cloned() {
            Some(version) => Ok((function, version)),
            None => {
                let known: Vec<String> = function.versions.keys().map(u64::to_string).collect();
                let known = known.join(", ");
                let message =
                    format!("function `{}` has no version {number}; it has {known}", id.text());
                Err(Error::not_found(message).about(Subject::Function))
            }
        }
    }

    /// The code of a version.
    ///
    /// # Errors
    /// `Corrupt` when it is gone.
    #[boxed]
    pub async fn function_code(&self, code_digest: &str) -> Result<Bytes> {
        let code = self.system().get(&code_path(code_digest)).await?;
        code.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the code {code_digest} is not in the lake"))
        })
    }

    /// The functions of a namespace, sorted by id.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn list_functions(
        &self,
        database: &DatabaseName,
        namespace: &NamespacePath,
    ) -> Result<Vec<(TableId, UserFunction)>> {
        let (state, _) = self.catalog.state(database).await?;
        let mut functions = Vec::new();
        for (text, function) in &state.functions {
            let id = TableId::parse(database, text)?;
            if is_in(&id, namespace) {
                functions.push((id, function.clone()));
            }
        }
        Ok(functions)
    }

    /// Forgets a function with all its versions, if `number` is one of them; returns whether it was. A later
    /// function of the name starts anew. Columns that it computed keep their values.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    #[boxed]
    pub async fn drop_function(&self, id: &TableId, number: u64) -> Result<bool> {
        let mut gone = None;
        // Nothing is written for a name that is none.
        if self.function_version(id, number).await.is_err() {
            return Ok(false);
        }
        self.catalog
            .change(&id.database, |state| {
                let known = state.functions.get(&id.text());
                gone = match known.is_some_and(|known| known.versions.contains_key(&number)) {
                    true => state.functions.remove(&id.text()),
                    false => None,
                };
                Ok(())
            })
            .await?;
        for version in gone.iter().flat_map(|function| function.versions.values()) {
            if !self.is_code_used(&version.code_digest).await? {
                self.system().delete(&code_path(&version.code_digest)).await?;
            }
        }
        Ok(gone.is_some())
    }

    /// Whether any database has a function with this code.
    async fn is_code_used(&self, code_digest: &str) -> Result<bool> {
        for database in self.catalog.databases().await? {
            let (state, _) = self.catalog.state(&database).await?;
            if codes_of(&state).any(|code| code == code_digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The digests of the code of all functions of a database.
pub(crate) fn codes_of(state: &State) -> impl Iterator<Item = &str> {
    let versions = state.functions.values().flat_map(|function| function.versions.values());
    versions.map(|version| version.code_digest.as_str())
}

/// Copies code to the same place of another lake, where it is not there.
///
/// # Errors
/// `Corrupt` when it is gone, `Unavailable` when a store does not answer.
pub(crate) async fn copy_code(from: &SystemStore, to: &SystemStore, digest: &str) -> Result<()> {
    let path = code_path(digest);
    if to.get(&path).await?.is_some() {
        return Ok(());
    }
    let Some(code) = from.get(&path).await? else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the code {digest} is not in the lake"),
        ));
    };
    to.put(&path, code).await
}

fn code_path(digest: &str) -> String {
    format!("function_code/{}", digest.trim_start_matches("sha256:"))
}

fn no_function(id: &TableId, state: &State) -> Error {
    let near = nearest_names(&id.text(), state.functions.keys().map(String::as_str));
    Error::not_found(format!("function `{}` does not exist{near}", id.text()))
        .about(Subject::Function)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_lake::{id, lake};

    fn version(digest: &str) -> UserFunctionVersion {
        UserFunctionVersion {
            digest: digest.to_owned(),
            code_digest: "sha256:c0de".to_owned(),
            definition: serde_json::json!({ "of": digest }),
            created_at_ms: 7,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn versions_are_numbered_and_go_with_their_function() {
        let (lake, _folder) = lake().await;
        let add = async |digest: &str| {
            let code = Bytes::from_static(b"def f(): pass");
            lake.add_function(&id("ns$f"), version(digest), code).await.unwrap().1
        };
        assert_eq!((add("a").await, add("a").await, add("b").await), (1, 1, 2));
        let error = lake.function_version(&id("ns$f"), 3).await.unwrap_err();
        assert!(error.message().contains("it has 1, 2"), "{error}");
        assert_eq!(lake.function_code("sha256:c0de").await.unwrap(), "def f(): pass");
        assert!(!lake.drop_function(&id("ns$f"), 3).await.unwrap());
        assert!(lake.drop_function(&id("ns$f"), 1).await.unwrap());
        assert_eq!(lake.function(&id("ns$f")).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(lake.function_code("sha256:c0de").await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(add("d").await, 1);
    }
}
