//! Filling the fragments of a job whose rows are all done, from the results that are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use lakebed_core::{Error, Result};
use lakebed_storage::{BatchStream, FragmentValues, Table};
use roaring::RoaringBitmap;

use crate::drive::{WAIT_FIRST, WAIT_MAX, passes};
use crate::error_rows::{ErrorRow, note_errors};
use crate::ids::RowRange;
use crate::ledger::Record;
use crate::parts::{self, RowError};
use crate::pass::{Pass, PassFragment};
use crate::results::ResultsCache;
use crate::runtime::{ColumnJobs, Ended, EndedRows, Running};
use crate::work::Work;

impl ColumnJobs {
    /// Fills the fragments of groups, however often it takes; returns the groups that moved.
    pub(crate) async fn fill_groups(
        &self,
        run: &Arc<Running>,
        table: &Arc<Table>,
        pass: &Arc<Pass>,
        groups: &[u32],
    ) -> Result<Vec<u32>> {
        let mut wait = WAIT_FIRST;
        loop {
            match self.try_fill(run, table, pass, groups).await {
                Err(error) if passes(&error) => {
                    tracing::warn!(job_id = %run.id, error = %error.report(), "a fill is tried again");
                    run.state().waits_for = Some(error.message().to_owned());
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
                outcome => {
                    run.state().waits_for = None;
                    return outcome;
                }
            }
        }
    }

    async fn try_fill(
        &self,
        run: &Arc<Running>,
        table: &Arc<Table>,
        pass: &Arc<Pass>,
        groups: &[u32],
    ) -> Result<Vec<u32>> {
        let (mut fragments, mut errors) = (Vec::new(), BTreeMap::new());
        for group in groups {
            let fragment = pass.group(*group).ok_or_else(|| Error::internal("a lost group"))?;
            let (values, of_group) = self.values_of(run, pass, fragment).await?;
            errors.insert(*group, of_group);
            fragments.push(values);
        }
        let (outputs, inputs) = (run.spec.work.output_names(), run.spec.work.input_names());
        let table = self.lake.insist(table).await?;
        let filled = table.fill_columns(None, &outputs, &inputs, fragments).await?;
        let is_filled = |group: &&u32| {
            pass.group(**group).is_some_and(|it| filled.filled.contains(&it.planned.fragment))
        };
        let (done, moved): (Vec<u32>, Vec<u32>) = groups.iter().partition(is_filled);
        // Those of rows that moved are made again with their rows.
        let mut count = 0;
        for group in &done {
            let rows = errors.remove(group).unwrap_or_default();
            count += rows.len() as u64;
            let write_id = format!("{}-{group}-errors", run.id);
            note_errors(&self.lake, &run.database, rows, write_id, self.clock.now_ms()).await?;
        }
        let rows = |groups: &[u32]| -> u64 {
            let of = |group: &u32| pass.group(*group).map_or(0, |it| it.planned.places.len());
            groups.iter().map(of).sum()
        };
        let mut records = Vec::new();
        if !done.is_empty() {
            records.push(Record::Filled {
                groups: done.clone(),
                version: filled.version,
                rows: rows(&done),
                errors: count,
            });
        }
        if !moved.is_empty() {
            records.push(Record::Moved { groups: moved.clone() });
        }
        run.ledger.append(&records).await?;
        metrics::counter!("lakebed_job_conflicts_total").increment(moved.len() as u64);
        let mut ended = Vec::new();
        {
            let mut state = run.state();
            state.conflicts += moved.len() as u64;
            state.version = filled.version.or(state.version);
            // They are counted again with the next pass.
            state.rows_done = state.rows_done.saturating_sub(rows(&moved));
            let lost: usize = errors.values().map(Vec::len).sum();
            state.errors = state.errors.saturating_sub(lost as u64);
            for fragment in groups.iter().filter_map(|group| pass.group(*group)) {
                let mut of_group = state.ended.split_off(&fragment.first);
                state.ended.append(&mut of_group.split_off(&fragment.end));
                for rows in of_group.into_values() {
                    if let Ended::Part(attempt) = rows.how {
                        ended.push((attempt, rows.errors));
                    }
                }
            }
        }
        // What stays, such as the results in segments of the ledger, goes with the job's folder.
        for (attempt, errors) in ended {
            let _ = self.system.delete(&parts::path_of(&attempt, errors)).await;
        }
        Ok(moved)
    }

    /// What a fragment is filled with, and the rows that have an error instead.
    async fn values_of(
        &self,
        run: &Arc<Running>,
        pass: &Arc<Pass>,
        fragment: &PassFragment,
    ) -> Result<(FragmentValues, Vec<ErrorRow>)> {
        let (mut places, mut found, mut errors) = (RoaringBitmap::new(), Vec::new(), Vec::new());
        let outputs = run.spec.work.output_names();
        let function = match &run.spec.work {
            Work::Function(work) => Some((work.function.id.clone(), work.function.version)),
            Work::Model(_) => None,
        };
        let error_row = |row_id, place, error: RowError| ErrorRow {
            job_id: run.id.to_string(),
            table: run.table.clone(),
            column: outputs.join(","),
            row_id,
            version: pass.snapshot.version(),
            fragment: fragment.planned.fragment,
            place,
            function: function.clone(),
            error,
        };
        let ended: Vec<(u64, EndedRows)> = {
            let state = run.state();
            let of_group = state.ended.range(fragment.first..fragment.end);
            of_group.map(|(first, rows)| (*first, rows.clone())).collect()
        };
        let results = Arc::new(ResultsCache::new(Arc::clone(run), self.system.clone()));
        let mut next = fragment.first;
        for (first, EndedRows { end, errors: count, how }) in ended {
            if first != next {
                return Err(Error::internal("rows of a whole group are open"));
            }
            next = end;
            if let Ended::GivenUp(error) = how {
                for (place, row_id) in pass.rows_of(RowRange::new(first, end - first)).await? {
                    let error = RowError { error: error.clone(), ..RowError::default() };
                    errors.push(error_row(row_id, place, error));
                }
                continue;
            }
            places |= pass.places_of(fragment, first, end)?;
            let rows = end - first;
            if count > 0 {
                let part = results.of(&how, rows, count).await?;
                for (place, row_id, error) in parts::errors_in(&part)? {
                    errors.push(error_row(row_id, place, error));
                }
            }
            found.push((how, rows, count));
        }
        if next != fragment.end {
            return Err(Error::internal("the last rows of a whole group are open"));
        }
        let values = futures::stream::iter(found).then(move |(how, rows, count)| {
            let (results, outputs) = (Arc::clone(&results), outputs.clone());
            async move { parts::values_in(&results.of(&how, rows, count).await?, &outputs) }
        });
        let values: BatchStream = values.boxed();
        Ok((
            FragmentValues {
                fragment: fragment.planned.fragment,
                source_files: fragment.planned.source_files.clone(),
                places,
                values,
                write_id: format!("{}-{}", run.id, fragment.group),
            },
            errors,
        ))
    }
}
