//! The values of parameters: read from a client's stream, and kept in a ticket.
//!
//! They are small and bounded by `sql_parameters_bytes_max`. What comes out of a ticket was in a client's
//! hands, so it passes the guard like everything else from outside.

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_schema::SchemaRef;
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
    let all = arrow_select::concat::concat_batches(&schema, &batches)
        .map_err(|error| Error::invalid("the parameters do not fit together").with_source(error))?;
    Ok(Some(all))
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
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};

    use super::*;

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
