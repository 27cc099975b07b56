//! Find things of the catalogue by words.
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lakebed_core::{Error, ErrorKind, RequestContext, Result, Role};
use lakebed_index::catalogue::{Find, Hit, Kind};
use serde_json::{Value, json};

use crate::Service;
use crate::authenticate::require;

/// Hits of an answer that says no number.
const LIMIT_DEFAULT: usize = 20;

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FindThings {
    /// Words, as far as they are typed.
    pub text: String,
    /// Only these kinds, by their names; all when empty.
    pub kinds: Vec<String>,
    /// Hits at most.
    pub limit: Option<usize>,
}

impl Service {
    /// Finds things of the request's database, and of those that belong to the whole lake, by names, columns,
    /// tags, owners and descriptions: what the caller could list. Best first, as JSON.
    ///
    /// # Errors
    /// `InvalidArgument` for a text without words, or a kind that is none; `NotImplemented` where it is switched
    /// off.
    pub async fn find_things(&self, ctx: &RequestContext, asked: FindThings) -> Result<Value> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        if self.catalogue.is_off.load(Ordering::Relaxed) {
            let message = "the search over the catalogue is switched off: `catalogue_search`";
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
        let _request = self.admission.admit_request().await?;
        let kinds = asked.kinds.iter().map(|name| kind(name)).collect::<Result<Vec<Kind>>>()?;
        let find = Find {
            text: asked.text,
            database: ctx.database.to_string(),
            kinds,
            limit: asked.limit.unwrap_or(LIMIT_DEFAULT),
        };
        let is_building = !self.catalogue.is_whole(&ctx.database)
            && self.lake.list_databases().await?.contains(&ctx.database);
        let catalogue = Arc::clone(&self.catalogue);
        let found = tokio::task::spawn_blocking(move || catalogue.index.find(&find)).await;
        let found =
            found.map_err(|error| Error::internal("search the catalogue").with_source(error))??;
        let is_full = self.catalogue.is_full.load(Ordering::Relaxed);
        Ok(json!({
            "hits": found.hits.iter().map(hit_json).collect::<Vec<Value>>(),
            "found": found.count,
            "building": is_building,
            "complete": !is_building && !is_full,
        }))
    }
}

fn kind(name: &str) -> Result<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        let known = Kind::ALL.map(Kind::name).join("`, `");
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Error::invalid(format!("kind `{shown}` is none of `{known}`"))
    })
}

fn hit_json(hit: &Hit) -> Value {
    let thing = &hit.thing;
    let mut json = json!({
        "kind": thing.kind.name(),
        "database": thing.database,
        "name": thing.name,
        "matched_in": hit.matched_in,
        "score": hit.score,
    });
    let texts = [
        ("of", thing.of.as_deref().unwrap_or_default()),
        ("fragment", hit.fragment.as_deref().unwrap_or_default()),
        ("owner", &thing.owner),
        ("description", &thing.description),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        json[name] = text.into();
    }
    json
}
