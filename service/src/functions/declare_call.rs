//! Columns that SQL declares as the call of a function: the declaration that a client would have sent.

use arrow_schema::{Field, Schema};
use lakebed_core::{Error, ErrorKind, RequestContext, Result, Subject, TableId};
use lakebed_proto::schema_json::{Dialect, schema_to_json};
use lakebed_sql::{CallArgument, FunctionCall, KeptColumn};
use lakebed_storage::At;
use serde_json::{Map, Value, json};

use super::FunctionVersion;
use super::binding::{
    Application, Argument, Declaration, DeclaredOutput, FunctionReference, InputColumn, WHOLE,
};
use super::definition::{Given, Registration, Signature};
use crate::Service;

impl Service {
    /// Adds a column that is kept computed: by the registered function that is called, or else by SQL.
    ///
    /// # Errors
    /// As [`Service::add_function_columns`] and [`Service::add_computed_columns`].
    pub(crate) async fn add_kept_column(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        column: KeptColumn,
    ) -> Result<u64> {
        let KeptColumn { name, expression, call, refresh_every } = column;
        if let Some(call) = call {
            let function = self.newest_function(&call.candidates).await?;
            let schema = self.fresh_table(ctx, table, None).await?;
            let schema = schema.snapshot(None, &At::Latest).await?.written_schema();
            let declaration = declaration(&function, &call, &schema, &name)?;
            let names = [name];
            return self
                .add_function_columns(ctx, table, None, &names, &declaration, refresh_every)
                .await;
        }
        let columns = [(name, expression)];
        self.add_computed_columns(ctx, table, None, &columns, refresh_every).await
    }

    /// The newest version of the first function that there is.
    async fn newest_function(&self, candidates: &[TableId]) -> Result<FunctionVersion> {
        let mut missing = None;
        for id in candidates {
            let function = match self.lake.function(id).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    missing.get_or_insert(error);
                    continue;
                }
                function => function?,
            };
            if let Some((number, version)) = function.newest() {
                let (uid, version) = (function.uid.clone(), version.clone());
                return Ok(FunctionVersion { id: id.clone(), uid, number, version });
            }
        }
        // A missing function is no missing table, which is how clients would read 404 here.
        let missing = missing.unwrap_or_else(|| Error::not_found("the function does not exist"));
        Err(Error::invalid(missing.message().to_owned()))
    }
}

/// What a client would send for a call.
fn declaration(
    function: &FunctionVersion,
    call: &FunctionCall,
    schema: &Schema,
    output: &str,
) -> Result<Declaration> {
    let registered = function.registration()?;
    let (columns, constants) = arguments(&registered, call)?;
    let mut inputs = Vec::with_capacity(columns.len());
    let mut input_bindings = Vec::with_capacity(columns.len());
    let mut fields = Vec::with_capacity(columns.len());
    for (parameter, column) in registered.signature.inputs.iter().zip(columns) {
        let field = schema.field_with_name(&column).map_err(|_| {
            Error::not_found(format!("column `{column}` does not exist")).about(Subject::Column)
        })?;
        fields.push(Field::new(&parameter.name, field.data_type().clone(), field.is_nullable()));
        inputs.push(Argument {
            parameter: parameter.name.clone(),
            kind: "column".to_owned(),
            value: json!({ "path": column }),
        });
        input_bindings.push(InputColumn {
            parameter: parameter.name.clone(),
            field_path: column,
            arrow_type: parameter.arrow_type.clone(),
            nullable: field.is_nullable(),
        });
    }
    let data_type = match registered.given()? {
        Given::Scalar(data_type) => data_type,
        Given::Struct(fields) => arrow_schema::DataType::Struct(fields),
    };
    let in_json = |fields: Vec<Field>| schema_to_json(&Schema::new(fields), Dialect::Spec);
    Ok(Declaration {
        application: Application {
            function: FunctionReference {
                name: function.id.name.as_str().to_owned(),
                namespace_path: function.id.namespace.segments().to_vec(),
                object_id: function.uid.clone(),
                location: function.location(),
                version: function.number.to_string(),
                manifest_digest: function.version.digest.clone(),
            },
            inputs,
            output: registered.signature.output.clone(),
            columns: Default::default(),
            initialization: (!constants.is_empty()).then_some(Value::Object(constants)),
        },
        binding_metadata_version: 1,
        input_bindings,
        input_schema: in_json(fields)?,
        output_schema: in_json(vec![Field::new(output, data_type, true)])?,
        outputs: vec![DeclaredOutput {
            result_field: WHOLE.to_owned(),
            output_name: output.to_owned(),
            output_ordinal: 0,
        }],
    })
}

/// The column of each parameter, in their order, and the constants by name.
fn arguments(
    registered: &Registration,
    call: &FunctionCall,
) -> Result<(Vec<String>, Map<String, Value>)> {
    let parameters = &registered.signature.inputs;
    let mut columns: Vec<Option<String>> = vec![None; parameters.len()];
    let mut constants = Map::new();
    for (at, (name, argument)) in call.arguments.iter().enumerate() {
        let place = match name {
            None => (at < parameters.len()).then_some(at),
            Some(name) => parameters.iter().position(|parameter| parameter.name == *name),
        };
        match (argument, place, name) {
            (CallArgument::Column(column), Some(place), _) => {
                if let Some(given) = columns.get_mut(place)
                    && given.replace(column.clone()).is_some()
                {
                    let name = &parameters[place].name;
                    return Err(Error::invalid(format!("parameter `{name}` is given twice")));
                }
            }
            (CallArgument::Constant(value), None, Some(name)) => {
                constants.insert(name.clone(), value.clone());
            }
            // Those of a class follow the columns.
            (CallArgument::Constant(value), None, None) => {
                let constant = registered.signature.initialization.get(at - parameters.len());
                let constant = constant.ok_or_else(|| too_many(registered))?;
                constants.insert(constant.name.clone(), value.clone());
            }
            (CallArgument::Constant(_), Some(place), _) => {
                let name = &parameters[place].name;
                return Err(Error::invalid(format!("parameter `{name}` is not given a column")));
            }
            (CallArgument::Column(column), None, _) => {
                return Err(Error::invalid(format!(
                    "there is no parameter for column `{column}`; {}",
                    too_many(registered).message()
                )));
            }
        }
    }
    let columns: Option<Vec<String>> = columns.into_iter().collect();
    let columns = columns.ok_or_else(|| too_many(registered))?;
    Ok((columns, constants))
}

fn too_many(registered: &Registration) -> Error {
    let Signature { inputs, initialization, .. } = &registered.signature;
    let all = inputs.iter().chain(initialization);
    let names: Vec<&str> = all.map(|parameter| parameter.name.as_str()).collect();
    Error::invalid(format!("the function takes {}", names.join(", ")))
}
