//! Branches: created, listed, compared with their parent, merged into it, deleted.

use lakebed_core::{BranchName, RequestContext, Result, Role, TableId};

use crate::Service;
use crate::audit::AuditLine;
use crate::authenticate::require;

pub use lakebed_storage::{
    BranchConflict, BranchDiff, BranchEntry, BranchMerge, ColumnChange, MergeSides, MergedBranch,
    RowChange, RowCounts,
};

/// A branch beside its parent.
#[derive(Debug, Clone)]
pub struct ComparedBranch {
    /// How they differ.
    pub diff: BranchDiff,
    /// Indexes of the parent's newest version.
    pub parent_indexes: Vec<lakebed_storage::IndexSummary>,
    /// Indexes of the branch's newest version.
    pub branch_indexes: Vec<lakebed_storage::IndexSummary>,
}

impl Service {
    /// Creates a branch that begins with a version of another, the newest where none is given. Returns
    /// the number of its first version.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `NotFound` naming table, branch or version.
    pub async fn create_branch(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &BranchName,
        from: Option<&str>,
        version: Option<u64>,
    ) -> Result<u64> {
        let verb = "create_branch";
        self.permit(ctx, Role::Write, verb, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.fresh_table(ctx, table, from).await {
            Ok(handle) => handle.create_branch(name, from, version).await,
            Err(error) => Err(error),
        };
        self.note_branch(ctx, verb, table, name, outcome.as_ref().ok().copied(), &outcome);
        outcome
    }

    /// The branches of a table but main, sorted by name.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    pub async fn list_branches(
        &self,
        ctx: &RequestContext,
        table: &TableId,
    ) -> Result<Vec<BranchEntry>> {
        require(ctx, Role::Read)?;
        self.lake.table(table).await?.list_branches().await
    }

    /// Deletes a branch with all versions that are only its own.
    ///
    /// # Errors
    /// `NotFound` naming table or branch; `Conflict` naming what needs it.
    pub async fn delete_branch(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &BranchName,
    ) -> Result<()> {
        let verb = "delete_branch";
        self.permit(ctx, Role::Write, verb, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let outcome = match self.lake.table(table).await {
            Ok(handle) => handle.delete_branch(name).await,
            Err(error) => Err(error),
        };
        self.note_branch(ctx, verb, table, name, None, &outcome);
        outcome
    }

    /// Compares a branch with the branch that it began on; names up to `samples` rows and conflicts.
    ///
    /// # Errors
    /// `NotFound` naming table or branch; `InvalidArgument` when rows have no stable ids.
    pub async fn diff_branch(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &BranchName,
        samples: usize,
    ) -> Result<ComparedBranch> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        let handle = self.fresh_table(ctx, table, None).await?;
        let diff = handle.diff_branch(name, samples).await?;
        let indexes = async |branch: Option<&str>| {
            let latest = lakebed_storage::At::Latest;
            handle.snapshot(branch, &latest).await?.indexes().await
        };
        Ok(ComparedBranch {
            parent_indexes: indexes(diff.parent.as_deref()).await?,
            branch_indexes: indexes(Some(name.as_str())).await?,
            diff,
        })
    }

    /// Merges a branch into the branch that it began on.
    ///
    /// # Errors
    /// `NotFound` naming table or branch; `Conflict` when the parent moved on and only a fast forward was
    /// asked for, or when an earlier state of the branch was merged.
    pub async fn merge_branch(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        name: &BranchName,
        merge: BranchMerge,
    ) -> Result<MergedBranch> {
        let verb = "merge_branch";
        self.permit(ctx, Role::Write, verb, Some(&table.to_string()))?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        let is_dry_run = merge.is_dry_run;
        let outcome = match self.fresh_table(ctx, table, None).await {
            Ok(handle) => handle.merge_branch(name, merge).await,
            Err(error) => Err(error),
        };
        if !is_dry_run {
            let version = outcome.as_ref().ok().and_then(|merged| merged.version);
            self.note_branch(ctx, verb, table, name, version, &outcome);
        }
        outcome
    }

    fn note_branch<T>(
        &self,
        ctx: &RequestContext,
        verb: &'static str,
        table: &TableId,
        name: &BranchName,
        version: Option<u64>,
        outcome: &Result<T>,
    ) {
        let mut line = AuditLine::new(ctx, verb).outcome(outcome);
        line.table = Some(table.to_string());
        line.subject = Some(name.to_string());
        line.version = version;
        self.audit.record(line);
    }
}
