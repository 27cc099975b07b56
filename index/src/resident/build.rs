//! Builds an index of a version, and joins segments: the long work, on threads of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use lakebed_core::{DistanceType, Error, ErrorKind, Result};
use lakebed_storage::{Slice, Snapshot};

use super::advance::ids_of;
use super::bits::Bits;
use super::calibrate::{Effort, calibrated};
use super::files::VectorsWriter;
use super::graph::GraphParams;
use super::quantiser::Quantiser;
use super::read;
use super::row_ids::RowIds;
use super::saved;
use super::segment::{Scratch, Segment};
use super::state::{Known, Moment, Part, State};

/// Parts of a version that are looked at for the quantiser, and rows of each.
const SAMPLES: usize = 64;
const SAMPLE_ROWS: u64 = 256;
/// How much more a thread that builds stands back than one that answers.
const NICE: i32 = 10;

/// How far a build is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows that were read.
    pub read: AtomicU64,
    /// Rows of the version.
    pub rows: AtomicU64,
}

/// The threads on which graphs are built.
pub struct Builders(rayon::ThreadPool);

impl Builders {
    /// So many threads, that stand back behind those that answer.
    ///
    /// # Errors
    /// `Internal` when the system gives no threads.
    pub fn start(threads: usize) -> Result<Builders> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|thread| format!("resident-{thread}"))
            .start_handler(|_| stand_back())
            // Without one a panic would end the process.
            .panic_handler(|_| tracing::error!("a thread that builds a resident index panicked"))
            .build();
        let pool = pool.map_err(|error| Error::internal("start threads").with_source(error))?;
        Ok(Builders(pool))
    }

    /// Runs work on these threads and waits for it without holding up the runtime.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.0.spawn(move || {
            // Nobody listens any more: the index was dropped meanwhile.
            let _ = tell.send(work());
        });
        told.await.map_err(|_| Error::internal("a build broke off"))?
    }
}

impl Builders {
    /// Runs work on these threads and waits for it.
    ///
    /// # Errors
    /// As the work.
    pub(super) fn run_blocking<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        self.0.install(work)
    }
}

fn stand_back() {
    #[cfg(target_os = "linux")]
    // SAFETY: no memory is passed. On Linux it is of the calling thread alone; where it is refused, the
    // thread is as eager as others.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}

/// Builds the state of a version.
///
/// # Errors
/// `InvalidArgument` for a column that has no resident index; as a scan; `Internal` for the file system.
pub async fn build(
    snapshot: &Snapshot,
    column: &str,
    distance: DistanceType,
    folder: &Path,
    params: GraphParams,
    builders: &Arc<Builders>,
    progress: &Progress,
) -> Result<(Arc<Quantiser>, State)> {
    let dimension = read::dimension(snapshot, column)?;
    let marks = snapshot.fragment_marks(column)?;
    let rows: u64 = marks.iter().map(|mark| mark.rows).sum();
    if rows > u64::from(u32::MAX) {
        return Err(Error::invalid("more than 2^32 rows are too many for a resident index"));
    }
    progress.rows.store(rows, Ordering::Relaxed);
    let sample = sample(snapshot, column).await?;
    let learn = move || Quantiser::learn(distance, dimension, &sample);
    let quantiser = Arc::new(builders.run(learn).await?);
    let name = uuid::Uuid::now_v7().to_string();
    let stride = quantiser.stride();
    let mut writer = VectorsWriter::create(folder, &name)?;
    let (mut ids, mut codes) = (Vec::new(), Vec::new());
    let mut fragments = BTreeMap::new();
    for mark in marks {
        let known = ids_of(snapshot, &mark).await?;
        fragments.insert(mark.fragment, Known { mark, ids: Arc::new(known) });
        let slice = Slice { fragment: mark.fragment, start: 0, rows: mark.rows };
        let mut read = read::vectors(snapshot, column, vec![slice]).await?;
        while let Some(rows) = read.try_next().await? {
            progress.read.fetch_add(rows.ids.len() as u64, Ordering::Relaxed);
            let quantiser = Arc::clone(&quantiser);
            let coded = move || {
                let (mut ids, mut codes, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
                let mut code = vec![0; stride];
                for (id, vector) in rows.ids.iter().zip(rows.numbers.chunks_exact(dimension)) {
                    if quantiser.encode(vector, &mut code) {
                        ids.push(*id);
                        codes.extend_from_slice(&code);
                        numbers.extend_from_slice(vector);
                    }
                }
                writer.add(&numbers)?;
                Ok((writer, ids, codes))
            };
            let (back, more_ids, more_codes) = builders.run(coded).await?;
            writer = back;
            ids.extend(more_ids);
            codes.extend(more_codes);
        }
    }
    codes.shrink_to_fit();
    let moment = Moment::of(snapshot);
    let (own, folder) = (Arc::clone(&quantiser), folder.to_owned());
    let segment = builders.run(move || {
        let vectors = writer.end()?;
        let mut segment = Segment::build(&own, RowIds::of(ids), codes, vectors, params);
        segment.effort = calibrated(&segment, &own)?;
        saved::write(&folder, &name, &segment)?;
        Ok(segment)
    });
    let segment = segment.await?;
    let mut parts = Vec::new();
    if segment.rows() > 0 {
        parts.push(Part::whole(segment));
    }
    Ok((quantiser, State { moment, fragments, parts }))
}

/// Vectors from all over a version.
async fn sample(snapshot: &Snapshot, column: &str) -> Result<Vec<f32>> {
    let slices = snapshot.split(SAMPLES, SAMPLE_ROWS).into_iter().filter_map(|part| {
        let first = part.first()?;
        Some(Slice { rows: first.rows.min(SAMPLE_ROWS), ..*first })
    });
    let mut rows = read::vectors(snapshot, column, slices.collect()).await?;
    let mut found = Vec::new();
    while let Some(rows) = rows.try_next().await? {
        found.extend(rows.numbers);
    }
    Ok(found)
}

/// The visible rows of some parts as one segment with a graph, and where each of them was: the part and the
/// row.
///
/// # Errors
/// `Internal` for the file system.
pub async fn joined(
    parts: Vec<Part>,
    quantiser: &Arc<Quantiser>,
    folder: &Path,
    params: GraphParams,
    builders: &Arc<Builders>,
) -> Result<(Segment, Vec<(u32, u32)>)> {
    let (quantiser, folder) = (Arc::clone(quantiser), folder.to_owned());
    let work = move || {
        let name = uuid::Uuid::now_v7().to_string();
        let mut writer = VectorsWriter::create(&folder, &name)?;
        let places = places(&parts);
        let stride = quantiser.stride();
        let mut codes = Vec::with_capacity(places.len() * stride);
        let mut ids = Vec::with_capacity(places.len());
        let mut scratch = Scratch::default();
        for (part, row) in &places {
            let Some(part) = parts.get(*part as usize) else { continue };
            let start = *row as usize * stride;
            codes.extend_from_slice(
                part.segment.codes.get(start..start + stride).unwrap_or_default(),
            );
            ids.push(part.segment.ids.id_of(*row));
            writer.add(&part.segment.vector(*row, quantiser.dimension(), &mut scratch)?)?;
        }
        let vectors = writer.end()?;
        let mut segment = Segment::build(&quantiser, RowIds::of(ids), codes, vectors, params);
        // What became a resident index stays one, with what effort it takes.
        segment.effort = match calibrated(&segment, &quantiser) {
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Effort::MOST,
            effort => effort?,
        };
        saved::write(&folder, &name, &segment)?;
        Ok((segment, places))
    };
    builders.run(work).await
}

/// The visible rows of parts.
pub fn places(parts: &[Part]) -> Vec<(u32, u32)> {
    let of = |(at, part): (usize, &Part)| {
        part.visible.iter().map(|row| (at as u32, row)).collect::<Vec<_>>()
    };
    parts.iter().enumerate().flat_map(of).collect()
}

/// Which rows of a joined segment are visible by now. `now` has the parts it was made of as they are now;
/// one that is gone has no visible rows.
pub fn still_visible(places: &[(u32, u32)], now: &[Option<Part>]) -> Bits {
    let mut visible = Bits::none(places.len());
    for (new, (part, row)) in places.iter().enumerate() {
        let part = now.get(*part as usize).and_then(Option::as_ref);
        if part.is_some_and(|part| part.visible.has(*row)) {
            visible.set(new as u32, true);
        }
    }
    visible
}
