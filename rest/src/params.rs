//! The query string of a request, read strictly.

use axum::extract::FromRequestParts;
use http::request::Parts;
use lakebed_core::{Error, Result};

use crate::error::ApiError;

/// Spec clients add it to every request; it says how the segments of an id are joined.
const DELIMITER: &str = "delimiter";

/// The pairs of a query string, percent-decoded, as they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Reads a query string.
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = form_pairs(query);
        Params { pairs }
    }

    /// Refuses a parameter that is neither in `known` nor without meaning: empty, `false` or
    /// `null`; and one that is given twice.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter.
    pub(crate) fn only(&self, known: &[&str]) -> Result<&Self> {
        for (at, (name, value)) in self.pairs.iter().enumerate() {
            let is_known = name == DELIMITER || known.contains(&name.as_str());
            if !is_known && !matches!(value.as_str(), "" | "false" | "null") {
                return Err(Error::invalid(format!(
                    "query parameter `{}` is not understood",
                    shown(name)
                )));
            }
            if is_known && self.pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::invalid(format!("query parameter `{name}` is given twice")));
            }
        }
        Ok(self)
    }

    /// As [`Params::only`], and lets `list` be given any number of times.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter.
    pub(crate) fn only_with_list(&self, known: &[&str], list: &str) -> Result<&Self> {
        let others = self.pairs.iter().filter(|(name, _)| name != list).cloned().collect();
        Params { pairs: others }.only(known)?;
        Ok(self)
    }

    /// Every value of `name`.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let given = self.pairs.iter().filter(|(given, value)| given == name && !value.is_empty());
        given.map(|(_, value)| value.clone()).collect()
    }

    /// The value of `name`, unless it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// The value of `name` as a number.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter when it is no whole number from 0 on.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>> {
        self.text(name)
            .filter(|value| *value != "null")
            .map(|value| {
                value.parse().map_err(|_| {
                    Error::invalid(format!(
                        "query parameter `{name}` is `{}`, not a whole number",
                        shown(value)
                    ))
                })
            })
            .transpose()
    }

    /// The value of `name` as a boolean; false when absent.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.text(name) {
            None | Some("false" | "null") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Error::invalid(format!(
                "query parameter `{name}` is `{}`, not `true` or `false`",
                shown(other)
            ))),
        }
    }

    /// What joins the segments of an id: `$` unless the request says otherwise.
    pub(crate) fn delimiter(&self) -> &str {
        self.text(DELIMITER).unwrap_or("$")
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Params::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// A text from a request as it may stand in a message: short and without control characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn form_pairs(query: &str) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named_unless_it_says_nothing() {
        let params = Params::parse("limit=5&delimiter=%24&declared=false&x=");
        assert!(params.only(&["limit"]).is_ok());
        let error = params.only(&[]).unwrap_err();
        assert!(error.message().contains("`limit`"), "{error}");
        assert!(Params::parse("limit=1&limit=2").only(&["limit"]).is_err());
    }

    #[test]
    fn values_are_decoded_and_checked() {
        let params = Params::parse("page_token=a%2Fb+c&limit=x&n=7&null=null&deep=true");
        assert_eq!(params.text("page_token"), Some("a/b c"));
        assert_eq!(params.number("n").unwrap(), Some(7));
        assert_eq!(params.number("null").unwrap(), None);
        assert!(params.number("limit").unwrap_err().message().contains("limit"));
        assert!(params.flag("deep").unwrap());
        assert!(params.flag("n").is_err());
        assert_eq!(params.delimiter(), "$");
    }
}
