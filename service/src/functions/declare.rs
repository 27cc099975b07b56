//! Declaring columns that a function computes: they are there at once, null in every row, until a job fills
//! them.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lakebed_core::{
    Error, ErrorKind, NamespacePath, RequestContext, Result, Subject, TableId, TableName,
};
use lakebed_jobs::{AUTO_REFRESH_SECONDS, SOURCE_VERSION};
use lakebed_storage::{FUNCTION_BINDINGS, MakeNote, NoteSource};
use serde_json::{Map, Value, json};

use super::binding::{
    ASSIGNED_ORDINAL, Application, Assignment, Binding, BoundInput, BoundOutput, Declaration,
    FunctionReference, WHOLE,
};
use super::definition::{Given, Parameter, Registration};
use super::{FunctionVersion, types};
use crate::Service;
use crate::columns::shown;

impl Service {
    /// Adds the columns that a declaration names, null in every row, bound to its function; returns the
    /// version with them. With `refresh_every` they refresh themselves, with so many seconds between two jobs
    /// at least.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not fit: the function is another one or gone, a column or a type;
    /// `NotFound` naming table or branch.
    pub async fn add_function_columns(
        &self,
        ctx: &RequestContext,
        table: &TableId,
        branch: Option<&str>,
        names: &[String],
        declaration: &Declaration,
        refresh_every: Option<u64>,
    ) -> Result<u64> {
        if declaration.binding_metadata_version != 1 {
            let message = "bindings of another version than 1 (field `binding_metadata_version`)";
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
        let function = self.function_of(ctx, &declaration.application.function).await?;
        let registered = function.registration()?;
        let outputs: Vec<&str> =
            declaration.outputs.iter().map(|output| output.output_name.as_str()).collect();
        if outputs != names.iter().map(String::as_str).collect::<Vec<_>>() {
            return Err(Error::invalid(
                "fields `new_columns` and `function.outputs` name other columns",
            ));
        }
        let subject = shown(outputs);
        let (registered, declaration) = (&registered, declaration);
        let changed =
            self.change_columns(ctx, "add_columns", table, branch, subject, |handle| async move {
                let snapshot = handle.snapshot(branch, &lakebed_storage::At::Latest).await?;
                let (mut added, binding) =
                    bind(registered, declaration, &snapshot.written_schema())?;
                // From when on inputs that change make values stale, also those of a job that is called off.
                let version = snapshot.version().to_string();
                added = with_note(&added, SOURCE_VERSION, &version);
                if let Some(every) = refresh_every {
                    self.note_refreshing(&handle, &ctx.database, branch).await?;
                    added = with_note(&added, AUTO_REFRESH_SECONDS, &every.to_string());
                }
                let note: MakeNote = Box::new(move |source: &NoteSource<'_>| binding.noted(source));
                let added = Arc::new(added);
                Ok(((), handle.add_bound_columns(branch, added, FUNCTION_BINDINGS, note).await?))
            });
        Ok(changed.await?.1)
    }

    /// The function that a client names; all that it says of it has to be true.
    pub(super) async fn function_of(
        &self,
        ctx: &RequestContext,
        named: &FunctionReference,
    ) -> Result<FunctionVersion> {
        let namespace = NamespacePath::parse(&named.namespace_path)?;
        let name = TableName::parse(&named.name)?;
        let id = TableId { database: ctx.database.clone(), namespace, name };
        // A missing function is no missing table, which is how clients would read 404 here.
        let gone = |error: Error| match error.kind() {
            ErrorKind::NotFound => Error::invalid(error.message().to_owned()),
            _ => error,
        };
        let number = named.version.parse::<u64>();
        let number = number.map_err(|_| Error::invalid("the function's `version` is no number"))?;
        let (function, version) = self.lake.function_version(&id, number).await.map_err(gone)?;
        let found = FunctionVersion { id, uid: function.uid, number, version };
        let is_same = found.uid == named.object_id
            && found.location() == named.location
            && found.version.digest == named.manifest_digest;
        match is_same {
            true => Ok(found),
            false => Err(Error::invalid(format!(
                "function `{}` version {number} is another one than that which the request names; it was \
                 dropped and registered again",
                found.id
            ))),
        }
    }
}

/// The columns that are added, and the binding that fills them.
fn bind(
    registered: &Registration,
    declaration: &Declaration,
    schema: &Schema,
) -> Result<(Schema, Binding)> {
    let application = &declaration.application;
    let inputs = bound_inputs(registered, declaration, schema)?;
    let (mut columns, outputs, is_spread) = bound_outputs(registered, declaration)?;
    let initialization =
        initialization(&registered.signature.initialization, application.initialization.as_ref())?;
    let mut binding = Binding {
        binding_id: format!("fb_{}", uuid::Uuid::now_v7().simple()),
        function: application.function.clone(),
        inputs,
        outputs,
        input_schema: declaration.input_schema.clone(),
        output_schema: declaration.output_schema.clone(),
        assignment: None,
        initialization,
    };
    if is_spread && binding.outputs.iter().all(|output| output.nullable) {
        let name = format!("__{}_assigned", binding.binding_id);
        let fields = binding.output_schema.get_mut("fields").and_then(Value::as_array_mut);
        let fields = fields.ok_or_else(|| Error::invalid("`output_schema` has no fields"))?;
        fields.push(json!({ "name": name, "nullable": true, "type": { "type": "bool" } }));
        columns.push((Field::new(&name, DataType::Boolean, true), ASSIGNED_ORDINAL));
        binding.assignment = Some(Assignment { output_name: name, output_field_id: 0 });
    }
    let fields = columns.into_iter().map(|(field, ordinal)| {
        let metadata = binding.metadata(ordinal);
        field.with_metadata(metadata)
    });
    Ok((Schema::new(fields.collect::<Vec<Field>>()), binding))
}

/// The columns, each with one more note.
fn with_note(columns: &Schema, key: &str, value: &str) -> Schema {
    let fields = columns.fields().iter().map(|field| {
        let mut metadata = field.metadata().clone();
        metadata.insert(key.to_owned(), value.to_owned());
        Field::clone(field).with_metadata(metadata)
    });
    Schema::new(fields.collect::<Vec<Field>>())
}

/// The columns that the function reads: one for each parameter, of a type that fits.
fn bound_inputs(
    registered: &Registration,
    declaration: &Declaration,
    schema: &Schema,
) -> Result<Vec<BoundInput>> {
    let Declaration { application, input_bindings, .. } = declaration;
    let wanted = &registered.signature.inputs;
    let is_each = wanted.len() == application.inputs.len()
        && wanted.len() == input_bindings.len()
        && wanted.iter().zip(&application.inputs).all(|(a, b)| a.name == b.parameter)
        && wanted.iter().zip(input_bindings).all(|(a, b)| a.name == b.parameter);
    if !is_each {
        let names: Vec<&str> = wanted.iter().map(|parameter| parameter.name.as_str()).collect();
        let message = format!("the function takes {}, in this order", names.join(", "));
        return Err(Error::invalid(message));
    }
    let mut inputs = Vec::with_capacity(wanted.len());
    for ((parameter, argument), bound) in wanted.iter().zip(&application.inputs).zip(input_bindings)
    {
        let name = &parameter.name;
        let path = argument.value.get("path").and_then(Value::as_str);
        let path = path
            .filter(|_| argument.kind == "column")
            .ok_or_else(|| Error::invalid(format!("parameter `{name}` is not given a column")))?;
        if path != bound.field_path {
            return Err(Error::invalid(format!("parameter `{name}` is given two columns")));
        }
        let field = schema.field_with_name(path).map_err(|_| match path.contains('.') {
            true => Error::new(
                ErrorKind::NotImplemented,
                format!("column `{path}` inside of a struct as an input: this is not built"),
            ),
            false => {
                Error::not_found(format!("column `{path}` does not exist")).about(Subject::Column)
            }
        })?;
        if field.metadata().contains_key("computed_column") {
            let message = format!("column `{path}` is computed; a function cannot read it yet");
            return Err(Error::new(ErrorKind::NotImplemented, message));
        }
        let takes = types::parse(&parameter.arrow_type)?;
        if !types::fits(field.data_type(), &takes) {
            return Err(Error::invalid(format!(
                "parameter `{name}` takes {}, and column `{path}` has {}",
                parameter.arrow_type,
                field.data_type()
            )));
        }
        inputs.push(BoundInput {
            parameter: name.clone(),
            field_id: 0,
            field_path: path.to_owned(),
            arrow_type: bound.arrow_type.clone(),
            nullable: bound.nullable,
        });
    }
    Ok(inputs)
}

type Columns = Vec<(Field, u32)>;

/// The columns that the function fills, and whether they are the fields of a struct.
fn bound_outputs(
    registered: &Registration,
    declaration: &Declaration,
) -> Result<(Columns, Vec<BoundOutput>, bool)> {
    let outputs = &declaration.outputs;
    let Application { output, columns: names, .. } = &declaration.application;
    if *output != registered.signature.output {
        return Err(Error::invalid("`application.output` is another one than the function's"));
    }
    if let Some(odd) = outputs.iter().find(|output| {
        let name = names.get(&output.result_field).unwrap_or(&output.result_field);
        output.result_field != WHOLE && *name != output.output_name
    }) {
        let message =
            format!("`application.columns` and `outputs` disagree on `{}`", odd.result_field);
        return Err(Error::invalid(message));
    }
    let ordinals = outputs.iter().map(|output| output.output_ordinal as usize);
    if !ordinals.eq(0..outputs.len()) {
        return Err(Error::invalid("the ordinals of `outputs` are not 0, 1, 2 and so on"));
    }
    let signature = &registered.signature.output;
    let given = registered.given()?;
    let mut columns = Columns::new();
    let mut bound = Vec::new();
    let mut push = |at: usize, data_type: DataType, arrow_type: &str, nullable: bool| {
        let output = &outputs[at];
        columns.push((Field::new(&output.output_name, data_type, true), output.output_ordinal));
        bound.push(BoundOutput {
            result_field: output.result_field.clone(),
            output_name: output.output_name.clone(),
            output_field_id: 0,
            output_ordinal: output.output_ordinal,
            arrow_type: arrow_type.to_owned(),
            nullable,
        });
    };
    let is_whole = outputs.len() == 1 && outputs[0].result_field == WHOLE;
    match given {
        Given::Scalar(data_type) if is_whole => {
            let arrow_type = signature.arrow_type.as_deref().unwrap_or_default();
            push(0, data_type, arrow_type, signature.nullable.unwrap_or_default());
        }
        Given::Struct(fields) if is_whole => {
            let data_type = DataType::Struct(fields);
            let whole = Schema::new(vec![Field::new(WHOLE, data_type.clone(), true)]);
            let whole = lakebed_proto::schema_json::schema_to_json(
                &whole,
                lakebed_proto::schema_json::Dialect::Spec,
            )?;
            push(0, data_type, &whole["fields"][0]["type"].to_string(), false);
        }
        Given::Struct(fields) => {
            let names = outputs.iter().map(|output| output.result_field.as_str());
            if !names.eq(fields.iter().map(|field| field.name().as_str())) {
                return Err(Error::invalid("`outputs` names other fields than the function gives"));
            }
            for (at, (field, of)) in fields.iter().zip(&signature.fields).enumerate() {
                push(at, field.data_type().clone(), &of.arrow_type, of.nullable);
            }
            return Ok((columns, bound, true));
        }
        Given::Scalar(_) => {
            return Err(Error::invalid(format!("a scalar function has one output, `{WHOLE}`")));
        }
    }
    Ok((columns, bound, false))
}

/// The constants of a binding as an Arrow stream of one row, in base64; nothing where the function takes
/// none.
fn initialization(fields: &[Parameter], given: Option<&Value>) -> Result<Option<String>> {
    let given = match given {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(given)) => given.clone(),
        Some(_) => return Err(Error::invalid("`initialization` is no object")),
    };
    if let Some(name) = given.keys().find(|name| fields.iter().all(|field| field.name != **name)) {
        return Err(Error::invalid(format!("the function takes no constant `{name}`")));
    }
    if fields.is_empty() {
        return Ok(None);
    }
    let columns = fields.iter().map(|field| {
        let value = given.get(&field.name);
        if !field.nullable && value.is_none_or(Value::is_null) {
            return Err(Error::invalid(format!("the constant `{}` is missing", field.name)));
        }
        Ok(Field::new(&field.name, types::parse(&field.arrow_type)?, field.nullable))
    });
    let schema = Arc::new(Schema::new(columns.collect::<Result<Vec<Field>>>()?));
    let wrong =
        |error| Error::invalid("the constants have not the function's types").with_source(error);
    let mut decoder = arrow_json::ReaderBuilder::new(Arc::clone(&schema))
        .with_strict_mode(true)
        .build_decoder()
        .map_err(wrong)?;
    decoder.serialize(&[given]).map_err(wrong)?;
    let row: Option<RecordBatch> = decoder.flush().map_err(wrong)?;
    let row = row.ok_or_else(|| Error::internal("constants without a row"))?;
    let failed = |error| Error::internal("write constants").with_source(error);
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(failed)?;
    writer.write(&row).map_err(failed)?;
    Ok(Some(STANDARD.encode(writer.into_inner().map_err(failed)?)))
}
