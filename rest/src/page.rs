//! Pages of a sorted listing. A token is the last name of the page before it: the SDK's listing of
//! tables sends a table's name as its first token, and so every token is "resume after this name".

use lakebed_core::{Error, Result};

/// Entries in an answer that asked for no limit.
const ENTRIES_MAX: usize = 100_000;

/// Which page a request asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageRequest {
    limit: usize,
    after: Option<String>,
}

impl PageRequest {
    /// Checks `limit` and takes the token.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit of 0.
    pub(crate) fn new(limit: Option<u64>, token: Option<&str>) -> Result<Self> {
        if limit == Some(0) {
            return Err(Error::invalid("`limit` is 0; it has to be at least 1"));
        }
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(ENTRIES_MAX);
        let after = token.filter(|token| !token.is_empty()).map(str::to_owned);
        Ok(PageRequest { limit: limit.min(ENTRIES_MAX), after })
    }

    /// The page of `entries`, which `name` names in ascending order, and the token of the next
    /// page.
    pub(crate) fn cut<T>(
        &self,
        entries: Vec<T>,
        name: impl Fn(&T) -> &str,
    ) -> (Vec<T>, Option<String>) {
        let after = self.after.as_deref();
        let mut rest =
            entries.into_iter().skip_while(|entry| after.is_some_and(|after| name(entry) <= after));
        let page: Vec<T> = rest.by_ref().take(self.limit).collect();
        let token = match rest.next() {
            Some(_) => page.last().map(|last| name(last).to_owned()),
            None => None,
        };
        (page, token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_together_are_the_listing_once() {
        let names: Vec<String> = (0..7).map(|n| format!("t{n}")).collect();
        let (mut token, mut seen) = (None::<String>, Vec::new());
        loop {
            let request = PageRequest::new(Some(3), token.as_deref()).unwrap();
            let (page, next) = request.cut(names.clone(), |name| name);
            seen.extend(page);
            match next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, names);
    }

    #[test]
    fn a_token_that_names_nothing_resumes_after_its_place() {
        let request = PageRequest::new(None, Some("b")).unwrap();
        let (page, next) = request.cut(vec!["a", "c"], |name| name);
        assert_eq!((page, next), (vec!["c"], None));
        assert!(PageRequest::new(Some(0), None).is_err());
    }
}
