//! Updates that wait for their turn beside each other are committed together.
//!
//! ```text
//!   update ─┐
//!   update ─┼─► queue ─► mutation lock ─► each one's rows, one new file a fragment, one version
//!   update ─┘
//! ```
//!
//! It is as if they had come one after the other. So one that reads a column which another of the group
//! assigns, in its predicate or in an expression, waits for the next group; of a cell that several
//! assign, the last one's value counts. Nobody waits on purpose: a group is what gathered while another
//! change of the branch ran, which is what makes a thousand edits of one column cost a few versions.
//! Where the rows of a group cannot be changed, each is done by itself, so that no update fails by
//! another's values.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use arrow_schema::Schema as ArrowSchema;
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lance_core::datatypes::Schema;
use lance_core::{ROW_ADDR, ROW_ID};
use lance_datafusion::planner::Planner;
use tokio::sync::oneshot;

use crate::lance_error::StreamError;
use crate::table::{Branch, Table};
use crate::update::{ColumnUpdate, RowUpdate};

/// Updates of one version. Each is one scan for its rows.
const GROUP_MAX: usize = 256;

/// An update that waits for its turn, and who waits for its rows and version.
pub(crate) struct PendingUpdate {
    update: RowUpdate,
    done: oneshot::Sender<Result<(u64, u64)>>,
}

impl Branch {
    /// Commits an update together with those that wait beside it; how many rows it changed, and the
    /// version. One whose caller goes away before its turn is not done.
    pub(crate) async fn update_with_others(
        self: &Arc<Self>,
        table: &Arc<Table>,
        update: RowUpdate,
    ) -> Result<(u64, u64)> {
        let (done, outcome) = oneshot::channel();
        self.updates.lock().await.push_back(PendingUpdate { update, done });
        let (branch, table) = (Arc::clone(self), Arc::clone(table));
        tokio::spawn(async move { branch.commit_updates(&table).await });
        outcome.await.map_err(|_| Error::internal("the commit task ended without an answer"))?
    }

    async fn commit_updates(self: Arc<Self>, table: &Arc<Table>) {
        let _mutation = self.mutation.lock().await;
        let schema = self.current().await.schema().clone();
        let limits = &table.shared.limits;
        let group = take_group(&mut *self.updates.lock().await, &schema, limits);
        if group.len() > 1 {
            metrics::histogram!("lakebed_commit_group_updates").record(group.len() as f64);
            let updates: Vec<&RowUpdate> = group.iter().map(|it| &it.update).collect();
            match table.update_together(&self, &updates).await {
                Ok((rows, version)) => {
                    for (pending, rows) in group.into_iter().zip(rows) {
                        let _ = pending.done.send(Ok((rows, version)));
                    }
                    return;
                }
                // Nothing was committed, and one of the group may be the reason.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::InvalidArgument | ErrorKind::NotFound | ErrorKind::Conflict
                    ) =>
                {
                    tracing::debug!(error = %error.report(), "a group of updates is taken apart");
                }
                Err(error) => {
                    let error = StreamError::new(&error);
                    for pending in group {
                        let _ = pending.done.send(Err(error.to_error()));
                    }
                    return;
                }
            }
        }
        for PendingUpdate { update, done } in group {
            let outcome = table.update_together(&self, &[&update]).await;
            let outcome = outcome.map(|(rows, version)| (rows.iter().sum(), version));
            let _ = done.send(outcome);
        }
    }
}

/// Takes the first that waits and those behind it that go with it. The task of an earlier one may have
/// taken all.
fn take_group(
    queue: &mut VecDeque<PendingUpdate>,
    schema: &Schema,
    limits: &Limits,
) -> Vec<PendingUpdate> {
    let mut group: Vec<PendingUpdate> = Vec::new();
    let mut assigned: HashSet<String> = HashSet::new();
    while let Some(next) = queue.front() {
        if next.done.is_closed() {
            queue.pop_front();
            continue;
        }
        let facts = Columns::of(schema, &next.update, limits);
        let goes_with = facts.as_ref().is_some_and(|it| it.read.is_disjoint(&assigned));
        if group.len() == GROUP_MAX || !(group.is_empty() || goes_with) {
            break;
        }
        group.extend(queue.pop_front());
        match facts {
            Some(facts) => assigned.extend(facts.assigned),
            // What is not known goes alone.
            None => break,
        }
    }
    group
}

/// The columns of an update.
struct Columns {
    read: HashSet<String>,
    assigned: HashSet<String>,
}

impl Columns {
    /// Nothing where they cannot be told.
    fn of(schema: &Schema, update: &RowUpdate, limits: &Limits) -> Option<Columns> {
        let planned = ColumnUpdate::new(schema, &update.assignments, limits).ok()?;
        let mut read: HashSet<String> = planned.reads().into_iter().collect();
        if let Some(predicate) = &update.predicate {
            let planner = Planner::new(Arc::new(ArrowSchema::from(schema)));
            let expr = planner.parse_filter(predicate).ok()?;
            for path in Planner::column_names_in_expr(&expr) {
                // Rows keep their ids and places.
                if path == ROW_ID || path == ROW_ADDR {
                    continue;
                }
                let is_part =
                    |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
                let mut fields = schema.fields.iter();
                let field = fields.find(|field| field.name == path || is_part(&field.name))?;
                read.insert(field.name.clone());
            }
        }
        let assigned = planned.assigns().map(str::to_owned).collect();
        Some(Columns { read, assigned })
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    fn pending(predicate: &str, column: &str, value: &str) -> PendingUpdate {
        let update = RowUpdate {
            predicate: Some(predicate.to_owned()),
            assignments: vec![(column.to_owned(), value.to_owned())],
        };
        let (done, outcome) = oneshot::channel();
        // Somebody waits for as long as the test runs.
        std::mem::forget(outcome);
        PendingUpdate { update, done }
    }

    #[test]
    fn what_reads_what_another_assigns_waits() {
        let point = Field::new_struct("s", vec![Field::new("x", DataType::Int64, true)], true);
        let schema = ArrowSchema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("label", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            point,
        ]);
        let schema = Schema::try_from(&schema).unwrap();
        let mut queue: VecDeque<PendingUpdate> = [
            ("id = 1", "label", "'a'"),
            ("id = 2 AND s.x > 1", "n", "id + 1"),
            ("_rowid = 3", "label", "'b'"),
            // From here on `n` and `label` are read after they were assigned.
            ("label = 'a'", "id", "5"),
            ("id = 4", "n", "n + 1"),
            ("n > 1", "label", "'c'"),
            ("nope = 1", "label", "'d'"),
            ("id = 1", "label", "'e'"),
        ]
        .into_iter()
        .map(|(predicate, column, value)| pending(predicate, column, value))
        .collect();
        let limits = Limits::default();
        let mut sizes = Vec::new();
        while !queue.is_empty() {
            sizes.push(take_group(&mut queue, &schema, &limits).len());
        }
        assert_eq!(sizes, [3, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn who_went_away_is_left_out() {
        let schema = ArrowSchema::new(vec![Field::new("id", DataType::Int64, true)]);
        let schema = Schema::try_from(&schema).unwrap();
        let mut gone = pending("id = 1", "id", "1");
        gone.done = oneshot::channel().0;
        let mut queue = VecDeque::from([gone, pending("true", "id", "2")]);
        let group = take_group(&mut queue, &schema, &Limits::default());
        assert_eq!(group.len(), 1);
        assert_eq!(group[0].update.predicate.as_deref(), Some("true"));
    }
}
