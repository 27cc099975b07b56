//! Counts by value over what a search finds.

use lakebed_core::{RequestContext, Result, Role};
use lakebed_proto::search::SearchRequest;
use lakebed_proto::text_help::{Facet, Facets};

use crate::Service;
use crate::authenticate::require;
use crate::read::READ_BYTES;

impl Service {
    /// Counts the rows that a search finds by the values of some columns: of a search by vector its `k` rows,
    /// of any other all up to a bound, beyond which the answer says that it is cut.
    ///
    /// # Errors
    /// As [`Service::search`]; `InvalidArgument` for a column that has no values to count by.
    pub async fn facets(
        &self,
        ctx: &RequestContext,
        request: &SearchRequest,
        facets: &[Facet],
    ) -> Result<Facets> {
        require(ctx, Role::Read)?;
        let _guard = self.gate.enter()?;
        let _running = self.admission.admit_request().await?;
        let _memory = self.admission.read_bytes(READ_BYTES).await?;
        let snapshot = self.searched(ctx, request).await?;
        let embedded = match &request.embed {
            None => None,
            Some(embed) => Some(self.embedded(&snapshot, request, embed).await?),
        };
        let request = embedded.as_ref().unwrap_or(request);
        lakebed_index::count_facets(&snapshot, request, facets, &self.limits).await
    }
}
