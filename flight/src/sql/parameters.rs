//! The values of parameters: read from a client's stream, and kept in a ticket.
//!
//! They are small and bounded by `sql_parameters_bytes_max`. What comes out of a ticket was in a client's
//! hands, so it passes the guard like everything else from outside.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, UInt64Array};
use arrow_flight::FlightData;
use arrow_schema::{Field, FieldRef, Schema, SchemaRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::Stream;
use lakebed_core::{Error, ErrorKind, Limits, Result};
use lakebed_proto::ipc_decode::{Decoded, IpcDecoder};
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::do_put::PutMessages;
use crate::encode::Encoder;

/// Parameters that travel in a ticket: a larger value is sent in another way.
const TICKET_BYTES_MAX: usize = 1 << 20;

/// Reads the rest of a stream of parameters, whose first message is `first`; nothing where it has no rows.
///
/// # Errors
/// `InvalidArgument` for what cannot be read, `Busy` naming the limit for too much of it.
pub(crate) async fn read<S>(
    first: FlightData,
    messages: &mut PutMessages<S>,
    limits: &Limits,
) -> Result<Option<RecordBatch>>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + Unpin,
{
    let mut decoder = IpcDecoder::new(limits);
    let mut batches: Vec<RecordBatch> = Vec::new();
    let mut schema: Option<SchemaRef> = None;
    let mut bytes = 0_usize;
    let mut next = Some(first);
    while let Some(message) = next {
        bytes = bytes.saturating_add(message.data_header.len() + message.data_body.len());
        if bytes > limits.sql_parameters_bytes_max {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "the parameters have more than sql_parameters_bytes_max = {} bytes",
                    limits.sql_parameters_bytes_max
                ),
            ));
        }
        if !message.data_header.is_empty() {
            match decoder.decode(&message.data_header, message.data_body)? {
                Decoded::Schema(found) => schema = Some(found),
                Decoded::Dictionary => {}
                Decoded::Batch(batch) => batches.push(batch),
            }
        }
        next = messages.next().await?;
    }
    let Some(schema) = schema else { return Ok(None) };
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(None);
    }
    let all = arrow_select::concat::concat_batches(&schema, &batches).map_err(unfit)?;
    without_unions(all).map(Some)
}

/// Replaces unions, in which some clients wrap each value, by the values.
///
/// # Errors
/// `InvalidArgument` for a parameter that has values of several types.
fn without_unions(batch: RecordBatch) -> Result<RecordBatch> {
    let mut fields: Vec<FieldRef> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    for (field, column) in fields.iter_mut().zip(&mut columns) {
        let Some(union) = column.as_union_opt() else { continue };
        let mut kinds = union.type_ids().iter();
        let first = kinds.next().copied().unwrap_or_default();
        if kinds.any(|kind| *kind != first) {
            return Err(Error::invalid(format!(
                "parameter `{}` has values of several types",
                field.name()
            )));
        }
        let places = (0..union.len()).map(|row| union.value_offset(row) as u64);
        let places = UInt64Array::from_iter_values(places);
        let values = arrow_select::take::take(union.child(first), &places, None).map_err(unfit)?;
        *field = Arc::new(Field::new(field.name(), values.data_type().clone(), true));
        *column = values;
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(unfit)
}

fn unfit(error: arrow_schema::ArrowError) -> Error {
    Error::invalid("the parameters do not fit together").with_source(error)
}

/// Parameters as messages of Arrow in text: headers and bodies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealedParameters {
    messages: Vec<(String, String)>,
}

impl SealedParameters {
    /// Writes parameters for a ticket.
    ///
    /// # Errors
    /// `InvalidArgument` for more than a ticket holds.
    pub(crate) fn seal(batch: &RecordBatch) -> Result<SealedParameters> {
        let (mut encoder, announced) = Encoder::new(batch.schema());
        let mut messages = vec![announced];
        messages.extend(encoder.encode(batch)?);
        let mut bytes = 0;
        let messages = messages.into_iter().map(|message| {
            let FlightData { data_header, data_body, .. } = message.into_flight_data();
            bytes += data_header.len() + data_body.len();
            (STANDARD.encode(data_header), STANDARD.encode(data_body))
        });
        let messages = messages.collect();
        if bytes > TICKET_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the parameters of a query have {bytes} bytes; {TICKET_BYTES_MAX} are allowed"
            )));
        }
        Ok(SealedParameters { messages })
    }

    /// Reads them back.
    ///
    /// # Errors
    /// `InvalidArgument` for what was changed.
    pub(crate) fn open(&self, limits: &Limits) -> Result<RecordBatch> {
        let broken = || Error::invalid("the parameters in the ticket cannot be read");
        let mut decoder = IpcDecoder::new(limits);
        for (header, body) in &self.messages {
            let header = STANDARD.decode(header).map_err(|_| broken())?;
            let body = STANDARD.decode(body).map_err(|_| broken())?;
            if let Decoded::Batch(batch) = decoder.decode(&header, Bytes::from(body))? {
                return Ok(batch);
            }
        }
        Err(broken())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, StringArray, UnionArray};
    use arrow_schema::{DataType, UnionFields};

    use super::*;

    #[test]
    fn unions_become_the_values_that_they_wrap() {
        let fields = vec![
            Field::new("number", DataType::Int64, true),
            Field::new("text", DataType::Utf8, true),
        ];
        let wrapped = |kinds: Vec<i8>, places: Vec<i32>| {
            let number: ArrayRef = Arc::new(Int64Array::from(vec![7]));
            let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
            let union = UnionArray::try_new(
                UnionFields::from_fields(fields.clone()),
                kinds.into(),
                Some(places.into()),
                vec![number, text],
            );
            let union: ArrayRef = Arc::new(union.unwrap());
            without_unions(RecordBatch::try_from_iter([("p", union)]).unwrap())
        };
        let texts = wrapped(vec![1, 1, 1], vec![1, 0, 1]).unwrap();
        let texts = texts.column(0).as_string::<i32>();
        assert_eq!(texts.iter().flatten().collect::<Vec<_>>(), ["b", "a", "b"]);
        let mixed = wrapped(vec![1, 0], vec![0, 0]).unwrap_err();
        assert!(mixed.message().contains("several types"), "{mixed}");
    }

    #[test]
    fn parameters_come_back_out_of_a_ticket() {
        let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(7)]));
        let text: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let batch =
            RecordBatch::try_from_iter_with_nullable([("a", number, true), ("b", text, true)])
                .unwrap();
        let sealed = SealedParameters::seal(&batch).unwrap();
        assert_eq!(sealed.open(&Limits::default()).unwrap(), batch);
        let none = SealedParameters { messages: vec![("!".to_owned(), String::new())] };
        assert!(none.open(&Limits::default()).is_err());
    }
}
