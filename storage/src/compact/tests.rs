//! Rewrites beside indexes that cover a part of what is joined.

use crate::Pace;
use lance::dataset::transaction::{Operation, Transaction};

use crate::indexes::{IndexSpec, ScalarIndexKind};
use crate::test_lake::{create, id, lake, row};

use super::*;

/// A table of two fragments with a row each.
async fn two_fragments() -> (Arc<Table>, tempfile::TempDir) {
    let (lake, folder) = lake().await;
    create(&lake, "t").await;
    let table = lake.table(&id("t")).await.unwrap();
    append(&table).await;
    (table, folder)
}

async fn append(table: &Table) {
    let (schema, batches, options) = row(1);
    table.append(None, schema, batches, options).await.unwrap();
}

async fn index(table: &Table) {
    let kind = IndexSpec::Scalar(ScalarIndexKind::BTree, serde_json::Map::new());
    table.build_index(None, "n", "n_idx", true, &kind).await.unwrap();
}

async fn fragments(table: &Arc<Table>) -> Vec<u32> {
    let layout = table.snapshot(None, &At::Latest).await.unwrap().layout().await.unwrap();
    layout.fragments.iter().map(|fragment| fragment.id).collect()
}

/// The names of data files in a table's folder.
fn data_files(folder: &tempfile::TempDir) -> HashSet<std::path::PathBuf> {
    let mut folders = vec![folder.path().to_owned()];
    let mut files = HashSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.parent().is_some_and(|it| it.ends_with("data")) => {
                    files.insert(path);
                }
                false => {}
            }
        }
    }
    files
}

#[tokio::test]
async fn what_an_index_covers_in_part_is_not_joined() {
    let (table, folder) = two_fragments().await;
    index(&table).await;
    append(&table).await;
    let (before, files) = (fragments(&table).await, data_files(&folder));
    let turn = &mut Pace::at_once().turn();
    let outcome = table.rewrite_fragments(None, &before, 0, turn).await.unwrap();
    assert_eq!(outcome, None);
    assert_eq!(data_files(&folder), files, "files were written for nothing");

    let covered = &before[..2];
    let joined = table.rewrite_fragments(None, covered, 0, turn).await.unwrap().unwrap();
    assert_eq!((joined.removed, joined.added), (2, 1));
}

#[tokio::test]
async fn an_index_that_comes_beside_a_rewrite_ends_it() {
    let (table, folder) = two_fragments().await;
    let old = fragments(&table).await;
    let newest = async || table.snapshot(None, &At::Latest).await.unwrap();
    // An index of the first fragment alone, as one has that was built while the second was appended.
    index(&table).await;
    let branch = table.branch(None).await.unwrap();
    let built = newest().await.dataset.load_indices().await.unwrap();
    let built = built.iter().find(|index| index.name == "n_idx").unwrap().clone();
    let (unindexed, part) = {
        table.drop_index(None, "n_idx").await.unwrap();
        let mut part = built;
        part.fragment_bitmap = Some(RoaringBitmap::from_iter([old[0]]));
        (newest().await, part)
    };
    let files = data_files(&folder);
    let rewritten = rewrite(&unindexed, &old).await.unwrap().unwrap();
    assert!(data_files(&folder).len() > files.len(), "nothing was rewritten");
    let operation = Operation::CreateIndex { new_indices: vec![part], removed_indices: Vec::new() };
    let transaction = Transaction::new(unindexed.version(), operation, None);
    branch.commit(transaction, Vec::new(), None).await.unwrap();

    let mutation = Arc::clone(&branch.mutation).lock_owned().await;
    let outcome = branch.commit_rewrite(rewritten, mutation).await.unwrap();
    assert_eq!(outcome, None);
    assert_eq!(data_files(&folder), files, "the files of the rewrite are left behind");
    assert_eq!(fragments(&table).await, old);
}

#[tokio::test]
async fn a_rewrite_that_cleaning_overtook_is_given_up() {
    let (table, folder) = two_fragments().await;
    let old = fragments(&table).await;
    let newest = async || table.snapshot(None, &At::Latest).await.unwrap();
    let rewritten = rewrite(&newest().await, &old).await.unwrap().unwrap();
    let written: Vec<String> = rewritten
        .new_fragments
        .iter()
        .flat_map(|fragment| fragment.files.iter().map(|file| file.path.clone()))
        .collect();
    append(&table).await;
    let between = newest().await.dataset.manifest_location().path.clone();
    append(&table).await;
    let before = newest().await.version();
    std::fs::remove_file(format!("/{between}")).unwrap();

    let branch = table.branch(None).await.unwrap();
    let mutation = Arc::clone(&branch.mutation).lock_owned().await;
    assert_eq!(branch.commit_rewrite(rewritten, mutation).await.unwrap(), None);
    assert_eq!(newest().await.version(), before);
    let left = data_files(&folder);
    let is_left = |name: &String| left.iter().any(|path| path.ends_with(name));
    assert!(!written.is_empty() && !written.iter().any(is_left), "{written:?}");
}
