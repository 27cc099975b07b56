//! Which functions a statement calls that are none of the engine's: `embed`, and those that users registered.
//!
//! A bare name is the engine's first, so a function that is registered later changes no statement; then one
//! of the scope's namespace. `namespace.name` is always a registered one. Names without quotes are looked for
//! as they are written, then in lower case.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::ScalarUDF;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Statement as Ast, VisitMut, VisitorMut,
};
use lakebed_core::{Error, Result, Subject, TableId, nearest_names};
use lakebed_storage::scalar_functions;

use super::udf::{CallFunction, EMBED};
use super::{CalledFunction, Callees};
use crate::names::Scope;

/// The engine's own functions.
static BUILT_IN: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let state = SessionStateBuilder::new().with_default_features().build();
    let own = ["version", "current_database", "current_catalog", "current_schema", "unnest"];
    let mut names: HashSet<String> = own.map(str::to_owned).into();
    names.extend(scalar_functions().iter().flat_map(|function| {
        let aliases = function.aliases().iter().cloned();
        aliases.chain([function.name().to_owned()]).collect::<Vec<_>>()
    }));
    names.extend(state.scalar_functions().keys().cloned());
    names.extend(state.higher_order_functions().keys().cloned());
    names.extend(state.aggregate_functions().keys().cloned());
    names.extend(state.window_functions().keys().cloned());
    names
});

/// The functions that a statement calls and the engine does not have.
#[derive(Debug, Default)]
pub(crate) struct CallNames {
    names: BTreeSet<Name>,
}

/// The name of a function as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    parts: Vec<String>,
    is_quoted: bool,
}

impl Name {
    fn of(name: &ObjectName) -> Option<Name> {
        let idents = name.0.iter().map(|part| part.as_ident()).collect::<Option<Vec<&Ident>>>()?;
        let is_quoted = idents.last().is_some_and(|ident| ident.quote_style.is_some());
        let parts = idents.into_iter().map(|ident| ident.value.clone()).collect();
        Some(Name { parts, is_quoted })
    }

    fn is(&self, name: &str) -> bool {
        match self.parts.as_slice() {
            [only] if self.is_quoted => only == name,
            [only] => only.to_ascii_lowercase() == name,
            _ => false,
        }
    }

    fn is_built_in(&self) -> bool {
        match self.parts.as_slice() {
            [only] if self.is_quoted => BUILT_IN.contains(only),
            [only] => BUILT_IN.contains(&only.to_ascii_lowercase()),
            _ => false,
        }
    }

    /// What it may mean, the likeliest first.
    fn candidates(&self, scope: &Scope) -> Result<Vec<TableId>> {
        let mut parts = self.parts.clone();
        let named = |parts: &[String]| {
            let idents = parts.iter().map(|part| Ident::with_quote('"', part)).collect::<Vec<_>>();
            scope.table_of(&ObjectName::from(idents))
        };
        let mut found = vec![named(&parts)?];
        if let Some(last) = parts.last_mut()
            && !self.is_quoted
            && last.to_ascii_lowercase() != *last
        {
            last.make_ascii_lowercase();
            found.push(named(&parts)?);
        }
        Ok(found)
    }
}

/// The registered functions that a name may mean, the likeliest first; none where it is the engine's.
///
/// # Errors
/// `InvalidArgument` for a name that is none of a function, and for `embed`.
pub(crate) fn candidates(name: &ObjectName, scope: &Scope) -> Result<Vec<TableId>> {
    match Name::of(name) {
        Some(name) if name.is(EMBED) => Err(Error::invalid(
            "a column of a model is made and filled by a job: `lakebed jobs submit`",
        )),
        Some(name) if !name.is_built_in() => name.candidates(scope),
        Some(_) | None => Ok(Vec::new()),
    }
}

impl CallNames {
    /// Looks through a statement.
    pub(crate) fn of(statement: &mut Ast) -> CallNames {
        let mut names = CallNames::default();
        let _: ControlFlow<()> = statement.visit(&mut names);
        names
    }

    /// The functions with these names, under which the statement has them from here on. `known` has those that
    /// were looked up before, and gets the others; `version_of` says which version is meant, the newest where
    /// it names none, and nothing where a function is not to be found.
    ///
    /// # Errors
    /// `NotFound` naming a function that is not there and those that come near.
    pub(crate) async fn resolve(
        self,
        statement: &mut Ast,
        scope: &Scope,
        callees: &Arc<dyn Callees>,
        known: &mut BTreeMap<TableId, Arc<CalledFunction>>,
        version_of: impl Fn(&TableId) -> Option<Option<u64>>,
    ) -> Result<Vec<Arc<ScalarUDF>>> {
        let mut functions = Vec::new();
        let mut renamed: BTreeMap<Name, String> = BTreeMap::new();
        for name in self.names {
            if name.is(EMBED) {
                functions.push(CallFunction::embed(callees.models()?));
                continue;
            }
            let mut found = None;
            for id in name.candidates(scope)? {
                if !known.contains_key(&id)
                    && let Some(version) = version_of(&id)
                    && let Some(function) = callees.function(&id, version).await?
                {
                    known.insert(id.clone(), Arc::new(function));
                }
                found = known.get(&id).cloned();
                if found.is_some() {
                    break;
                }
            }
            let Some(function) = found else { return Err(unknown(&name, scope, callees).await) };
            let shown = match name.parts.as_slice() {
                [_] => function.id.name.to_string(),
                parts => parts.join("."),
            };
            functions.push(CallFunction::registered(shown.clone(), function));
            renamed.insert(name, shown);
        }
        let mut rename = Rename { names: &renamed };
        let _: ControlFlow<()> = statement.visit(&mut rename);
        Ok(functions)
    }
}

async fn unknown(name: &Name, scope: &Scope, callees: &Arc<dyn Callees>) -> Error {
    let shown: String =
        name.parts.join(".").chars().take(80).flat_map(char::escape_debug).collect();
    let mut names: Vec<String> = Vec::new();
    if let Ok(candidates) = name.candidates(scope)
        && let Some(id) = candidates.first()
    {
        // That they cannot be listed is no better reason than that it is not there.
        names = callees.function_names(&id.database, &id.namespace).await.unwrap_or_default();
    }
    if name.parts.len() == 1 {
        names.push(EMBED.to_owned());
        names.extend(BUILT_IN.iter().cloned());
        names.sort();
    }
    let last = name.parts.last().map_or("", String::as_str);
    let near = nearest_names(last, names.iter().map(String::as_str));
    Error::not_found(format!("function `{shown}` does not exist{near}")).about(Subject::Function)
}

impl VisitorMut for CallNames {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(call) = expr
            && let Some(name) = Name::of(&call.name)
            && !name.is_built_in()
        {
            self.names.insert(name);
        }
        ControlFlow::Continue(())
    }
}

struct Rename<'a> {
    names: &'a BTreeMap<Name, String>,
}

impl VisitorMut for Rename<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(call) = expr
            && let Some(name) = Name::of(&call.name)
            && let Some(shown) = self.names.get(&name)
        {
            call.name = ObjectName::from(vec![Ident::with_quote('"', shown)]);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn names(sql: &str) -> Vec<String> {
        let mut statement = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
        let names = CallNames::of(&mut statement[0]).names;
        names.into_iter().map(|name| name.parts.join(".")).collect()
    }

    #[test]
    fn the_engines_functions_are_its_own() {
        for sql in [
            "SELECT lower(a), COUNT(*), row_number() OVER (), coalesce(a, b), unnest(c) FROM t",
            "SELECT array_distance(a, b), json_get_int(j, 'a'), version(), current_schema() FROM t",
            "SELECT date_trunc('day', a), first_value(b), array_agg(c), struct(a), now() FROM t",
        ] {
            assert_eq!(names(sql), Vec::<String>::new(), "{sql}");
        }
        assert_eq!(
            names(
                "SELECT words(lower(a)), \"Lower\"(b) FROM t WHERE ns.length(a) > 3 OR EMBED('m', a) IS NULL"
            ),
            ["EMBED", "Lower", "ns.length", "words"]
        );
    }
}
