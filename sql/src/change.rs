//! What a statement that changes tables asks for.
//!
//! A change is only understood here: names become tables of the lake, columns become a schema, rows to be
//! written become a planned query, and the expressions of UPDATE and DELETE become text of storage's own
//! dialect. The use cases carry it out with the verbs that every other door uses.
//!
//! What always holds: a clause that is not acted on is refused by name.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use datafusion::sql::sqlparser::ast::{
    self, AlterTable, AlterTableOperation, CreateTable, Ident, Insert, ObjectName, ObjectNamePart,
    ObjectType, RenameTableNameKind, Statement as Ast, TableObject,
};
use lakebed_core::{Error, ErrorKind, Result, Subject, TableId, nearest_names};
use lakebed_storage::{At, MergeRule};

use crate::calls::has_calls;
use crate::computed::{KeptColumn, kept_column};
use crate::engine::Sql;
use crate::error::from_datafusion;
use crate::expression::{self, Bound};
use crate::history::HistoryChange;
use crate::json_columns;
use crate::materialized::refreshed;
use crate::merge::{self, Understood};
use crate::names::Scope;
use crate::parse::Statement;
use crate::plan::{PlannedQuery, parameters_of};
use crate::primary_key;

/// Marks the name of a table that rows go to, so that it can be read from in the same statement.
pub(crate) const TARGET: &str = " (target)";

/// What to do where a table that is to be made exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    /// It is an error.
    Fail,
    /// Nothing.
    Keep,
    /// Its rows and columns are replaced, in a new version.
    Replace,
}

impl IfExists {
    /// What `OR REPLACE` and `IF NOT EXISTS` say.
    ///
    /// # Errors
    /// `InvalidArgument` where both are given.
    pub(crate) fn of(or_replace: bool, if_not_exists: bool) -> Result<IfExists> {
        match (or_replace, if_not_exists) {
            (true, true) => {
                Err(Error::invalid("OR REPLACE and IF NOT EXISTS contradict each other"))
            }
            (true, false) => Ok(IfExists::Replace),
            (false, true) => Ok(IfExists::Keep),
            (false, false) => Ok(IfExists::Fail),
        }
    }
}

/// A change, with everything resolved.
#[derive(Debug)]
pub enum Change {
    /// Make a table, of rows where there are some.
    CreateTable {
        /// The table.
        table: TableId,
        /// Its columns.
        schema: SchemaRef,
        /// Its rows.
        rows: Option<Box<PlannedQuery>>,
        /// What to do where it exists.
        if_exists: IfExists,
    },
    /// Append rows.
    Insert {
        /// The table.
        table: TableId,
        /// The rows, with every column of the table.
        rows: Box<PlannedQuery>,
    },
    /// Change cells.
    Update {
        /// The table.
        table: TableId,
        /// Columns and the expressions that give their values.
        sets: Vec<(String, String)>,
        /// Which rows.
        predicate: Option<String>,
    },
    /// Update rows, insert others, and delete those that the source has not.
    Merge {
        /// The table.
        table: TableId,
        /// The key columns.
        on: Vec<String>,
        /// What happens to which rows.
        rule: MergeRule,
        /// The keys, and what is written.
        rows: Box<PlannedQuery>,
    },
    /// Delete rows.
    Delete {
        /// The table.
        table: TableId,
        /// Which rows.
        predicate: Option<String>,
    },
    /// Drop tables.
    DropTables {
        /// The tables.
        tables: Vec<TableId>,
        /// Whether one that does not exist is no error.
        if_exists: bool,
    },
    /// Make a view.
    CreateView {
        /// The view.
        view: TableId,
        /// Its text.
        query: String,
        /// Where the names of the text are looked for.
        scope: Scope,
        /// What to do where it exists.
        if_exists: IfExists,
    },
    /// Make a materialized view.
    CreateMaterializedView {
        /// The view.
        view: TableId,
        /// Its text.
        query: String,
        /// Where the name of its table is looked for.
        scope: Scope,
        /// Whether it is filled at once.
        fill: bool,
        /// Whether one that exists is no error.
        if_not_exists: bool,
    },
    /// Refresh a materialized view.
    RefreshMaterializedView {
        /// The view.
        view: TableId,
        /// Whether all its rows are replaced.
        full: bool,
    },
    /// Drop materialized views.
    DropMaterializedViews {
        /// The views.
        views: Vec<TableId>,
        /// Whether one that does not exist is no error.
        if_exists: bool,
    },
    /// Drop views.
    DropViews {
        /// The views.
        views: Vec<TableId>,
        /// Whether one that does not exist is no error.
        if_exists: bool,
    },
    /// Add a column that is kept computed.
    KeepComputed {
        /// The table.
        table: TableId,
        /// The column.
        column: KeptColumn,
    },
    /// Begin to fill a computed column.
    Refresh {
        /// The table.
        table: TableId,
        /// The column.
        column: String,
    },
    /// Change the tags of a table, or restore a version of it.
    History {
        /// The table.
        table: TableId,
        /// What is done.
        change: HistoryChange,
    },
    /// Give a table another name.
    RenameTable {
        /// Its name.
        from: TableId,
        /// Its new name.
        to: TableId,
    },
    /// Add columns of nulls.
    AddColumns {
        /// The table.
        table: TableId,
        /// The columns.
        schema: SchemaRef,
    },
    /// Add columns whose values are computed now.
    AddComputedColumns {
        /// The table.
        table: TableId,
        /// Columns and the expressions that give their values.
        columns: Vec<(String, String)>,
    },
    /// Change a column.
    AlterColumn {
        /// The table.
        table: TableId,
        /// The column.
        column: String,
        /// Its new name.
        rename: Option<String>,
        /// Its new type.
        data_type: Option<DataType>,
        /// Whether it allows null from now on.
        nullable: Option<bool>,
    },
    /// Drop columns.
    DropColumns {
        /// The table.
        table: TableId,
        /// The columns.
        columns: Vec<String>,
    },
}

impl Sql {
    /// The parameters of a change, in their order.
    ///
    /// # Errors
    /// As [`Sql::plan_changes`].
    pub async fn change_parameters(
        &self,
        scope: &Scope,
        statement: &Statement,
    ) -> Result<Vec<FieldRef>> {
        let tree = statement.tree.clone();
        match syntax(&tree) {
            Some(Ast::Insert(insert)) => {
                let (_, tree, target) = self.insert_tree(scope, insert).await?;
                let planned = self.plan_tree(scope, tree, None, Some(target)).await?;
                parameters_of(&planned.plan)
            }
            Some(Ast::CreateTable(create)) => match &create.query {
                Some(query) => {
                    let tree = query_tree(query);
                    let planned = self.plan_tree(scope, tree, None, None).await?;
                    parameters_of(&planned.plan)
                }
                None => Ok(Vec::new()),
            },
            Some(Ast::Merge(merge)) => {
                let merge = self.understood(scope, merge, &Bound::default()).await?;
                parameters_of(&self.merged_rows(scope, &merge).await?.plan)
            }
            Some(Ast::Update(_) | Ast::Delete(_)) => {
                let planned = self.plan_tree(scope, tree, None, None).await?;
                parameters_of(&planned.plan)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Understands a change, once for each row of `parameters`; once without.
    ///
    /// # Errors
    /// `InvalidArgument` or `NotFound` for what does not fit together, `NotImplemented` naming the clause
    /// that is not built.
    pub async fn plan_changes(
        &self,
        scope: &Scope,
        statement: &Statement,
        parameters: Option<&RecordBatch>,
    ) -> Result<Vec<Change>> {
        let tree = &statement.tree;
        let Some(ast) = syntax(tree) else {
            return Err(Error::internal("a change has no syntax tree"));
        };
        if let Ast::Insert(insert) = ast {
            return self.insert(scope, insert, parameters).await.map(|change| vec![change]);
        }
        let rows = parameters.map_or(1, RecordBatch::num_rows);
        let mut changes = Vec::with_capacity(rows);
        for row in 0..rows {
            let bound = match parameters {
                Some(batch) => Bound::row(batch, row)?,
                None => Bound::default(),
            };
            changes.push(self.plan_change(scope, statement, ast, &bound).await?);
        }
        Ok(changes)
    }

    async fn plan_change(
        &self,
        scope: &Scope,
        statement: &Statement,
        ast: &Ast,
        bound: &Bound,
    ) -> Result<Change> {
        match ast {
            Ast::CreateTable(create) => self.create_table(scope, create, bound).await,
            Ast::Update(update) => {
                // Planned first: the engine knows columns and types better than storage's dialect.
                let planned = self.plan_tree(scope, statement.tree.clone(), None, None).await?;
                refuse_calls(&planned)?;
                expression::update(scope, update, bound)
            }
            Ast::Delete(delete) => {
                let planned = self.plan_tree(scope, statement.tree.clone(), None, None).await?;
                refuse_calls(&planned)?;
                expression::delete(scope, delete, bound)
            }
            Ast::Merge(merge) => {
                let understood = self.understood(scope, merge, bound).await?;
                let rows = self.merged_rows(scope, &understood).await?.bind(bound)?;
                let Understood { table, on, rule, .. } = understood;
                Ok(Change::Merge { table, on, rule, rows: Box::new(rows) })
            }
            Ast::AlterTable(alter) => self.alter_table(scope, alter).await,
            Ast::Call(call) => match refreshed(call) {
                Some(refreshed) => {
                    let (name, full) = refreshed?;
                    let view = scope.table_of(&name)?;
                    Ok(Change::RefreshMaterializedView { view, full })
                }
                None => self.call(scope, call).await,
            },
            Ast::CreateView(create) => self.create_view(scope, create, &statement.text).await,
            Ast::Drop {
                object_type, if_exists, names, cascade, purge, temporary, table, ..
            } => {
                if !matches!(
                    object_type,
                    ObjectType::Table | ObjectType::View | ObjectType::MaterializedView
                ) {
                    return Err(not_built(format!("DROP {object_type} is not built")));
                }
                if *cascade || *purge || *temporary || table.is_some() {
                    let clauses = "with CASCADE or PURGE is not built";
                    return Err(not_built(format!("DROP {object_type} {clauses}")));
                }
                let names: Vec<TableId> =
                    names.iter().map(|name| scope.table_of(name)).collect::<Result<_>>()?;
                let if_exists = *if_exists;
                Ok(match object_type {
                    ObjectType::View => Change::DropViews { views: names, if_exists },
                    ObjectType::MaterializedView => {
                        Change::DropMaterializedViews { views: names, if_exists }
                    }
                    _ => Change::DropTables { tables: names, if_exists },
                })
            }
            _ => Err(Error::internal("the statement is no change")),
        }
    }

    async fn create_table(
        &self,
        scope: &Scope,
        create: &CreateTable,
        bound: &Bound,
    ) -> Result<Change> {
        let (create, key) = &primary_key::take(create)?;
        let plain = CreateTableBuilder::new(create.name.clone())
            .or_replace(create.or_replace)
            .if_not_exists(create.if_not_exists)
            .columns(create.columns.clone())
            .query(create.query.clone())
            .hive_formats(create.hive_formats.clone())
            .build();
        if plain.to_string() != create.to_string() {
            return Err(not_built(
                "CREATE TABLE takes columns or AS; its other clauses are not built",
            ));
        }
        let table = scope.table_of(&create.name)?;
        let if_exists = IfExists::of(create.or_replace, create.if_not_exists)?;
        let Some(query) = &create.query else {
            let schema = self.schema_of(scope, &create.columns).await?;
            let schema = primary_key::put(&schema, key)?;
            return Ok(Change::CreateTable { table, schema, rows: None, if_exists });
        };
        if !create.columns.is_empty() {
            return Err(not_built("CREATE TABLE with both columns and AS is not built"));
        }
        let planned = self.plan_tree(scope, query_tree(query), None, None).await?;
        let rows = planned.bind(bound)?;
        if !key.is_empty() {
            return Err(not_built("CREATE TABLE AS with a primary key is not built"));
        }
        let schema = rows.schema()?;
        for field in schema.fields() {
            if is_descriptor(field.data_type()) {
                return Err(Error::invalid(format!(
                    "column `{0}` shows descriptors of blobs; write blob_bytes({0}) AS {0} to copy them",
                    field.name()
                )));
            }
        }
        Ok(Change::CreateTable { table, schema, rows: Some(Box::new(rows)), if_exists })
    }

    /// The schema that column definitions make.
    async fn schema_of(&self, scope: &Scope, columns: &[ast::ColumnDef]) -> Result<SchemaRef> {
        for column in columns {
            for option in &column.options {
                if !matches!(option.option, ast::ColumnOption::Null | ast::ColumnOption::NotNull) {
                    return Err(not_built(format!(
                        "column `{}`: {} is not built; NULL and NOT NULL are",
                        column.name.value, option.option
                    )));
                }
            }
        }
        // The engine makes the schema; the table that it would make is nobody's.
        let name = ObjectName::from(vec![Ident::with_quote('"', format!("columns{TARGET}"))]);
        let create = CreateTableBuilder::new(name).columns(columns.to_vec()).build();
        let tree = DfStatement::Statement(Box::new(Ast::CreateTable(create)));
        let nothing: Arc<dyn TableProvider> = Arc::new(EmptyTable::new(Arc::new(Schema::empty())));
        let planned = self.plan_tree(scope, tree, None, Some(nothing)).await?;
        let LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(made)) = &planned.plan else {
            return Err(Error::internal("columns were planned as something else"));
        };
        let fields = made.input.schema().as_arrow().fields().clone();
        Ok(Arc::new(Schema::new(fields)))
    }

    async fn insert_tree(
        &self,
        scope: &Scope,
        insert: &Insert,
    ) -> Result<(TableId, DfStatement, Arc<dyn TableProvider>)> {
        let TableObject::TableName(name) = &insert.table else {
            return Err(not_built("INSERT INTO a function is not built"));
        };
        let is_plain = insert.or.is_none()
            && !insert.ignore
            && insert.table_alias.is_none()
            && insert.assignments.is_empty()
            && insert.partitioned.is_none()
            && insert.after_columns.is_empty()
            && insert.on.is_none()
            && insert.returning.is_none();
        if !is_plain || insert.overwrite {
            return Err(not_built(
                "INSERT takes columns and rows; OVERWRITE, ON CONFLICT, RETURNING and other clauses are \
                 not built",
            ));
        }
        if insert.source.is_none() {
            return Err(not_built("INSERT without VALUES or a query is not built"));
        }
        let table = scope.table_of(name)?;
        let target: Arc<dyn TableProvider> =
            Arc::new(EmptyTable::new(self.written_schema(&table).await?));
        let mut insert = insert.clone();
        insert.table = TableObject::TableName(marked(name));
        Ok((table, DfStatement::Statement(Box::new(Ast::Insert(insert))), target))
    }

    async fn insert(
        &self,
        scope: &Scope,
        insert: &Insert,
        parameters: Option<&RecordBatch>,
    ) -> Result<Change> {
        let (table, tree, target) = self.insert_tree(scope, insert).await?;
        let columns = target.schema();
        let mut planned = self.plan_tree(scope, tree, None, Some(target)).await?;
        let LogicalPlan::Dml(dml) = &planned.plan else {
            return Err(Error::internal("an INSERT was planned as something else"));
        };
        planned.plan = json_columns::inserted(dml.input.as_ref().clone(), &columns)?;
        let rows = match parameters {
            Some(batch) => planned.bind_rows(batch)?,
            None => planned,
        };
        Ok(Change::Insert { table, rows: Box::new(rows) })
    }

    async fn understood(
        &self,
        scope: &Scope,
        merge: &ast::Merge,
        bound: &Bound,
    ) -> Result<Understood> {
        let table = merge::target(scope, merge)?;
        let columns = self.written_schema(&table).await?;
        let columns = columns.fields().iter().map(|field| field.name().clone());
        merge::merge(scope, merge, &columns.collect::<Vec<_>>(), bound)
    }

    /// The query of a MERGE, its columns of the table's types.
    async fn merged_rows(&self, scope: &Scope, merge: &Understood) -> Result<PlannedQuery> {
        let schema = self.written_schema(&merge.table).await?;
        let mut planned = self.plan_tree(scope, query_tree(&merge.rows), None, None).await?;
        let mut columns: Vec<Expr> = Vec::new();
        for (given, column) in planned
            .plan
            .schema()
            .iter()
            .map(|(_, field)| field)
            .zip(planned.plan.schema().columns())
        {
            let Some((_, field)) = schema.fields().find(&column.name) else {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let near = nearest_names(&column.name, names);
                return Err(Error::not_found(format!(
                    "column `{}` does not exist{near}",
                    column.name
                ))
                .about(Subject::Column));
            };
            let name = column.name.clone();
            let is_cast = given.data_type() != field.data_type()
                && !field.data_type().is_nested()
                && !json_columns::is_text(field, given.data_type());
            columns.push(match is_cast {
                true => cast(Expr::Column(column), field.data_type().clone()).alias(name),
                false => Expr::Column(column),
            });
        }
        let plan = LogicalPlanBuilder::from(planned.plan).project(columns);
        planned.plan = plan.and_then(LogicalPlanBuilder::build).map_err(from_datafusion)?;
        Ok(planned)
    }

    /// The columns that rows written to a table have.
    async fn written_schema(&self, table: &TableId) -> Result<SchemaRef> {
        let snapshot = self.lake().table(table).await?.snapshot(None, &At::Latest).await?;
        Ok(snapshot.written_schema())
    }

    async fn alter_table(&self, scope: &Scope, alter: &AlterTable) -> Result<Change> {
        let table = scope.table_of(&alter.name)?;
        if alter.if_exists || alter.only || alter.location.is_some() || alter.on_cluster.is_some() {
            return Err(not_built("ALTER TABLE with IF EXISTS or ONLY is not built"));
        }
        let [operation] = alter.operations.as_slice() else {
            return Err(not_built("ALTER TABLE takes one operation; send them one by one"));
        };
        use AlterTableOperation as Op;
        match operation {
            Op::AddColumn { if_not_exists: false, column_def, column_position: None, .. } => {
                self.add_column(scope, table, column_def).await
            }
            Op::RenameColumn { old_column_name, new_column_name } => Ok(Change::AlterColumn {
                table,
                column: old_column_name.value.clone(),
                rename: Some(new_column_name.value.clone()),
                data_type: None,
                nullable: None,
            }),
            Op::DropColumn { column_names, if_exists: false, drop_behavior: None, .. } => {
                let columns = column_names.iter().map(|name| name.value.clone()).collect();
                Ok(Change::DropColumns { table, columns })
            }
            Op::RenameTable { table_name: RenameTableNameKind::To(name) } => {
                let to = match name.0.as_slice() {
                    // A bare name stays in the namespace of the table.
                    [ObjectNamePart::Identifier(ident)] => TableId {
                        name: lakebed_core::TableName::parse(&ident.value)?,
                        ..table.clone()
                    },
                    _ => scope.table_of(name)?,
                };
                Ok(Change::RenameTable { from: table, to })
            }
            Op::AlterColumn { column_name, op } => {
                let (data_type, nullable) = self.alteration(scope, column_name, op).await?;
                let column = column_name.value.clone();
                Ok(Change::AlterColumn { table, column, rename: None, data_type, nullable })
            }
            other => Err(not_built(format!("ALTER TABLE … {other} is not built"))),
        }
    }

    async fn add_column(
        &self,
        scope: &Scope,
        table: TableId,
        column: &ast::ColumnDef,
    ) -> Result<Change> {
        if let Some(column) = kept_column(scope, column)? {
            return Ok(Change::KeepComputed { table, column });
        }
        let computed = column.options.iter().find_map(|option| match &option.option {
            ast::ColumnOption::Generated { generation_expr: Some(expr), .. } => Some(expr),
            _ => None,
        });
        let Some(computed) = computed else {
            let schema = self.schema_of(scope, std::slice::from_ref(column)).await?;
            return Ok(Change::AddColumns { table, schema });
        };
        if column.options.len() > 1 {
            return Err(not_built("a computed column takes no other clause"));
        }
        let expr = expression::text(computed, None, &Bound::default())?;
        let expr = format!("CAST(({expr}) AS {})", column.data_type);
        Ok(Change::AddComputedColumns { table, columns: vec![(column.name.value.clone(), expr)] })
    }

    async fn alteration(
        &self,
        scope: &Scope,
        column: &Ident,
        op: &ast::AlterColumnOperation,
    ) -> Result<(Option<DataType>, Option<bool>)> {
        use ast::AlterColumnOperation as Op;
        match op {
            Op::SetNotNull => Ok((None, Some(false))),
            Op::DropNotNull => Ok((None, Some(true))),
            Op::SetDataType { data_type, using: None, .. } => {
                let definition = ast::ColumnDef {
                    name: column.clone(),
                    data_type: data_type.clone(),
                    options: Vec::new(),
                };
                let schema = self.schema_of(scope, &[definition]).await?;
                Ok((Some(schema.field(0).data_type().clone()), None))
            }
            other => Err(not_built(format!("ALTER COLUMN … {other} is not built"))),
        }
    }
}

/// UPDATE and DELETE are storage's to carry out, which calls nothing.
fn refuse_calls(planned: &PlannedQuery) -> Result<()> {
    match has_calls(&planned.plan) {
        true => Err(not_built(
            "a call of a model or function in UPDATE or DELETE is not built; MERGE takes rows of a query \
             with calls",
        )),
        false => Ok(()),
    }
}

fn not_built(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotImplemented, what.into())
}

fn syntax(tree: &DfStatement) -> Option<&Ast> {
    match tree {
        DfStatement::Statement(statement) => Some(statement),
        _ => None,
    }
}

fn query_tree(query: &ast::Query) -> DfStatement {
    DfStatement::Statement(Box::new(Ast::Query(Box::new(query.clone()))))
}

/// The name with its last part marked as the target.
fn marked(name: &ObjectName) -> ObjectName {
    let mut name = name.clone();
    if let Some(ObjectNamePart::Identifier(ident)) = name.0.last_mut() {
        *ident = Ident::with_quote('"', format!("{}{TARGET}", ident.value));
    }
    name
}

/// Whether a type is the one in which blob columns show.
fn is_descriptor(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else { return false };
    let has = |fields: &Fields, name: &str| fields.find(name).is_some();
    ["kind", "position", "size", "blob_id"].iter().all(|name| has(fields, name))
}
