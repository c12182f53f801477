//! Parquet objects: rows in, bytes out, and back.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::metadata::{ColumnChunkMask, PageIndexPolicy, ParquetStatisticsPolicy};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::conditions::Conditions;
use crate::manifest::{ObjectEntry, sha256};
use crate::remote::RemoteObject;
use crate::store::Put;
use crate::{Day, LakeError, Row, Store, Table};

/// The rows of a row group: what a writer and a reader hold in memory.
pub(crate) const ROW_GROUP: usize = 64 * 1024;

/// The rows of a page: what a reader skips by.
const PAGE: usize = 8 * 1024;

/// Rows that are converted at a time.
const BATCH: usize = 4 * 1024;

/// Writes one object. Its rows must come in their [order](Row::order).
pub struct ObjectWriter<R: Row> {
    columns: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
    waiting: Vec<R>,
}

impl<R: Row> ObjectWriter<R> {
    /// A writer without rows.
    ///
    /// # Errors
    ///
    /// The table's columns are not possible in Parquet.
    pub fn new() -> Result<Self, LakeError> {
        let columns = Arc::new(Schema::new(R::columns()));
        let options =
            ArrowWriterOptions::new().with_properties(properties::<R>()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&columns), options)
            .map_err(|error| unwritable::<R>(&error))?;
        Ok(Self { columns, writer, rows: 0, waiting: Vec::with_capacity(BATCH) })
    }

    /// Adds a row.
    ///
    /// # Errors
    ///
    /// The row can't be encoded.
    pub fn push(&mut self, row: R) -> Result<(), LakeError> {
        self.rows += 1;
        self.waiting.push(row);
        if self.waiting.len() == BATCH { self.convert() } else { Ok(()) }
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The object.
    ///
    /// # Errors
    ///
    /// A row can't be encoded.
    pub fn finish(mut self) -> Result<Bytes, LakeError> {
        self.convert()?;
        self.writer.into_inner().map(Bytes::from).map_err(|error| unwritable::<R>(&error))
    }

    fn convert(&mut self) -> Result<(), LakeError> {
        let batch = serde_arrow::to_record_batch(self.columns.fields(), &self.waiting)
            .map_err(|error| unwritable::<R>(&error))?;
        self.waiting.clear();
        self.writer.write(&batch).map_err(|error| unwritable::<R>(&error))
    }
}

/// An object that is not written yet.
pub(crate) struct Encoded {
    pub(crate) table: Table,
    pub(crate) content: Bytes,
    /// Its SHA-256, in lower-case hex.
    pub(crate) sha256: String,
    pub(crate) rows: u64,
}

impl Encoded {
    /// The object of some rows, which come in their [order](Row::order); none of none.
    pub(crate) fn of<R: Row>(
        rows: impl Iterator<Item = Result<R, LakeError>>,
    ) -> Result<Option<Self>, LakeError> {
        Ok(Some(Self::of_any(rows)?).filter(|object| object.rows > 0))
    }

    /// The same; of no rows an object without rows.
    pub(crate) fn of_any<R: Row>(
        rows: impl Iterator<Item = Result<R, LakeError>>,
    ) -> Result<Self, LakeError> {
        let mut writer = ObjectWriter::<R>::new()?;
        for row in rows {
            writer.push(row?)?;
        }
        let rows = writer.rows();
        let content = writer.finish()?;
        Ok(Self { table: R::TABLE, sha256: sha256(&content), content, rows })
    }

    /// Writes it, and returns what a manifest says of it.
    pub(crate) fn put(self, store: &Store, day: Day, path: String) -> Result<(Put, ObjectEntry), LakeError> {
        let Self { table, content, sha256, rows } = self;
        let bytes = content.len() as u64;
        let put = store.put_verified(&path, content, &sha256)?;
        Ok((put, ObjectEntry { table, day, path, sha256, bytes, rows }))
    }
}

fn unwritable<R: Row>(reason: &impl ToString) -> LakeError {
    LakeError::Rows { table: R::TABLE.as_str(), reason: reason.to_string() }
}

/// How objects are encoded, so that every engine reads them.
fn properties<R: Row>() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(concat!("taptrail ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_data_page_row_count_limit(PAGE)
        .set_write_batch_size(PAGE / 8)
        .set_statistics_enabled(EnabledStatistics::Page);
    for column in R::columns() {
        let path = ColumnPath::from(column.name().as_str());
        match (column.name().as_str(), column.data_type()) {
            (_, arrow_schema::DataType::Timestamp(..)) => {
                properties = properties
                    .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_dictionary_enabled(path, false);
            }
            ("uuid" | "guest", _) => properties = properties.set_column_bloom_filter_enabled(path, true),
            _ => {}
        }
    }
    properties.build()
}

/// What is read of an object at most. An object store is not trusted: an object may be made to
/// exhaust the memory of its reader.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of an object.
    pub object: u64,
    /// Bytes of its footer.
    pub footer: u64,
    /// Bytes that are read of it at once.
    pub read: u64,
    /// Rows of a row group.
    pub row_group: i64,
    /// Bytes of a page, decompressed.
    pub page: u64,
    /// Values of a page.
    pub values: u64,
    /// Bytes of a text.
    pub text: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            object: 16 << 30,
            footer: 8 << 20,
            read: 64 << 20,
            row_group: 1 << 20,
            page: 16 << 20,
            values: 1 << 20,
            text: 1 << 20,
        }
    }
}

/// Whether a column's pages lie within an object of this size.
fn lies_within(column: &ColumnChunkMetaData, bytes: u64) -> bool {
    let pages = column.data_page_offset();
    let begin = column.dictionary_page_offset().unwrap_or(pages);
    let place = |at: i64| u64::try_from(at).ok().filter(|at| *at <= bytes);
    let end = place(begin).zip(u64::try_from(column.compressed_size()).ok());
    let is_inside = end.and_then(|(begin, size)| begin.checked_add(size)).is_some_and(|end| end <= bytes);
    is_inside && place(pages).is_some() && column.num_values() >= 0 && column.uncompressed_size() >= 0
}

/// Reads the rows of one object.
pub struct ObjectReader<R: Row> {
    object: RemoteObject,
    builder: ParquetRecordBatchReaderBuilder<RemoteObject>,
    conditions: Conditions,
    limits: Limits,
    row: PhantomData<R>,
}

impl<R: Row> ObjectReader<R> {
    /// Opens an object, and reads its footer. `bytes`: its size.
    ///
    /// # Errors
    ///
    /// The object can't be read, or is not one of this table.
    pub fn open(store: &Arc<Store>, path: &str, bytes: u64, limits: Limits) -> Result<Self, LakeError> {
        Self::open_for(store, path, bytes, limits, Conditions::default())
    }

    /// The same, to read only the rows that meet these conditions.
    ///
    /// # Errors
    ///
    /// As those of [`open`](Self::open).
    pub fn open_for(
        store: &Arc<Store>,
        path: &str,
        bytes: u64,
        limits: Limits,
        conditions: Conditions,
    ) -> Result<Self, LakeError> {
        let name: Arc<str> = Arc::from(path);
        let object = RemoteObject::open(store, &name, bytes, limits)?;
        let builder = guarded(&object, || Self::builder(&object, &conditions))?;
        for (number, group) in builder.metadata().row_groups().iter().enumerate() {
            if !(0..=limits.row_group).contains(&group.num_rows()) {
                return Err(LakeError::damaged(&name, format!("a row group has {} rows", group.num_rows())));
            }
            // The library panics at negative places.
            if let Some(column) = group.columns().iter().find(|column| !lies_within(column, bytes)) {
                let column = column.column_path().string();
                return Err(LakeError::damaged(&name, format!("the column {column} lies outside of it")));
            }
            let index = builder.metadata().page_index_for_row_group(number);
            if (0..group.num_columns()).any(|leaf| index.page_locations(leaf).is_none()) {
                return Err(LakeError::damaged(&name, "it has no page index"));
            }
        }
        Ok(Self { object, builder, conditions, limits, row: PhantomData })
    }

    /// Reads the footer, and of the page index what is needed for the conditions.
    fn builder(
        object: &RemoteObject,
        conditions: &Conditions,
    ) -> Result<ParquetRecordBatchReaderBuilder<RemoteObject>, ParquetError> {
        let known = R::columns();
        let leaves = conditions.leaves(&known);
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_column_index_mask(ColumnChunkMask::columns(leaves.clone()))
            .with_column_stats_policy(ParquetStatisticsPolicy::skip_except(&leaves))
            .with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
        let read = ArrowReaderMetadata::load(object, options.clone())?;
        let fields: Vec<FieldRef> = read.schema().fields().iter().map(as_views).collect();
        let options = options.with_schema(Arc::new(Schema::new(fields)));
        let read = ArrowReaderMetadata::try_new(Arc::clone(read.metadata()), options)?;
        let is_known = |name: &str| known.iter().any(|column| column.name() == name);
        let columns = read.schema().fields().iter().enumerate();
        let roots: Vec<usize> =
            columns.filter(|(_, field)| is_known(field.name())).map(|(root, _)| root).collect();
        let mask = ProjectionMask::roots(read.parquet_schema(), roots);
        Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(object.clone(), read).with_projection(mask))
    }

    /// Some of its columns, by their names, in the order of the object: for passes over many rows.
    ///
    /// # Errors
    ///
    /// The object is damaged, or lacks a column.
    pub(crate) fn columns(
        self,
        names: &[&str],
    ) -> Result<impl Iterator<Item = Result<RecordBatch, LakeError>> + use<R>, LakeError> {
        let Self { object, builder, .. } = self;
        let root = builder.parquet_schema().root_schema().get_fields();
        if let Some(lacking) =
            names.iter().find(|wanted| !root.iter().any(|column| column.name() == **wanted))
        {
            return Err(object.error(format!("it has no column {lacking}")));
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
        object.check_pages();
        let mut batches = guarded(&object, || builder.with_projection(mask).with_batch_size(PAGE).build())?;
        Ok(std::iter::from_fn(move || guarded(&object, || batches.next().transpose()).transpose()))
    }

    /// Its rows, in the order of the object.
    ///
    /// # Errors
    ///
    /// The object is damaged.
    pub fn rows(self) -> Result<Rows<R>, LakeError> {
        self.rows_by(BATCH)
    }

    /// The same, with so many in memory at a time: for many objects at once.
    pub(crate) fn rows_by(self, batch: usize) -> Result<Rows<R>, LakeError> {
        let Self { object, builder, conditions, limits, row } = self;
        let builder = guarded(&object, || conditions.apply(builder))?;
        object.check_pages();
        let batches = guarded(&object, || builder.with_batch_size(batch).build())?;
        Ok(Rows { object, batches, decoded: Vec::new().into_iter(), limits, row })
    }
}

/// Calls the Parquet library. It panics at some objects that no writer makes, where it should
/// return an error; what it was reading is not used after that.
fn guarded<T, E: ToString>(
    object: &RemoteObject,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, LakeError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| object.error(error)),
        Err(_) => Err(object.error("the Parquet library does not expect what is in it")),
    }
}

/// A column whose texts are views of its pages: a page of a thousand indices into a dictionary is not
/// a thousand copies of a text.
fn as_views(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Utf8 => DataType::Utf8View,
        DataType::Binary => DataType::BinaryView,
        DataType::List(element) => DataType::List(as_views(element)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(as_views).collect()),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// The rows of an object. After an error there are no more.
pub struct Rows<R: Row> {
    object: RemoteObject,
    batches: ParquetRecordBatchReader,
    decoded: std::vec::IntoIter<R>,
    limits: Limits,
    row: PhantomData<R>,
}

impl<R: Row> Rows<R> {
    fn decode(&self, batch: &RecordBatch) -> Result<Vec<R>, LakeError> {
        if !batch.columns().iter().all(|column| is_within(column, self.limits.text)) {
            return Err(self.object.error("a text of it is too long"));
        }
        serde_arrow::from_record_batch(batch).map_err(|error| self.object.error(error))
    }
}

/// Whether no text of a column has more bytes.
fn is_within(column: &ArrayRef, most: u32) -> bool {
    if let Some(texts) = column.as_string_view_opt() {
        return texts.lengths().all(|length| length <= most);
    }
    if let Some(texts) = column.as_binary_view_opt() {
        return texts.lengths().all(|length| length <= most);
    }
    if let Some(list) = column.as_list_opt::<i32>() {
        return is_within(list.values(), most);
    }
    column.as_struct_opt().is_none_or(|fields| fields.columns().iter().all(|column| is_within(column, most)))
}

impl<R: Row> Iterator for Rows<R> {
    type Item = Result<R, LakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.decoded.next() {
                return Some(Ok(row));
            }
            let (object, batches) = (&self.object, &mut self.batches);
            let batch = guarded(object, || batches.next().transpose());
            match batch.and_then(|batch| batch.map(|batch| self.decode(&batch)).transpose()) {
                Ok(None) => return None,
                Ok(Some(rows)) => self.decoded = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::HeldRow;

    pub(crate) fn row(number: i64) -> HeldRow {
        HeldRow {
            host: format!("host{}", number % 7).into(),
            guest: "web1".into(),
            uuid: "f3607ac8-f517-4952-b61c-b19b40f99661".into(),
            mac: format!("52:54:00:00:{:02x}:{:02x}", number >> 8, number & 255).into(),
            kind: "tun".into(),
            path: "/dev/net/tun".into(),
            rdev: Some("0A:C8".into()),
            dev: Some("vnet0".into()),
            state: "held".into(),
            certainty: "definitive".into(),
            ended_by: None,
            end_doubt: None,
            queues: None,
            pid: Some(7),
            opened: Some(number),
            granted: Some(number + 1),
            released: None,
            last_seen: None,
            uncertain_since: None,
            first: true,
            last: false,
            possibly_held: Vec::new(),
            proof: Vec::new(),
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
        let write = || {
            let mut writer = ObjectWriter::new().unwrap();
            (0..10_000).for_each(|number| writer.push(row(number)).unwrap());
            writer.finish().unwrap()
        };
        let object = write();
        assert_eq!(object, write(), "the same rows give the same bytes");
        store.put_new("held/x.parquet", object.clone()).unwrap();
        let reader =
            ObjectReader::<HeldRow>::open(&store, "held/x.parquet", object.len() as u64, Limits::default());
        let read: Vec<HeldRow> = reader.unwrap().rows().unwrap().collect::<Result<_, _>>().unwrap();
        assert!(read.iter().eq((0..10_000).map(row).collect::<Vec<_>>().iter()));
    }
}
