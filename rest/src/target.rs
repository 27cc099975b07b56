//! The table or namespace that a path names.
//!
//! A path is split before it is decoded, so `%2F` never makes a segment of its own and `%24` is
//! `$`.

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use lakebed_core::{Error, NamespacePath, RequestContext, Result, TableId};

use crate::caller::{Caller, is_catalog_mode};
use crate::error::ApiError;
use crate::params::{Params, shown};
use crate::{Door, SameMachine};

/// How a client says that it means the root namespace.
const ROOT: &str = "$";

/// Where a request is aimed at: who asks, the path's parameters, and the query string.
#[derive(Debug)]
pub(crate) struct Target {
    ctx: RequestContext,
    path: Vec<(String, String)>,
    params: Params,
    slash: bool,
    catalog: bool,
    same_machine: bool,
}

impl FromRequestParts<Door> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, door: &Door) -> Result<Self, ApiError> {
        let Caller(ctx) = Caller::from_request_parts(parts, door).await?;
        let Ok(path) = RawPathParams::from_request_parts(parts, &()).await else {
            return Err(Error::invalid("the path is not UTF-8 after decoding").into());
        };
        Ok(Target {
            ctx,
            path: path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            params: Params::parse(parts.uri.query().unwrap_or_default()),
            slash: parts.uri.path().ends_with('/'),
            catalog: is_catalog_mode(&parts.headers),
            same_machine: parts.extensions.get::<SameMachine>().is_some(),
        })
    }
}

impl Target {
    /// The context of the request.
    pub(crate) fn ctx(&self) -> &RequestContext {
        &self.ctx
    }

    /// Whether the path ended in a slash: the LanceDB SDKs end theirs so, clients of the Namespace
    /// specification do not, and a few answers differ between the two.
    pub(crate) fn is_sdk(&self) -> bool {
        self.slash
    }

    /// Whether the client is on the machine of the server.
    pub(crate) fn is_same_machine(&self) -> bool {
        self.same_machine
    }

    /// Whether root namespaces stand for databases: a LanceDB SDK that chose none.
    pub(crate) fn is_catalog(&self) -> bool {
        self.catalog
    }

    /// The branch that a request names in its body or its query string; main is none.
    ///
    /// # Errors
    /// `InvalidArgument` when both name one and not the same.
    pub(crate) fn branch<'a>(&'a self, in_body: Option<&'a str>) -> Result<Option<&'a str>> {
        let in_body = in_body.filter(|branch| !branch.is_empty());
        match (in_body, self.params.text("branch")) {
            (Some(body), Some(query)) if body != query => Err(Error::invalid(format!(
                "the body names branch `{}` and the query string `{}`",
                shown(body),
                shown(query)
            ))),
            (branch, other) => Ok(branch.or(other).filter(|branch| *branch != "main")),
        }
    }

    /// The query string, once it is sure that nothing but `known` is in it.
    ///
    /// # Errors
    /// `InvalidArgument` naming a parameter that is not understood.
    pub(crate) fn params(&self, known: &[&str]) -> Result<&Params> {
        self.params.only(known)
    }

    /// As [`Target::params`], and lets `list` be given any number of times.
    ///
    /// # Errors
    /// `InvalidArgument` naming a parameter that is not understood.
    pub(crate) fn params_with_list(&self, known: &[&str], list: &str) -> Result<&Params> {
        self.params.only_with_list(known, list)
    }

    /// A parameter of the path, decoded.
    ///
    /// # Errors
    /// `Internal` when the route has no such parameter.
    pub(crate) fn path(&self, name: &str) -> Result<&str> {
        self.path
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| Error::internal(format!("the route has no parameter `{name}`")))
    }

    /// A parameter of the path as a number.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter.
    pub(crate) fn path_number(&self, name: &str) -> Result<u64> {
        let text = self.path(name)?;
        text.parse().map_err(|_| {
            Error::invalid(format!("`{}` in the path is not a whole {name}", shown(text)))
        })
    }

    /// The table that `{id}` names.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules.
    pub(crate) fn table(&self) -> Result<TableId> {
        TableId::from_segments(&self.ctx.database, &self.segments()?)
    }

    /// The namespace that `{id}` names; the delimiter alone is the root.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that breaks the rules.
    pub(crate) fn namespace(&self) -> Result<NamespacePath> {
        if self.is_root()? {
            return Ok(NamespacePath::root());
        }
        NamespacePath::parse(&self.segments()?)
    }

    /// Refuses a body that repeats the id with another value.
    ///
    /// # Errors
    /// `InvalidArgument` naming both.
    pub(crate) fn check_id(&self, in_body: Option<&[String]>) -> Result<()> {
        let in_path = self.path("id")?;
        match in_body.filter(|in_body| !in_body.is_empty()) {
            // Compared as one text: DuckDB sends the whole id as one segment.
            Some(in_body) if in_body.join(self.params.delimiter()) != in_path => {
                Err(Error::invalid(format!(
                    "the body's id `{}` is not the path's `{}`",
                    shown(&in_body.join(self.params.delimiter())),
                    shown(in_path)
                )))
            }
            _ => Ok(()),
        }
    }

    /// As [`Target::check_id`], for a route of namespaces: the root is an empty list.
    ///
    /// # Errors
    /// `InvalidArgument` naming both.
    pub(crate) fn check_namespace_id(&self, in_body: Option<&[String]>) -> Result<()> {
        match self.is_root()? {
            true if in_body.is_none_or(<[String]>::is_empty) => Ok(()),
            _ => self.check_id(in_body),
        }
    }

    /// Whether `{id}` is the root namespace: the delimiter alone.
    ///
    /// # Errors
    /// `Internal` when the route has no id.
    pub(crate) fn is_root(&self) -> Result<bool> {
        let id = self.path("id")?;
        Ok(id == ROOT || id == self.params.delimiter())
    }

    /// The parts of `{id}`.
    ///
    /// # Errors
    /// `Internal` when the route has no id.
    pub(crate) fn segments(&self) -> Result<Vec<&str>> {
        Ok(self.path("id")?.split(self.params.delimiter()).collect())
    }
}

#[cfg(test)]
mod tests {
    use lakebed_core::{DatabaseName, Principal};

    use super::*;

    fn target(id: &str, query: &str) -> Target {
        let ctx = RequestContext {
            principal: Principal::anonymous(),
            request_id: "r".to_owned(),
            database: DatabaseName::default_database(),
            freshness: lakebed_core::Freshness::default(),
        };
        let path = vec![("id".to_owned(), id.to_owned()), ("row_id".to_owned(), "x".to_owned())];
        let params = Params::parse(query);
        Target { ctx, path, params, slash: false, catalog: false, same_machine: false }
    }

    #[test]
    fn ids_are_joined_by_the_delimiter_of_the_request() {
        assert_eq!(target("a$b", "").table().unwrap().text(), "a$b");
        assert_eq!(target("a::b", "delimiter=%3A%3A").table().unwrap().text(), "a$b");
        assert!(target("a/b", "").table().is_err());
        assert!(target("$", "").namespace().unwrap().is_root());
        assert!(target(".", "delimiter=.").namespace().unwrap().is_root());
        assert_eq!(target("a$b", "").namespace().unwrap().to_string(), "a$b");
    }

    #[test]
    fn an_id_in_the_body_must_agree() {
        let target = target("a$b", "");
        assert!(target.check_id(None).is_ok());
        assert!(target.check_id(Some(&["a".to_owned(), "b".to_owned()])).is_ok());
        let error = target.check_id(Some(&["a".to_owned(), "c".to_owned()])).unwrap_err();
        assert!(error.message().contains("a$c") && error.message().contains("a$b"), "{error}");
        assert!(target.path_number("row_id").unwrap_err().message().contains("row_id"));
    }
}
