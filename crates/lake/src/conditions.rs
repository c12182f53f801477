//! What rows must meet to be read, and which parts of an object have none that do.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, FieldRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicate, ArrowPredicateFn, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;
use uuid::Uuid;

use crate::Micros;

/// What one column of a row must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// A column of text has this value.
    Is(&'static str, String),
    /// A column of text is from the first to the last of these, in the order of their bytes.
    Between(&'static str, String, String),
    /// A column has no value.
    None(&'static str),
    /// A column has a value.
    Some(&'static str),
    /// A flag is set.
    Set(&'static str),
    /// A time is from the first to the last of these.
    Within(&'static str, Micros, Micros),
    /// The guest's name is this UUID, in one of a UUID's forms.
    NamedAs(Uuid),
}

/// What rows must meet: of each list, one test at least. Without lists, every row meets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions(pub Vec<Vec<Test>>);

/// The column of guests' names.
const GUEST: &str = "guest";

impl Test {
    fn column(&self) -> &'static str {
        match self {
            Self::Is(column, _)
            | Self::Between(column, ..)
            | Self::None(column)
            | Self::Some(column)
            | Self::Set(column)
            | Self::Within(column, ..) => column,
            Self::NamedAs(_) => GUEST,
        }
    }

    /// Whether each row of a column meets it.
    fn of_rows(&self, rows: &ArrayRef) -> Result<BooleanArray, ArrowError> {
        let other_type = || ArrowError::SchemaError(format!("{} is of another type", self.column()));
        if rows.len() == rows.null_count() && !matches!(self, Self::None(_)) {
            return Ok(BooleanArray::from(vec![false; rows.len()]));
        }
        let met: Vec<bool> = match self {
            Self::None(_) => (0..rows.len()).map(|row| rows.is_null(row)).collect(),
            Self::Some(_) => (0..rows.len()).map(|row| rows.is_valid(row)).collect(),
            Self::Is(_, value) => {
                let texts = rows.as_string_view_opt().ok_or_else(other_type)?;
                texts.iter().map(|text| text == Some(value)).collect()
            }
            Self::Between(_, first, last) => {
                let texts = rows.as_string_view_opt().ok_or_else(other_type)?;
                let is_between = |text: &str| first.as_str() <= text && text <= last.as_str();
                texts.iter().map(|text| text.is_some_and(is_between)).collect()
            }
            Self::NamedAs(uuid) => {
                let texts = rows.as_string_view_opt().ok_or_else(other_type)?;
                texts.iter().map(|text| text.is_some_and(|text| text.parse() == Ok(*uuid))).collect()
            }
            Self::Set(_) => {
                let flags = rows.as_boolean_opt().ok_or_else(other_type)?;
                flags.iter().map(|flag| flag == Some(true)).collect()
            }
            Self::Within(_, from, until) => {
                let times = rows.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(other_type)?;
                times.iter().map(|time| time.is_some_and(|time| *from <= time && time <= *until)).collect()
            }
        };
        Ok(BooleanArray::from(met))
    }

    /// Whether rows with values between two bounds may meet it. Without a bound, any may.
    fn may_be_within(&self, bounds: &Bounds<'_>) -> bool {
        match (self, bounds) {
            (Self::None(_), _) => bounds.may_have_none(),
            (Self::Is(_, value), Bounds::Text { least, most, .. }) => {
                least.is_none_or(|least| least <= value.as_bytes())
                    && most.is_none_or(|most| value.as_bytes() <= most)
            }
            (Self::Between(_, first, last), Bounds::Text { least, most, .. }) => {
                least.is_none_or(|least| least <= last.as_bytes())
                    && most.is_none_or(|most| first.as_bytes() <= most)
            }
            (Self::Set(_), Bounds::Flag { most, .. }) => *most,
            (Self::Within(_, from, until), Bounds::Time { least, most, .. }) => {
                least <= until && from <= most
            }
            (Self::NamedAs(_), _) => true,
            (_, Bounds::OnlyNone) => false,
            _ => true,
        }
    }

    /// The texts that a Bloom filter has, if a row meets it; none if they can't all be named.
    fn texts(&self) -> Option<Vec<String>> {
        match self {
            Self::Is(_, value) => Some(vec![value.clone()]),
            Self::NamedAs(uuid) => {
                // Mixed case is a name that is asked for as a name.
                let forms = [
                    uuid.hyphenated().to_string(),
                    uuid.simple().to_string(),
                    uuid.braced().to_string(),
                    uuid.urn().to_string(),
                ];
                let upper = forms.iter().map(|form| form.to_ascii_uppercase()).collect::<Vec<_>>();
                Some(forms.into_iter().chain(upper).collect())
            }
            _ => None,
        }
    }
}

/// The least and the greatest value of some rows.
enum Bounds<'a> {
    Text {
        least: Option<&'a [u8]>,
        most: Option<&'a [u8]>,
        none: Option<bool>,
    },
    Time {
        least: i64,
        most: i64,
        none: Option<bool>,
    },
    Flag {
        most: bool,
        none: Option<bool>,
    },
    /// No row has a value.
    OnlyNone,
    Unknown,
}

impl<'a> Bounds<'a> {
    fn may_have_none(&self) -> bool {
        match self {
            Self::Text { none, .. } | Self::Time { none, .. } | Self::Flag { none, .. } => {
                none.unwrap_or(true)
            }
            Self::OnlyNone | Self::Unknown => true,
        }
    }

    fn of_group(statistics: Option<&'a Statistics>, rows: i64) -> Self {
        let Some(statistics) = statistics else { return Self::Unknown };
        let nulls = statistics.null_count_opt();
        if nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(rows)) {
            return Self::OnlyNone;
        }
        let none = nulls.map(|nulls| nulls > 0);
        match statistics {
            Statistics::ByteArray(_) => {
                Self::Text { least: statistics.min_bytes_opt(), most: statistics.max_bytes_opt(), none }
            }
            Statistics::Int64(values) => match (values.min_opt(), values.max_opt()) {
                (Some(least), Some(most)) => Self::Time { least: *least, most: *most, none },
                _ => Self::Unknown,
            },
            Statistics::Boolean(values) => {
                values.max_opt().map_or(Self::Unknown, |most| Self::Flag { most: *most, none })
            }
            _ => Self::Unknown,
        }
    }

    fn of_page(index: &'a ColumnIndexMetaData, page: usize) -> Self {
        if index.is_null_page(page) {
            return Self::OnlyNone;
        }
        let nulls = index.null_counts().and_then(|nulls| nulls.get(page));
        let none = nulls.map(|nulls| *nulls > 0);
        match index {
            ColumnIndexMetaData::BYTE_ARRAY(index) => {
                Self::Text { least: index.min_value(page), most: index.max_value(page), none }
            }
            ColumnIndexMetaData::INT64(index) => match (index.min_value(page), index.max_value(page)) {
                (Some(least), Some(most)) => Self::Time { least: *least, most: *most, none },
                _ => Self::Unknown,
            },
            ColumnIndexMetaData::BOOLEAN(index) => {
                index.max_value(page).map_or(Self::Unknown, |most| Self::Flag { most: *most, none })
            }
            _ => Self::Unknown,
        }
    }
}

impl Conditions {
    /// Those of both.
    #[must_use]
    pub fn and(mut self, tests: Vec<Test>) -> Self {
        self.0.push(tests);
        self
    }

    /// Whether every row meets them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether only rows of some MACs or guests meet them.
    pub(crate) fn name_a_subject(&self) -> bool {
        let names = |test: &Test| match test {
            Test::Is(column, _) => ["mac", "uuid", GUEST].contains(column),
            Test::NamedAs(_) => true,
            _ => false,
        };
        self.0.iter().any(|tests| tests.iter().all(names))
    }

    /// The leaves that their columns are, where an object has these columns.
    pub(crate) fn leaves(&self, columns: &[FieldRef]) -> Vec<usize> {
        let mut named = BTreeSet::new();
        let mut leaf = 0;
        for column in columns {
            if self.0.iter().flatten().any(|test| test.column() == column.name()) {
                named.insert(leaf);
            }
            leaf += leaves_of(column);
        }
        named.into_iter().collect()
    }

    /// Selects the rows that may meet them, by statistics and Bloom filters, and then those that do.
    pub(crate) fn apply<T: ChunkReader + 'static>(
        &self,
        mut builder: ParquetRecordBatchReaderBuilder<T>,
    ) -> Result<ParquetRecordBatchReaderBuilder<T>, ParquetError> {
        if self.is_empty() {
            return Ok(builder);
        }
        let mut groups = Vec::new();
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut before = 0;
        for group in 0..builder.metadata().num_row_groups() {
            let Some(mut within) = self.rows_of_group(&builder, group)? else { continue };
            let rows = row_count(builder.metadata().row_group(group));
            groups.push(group);
            within.iter_mut().for_each(|range| *range = range.start + before..range.end + before);
            ranges.extend(within);
            before += rows;
        }
        let predicates = self.predicates(builder.parquet_schema());
        builder = builder
            .with_row_groups(groups)
            .with_row_selection(RowSelection::from_consecutive_ranges(ranges.into_iter(), before));
        Ok(builder.with_row_filter(parquet::arrow::arrow_reader::RowFilter::new(predicates)))
    }

    fn predicates(&self, schema: &SchemaDescriptor) -> Vec<Box<dyn ArrowPredicate>> {
        let predicate = |tests: &Vec<Test>| {
            let roots: BTreeSet<usize> =
                tests.iter().filter_map(|test| root_of(schema, test.column())).collect();
            let tests = tests.clone();
            let mask = ProjectionMask::roots(schema, roots);
            let predicate = ArrowPredicateFn::new(mask, move |batch: RecordBatch| any_of(&tests, &batch));
            Box::new(predicate) as Box<dyn ArrowPredicate>
        };
        self.0.iter().map(predicate).collect()
    }

    /// The rows of a row group that may meet them; none if no row does.
    fn rows_of_group<T: ChunkReader + 'static>(
        &self,
        builder: &ParquetRecordBatchReaderBuilder<T>,
        group: usize,
    ) -> Result<Option<Vec<Range<usize>>>, ParquetError> {
        let about = builder.metadata().row_group(group);
        let rows = row_count(about);
        let schema = builder.parquet_schema();
        let may_be_in_group = |test: &Test| match leaf_of(schema, test.column()) {
            // A column that an older object lacks has no values.
            None => matches!(test, Test::None(_)),
            Some(leaf) => {
                test.may_be_within(&Bounds::of_group(about.column(leaf).statistics(), about.num_rows()))
            }
        };
        if !self.0.iter().all(|tests| tests.iter().any(may_be_in_group)) {
            return Ok(None);
        }
        let index = builder.metadata().page_index_for_row_group(group);
        let mut selected: Vec<Range<usize>> = std::iter::once(0..rows).collect();
        for tests in &self.0 {
            let mut of_tests: Vec<Range<usize>> = Vec::new();
            for test in tests.iter().filter(|test| may_be_in_group(test)) {
                let pages = leaf_of(schema, test.column())
                    .and_then(|leaf| Some((index.column_index(leaf)?, index.page_locations(leaf)?)))
                    .filter(|(index, pages)| index.num_pages() == pages.len() as u64);
                let Some((index, pages)) = pages else {
                    of_tests = std::iter::once(0..rows).collect();
                    break;
                };
                let starts: Vec<usize> =
                    pages.iter().filter_map(|page| usize::try_from(page.first_row_index).ok()).collect();
                if starts.len() != pages.len() || !starts.is_sorted() {
                    return Err(ParquetError::General("its page index is not in order".into()));
                }
                for page in 0..starts.len() {
                    let end = starts.get(page + 1).copied().unwrap_or(rows).min(rows);
                    if starts[page] < end && test.may_be_within(&Bounds::of_page(index, page)) {
                        of_tests.push(starts[page]..end);
                    }
                }
            }
            selected = both(&selected, &merged(of_tests));
        }
        if selected.is_empty() || self.is_excluded_by_bloom_filters(builder, group)? {
            return Ok(None);
        }
        Ok(Some(selected))
    }

    fn is_excluded_by_bloom_filters<T: ChunkReader + 'static>(
        &self,
        builder: &ParquetRecordBatchReaderBuilder<T>,
        group: usize,
    ) -> Result<bool, ParquetError> {
        let schema = builder.parquet_schema();
        for tests in &self.0 {
            let mut may = false;
            for test in tests {
                let (Some(texts), Some(leaf)) = (test.texts(), leaf_of(schema, test.column())) else {
                    may = true;
                    break;
                };
                let about = builder.metadata().row_group(group).column(leaf);
                // Without a length, its header would say how much is read.
                if about.bloom_filter_offset().is_none() || about.bloom_filter_length().is_none() {
                    may = true;
                    break;
                }
                let Some(filter) = builder.get_row_group_column_bloom_filter(group, leaf)? else {
                    may = true;
                    break;
                };
                if texts.iter().any(|text| filter.check(&text.as_str())) {
                    may = true;
                    break;
                }
            }
            if !may {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Which rows meet one of some tests.
fn any_of(tests: &[Test], batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
    let mut any = vec![false; batch.num_rows()];
    for test in tests {
        match batch.column_by_name(test.column()) {
            Some(column) => {
                let met = test.of_rows(column)?;
                any.iter_mut().zip(met.values()).for_each(|(any, met)| *any |= met);
            }
            None => any.iter_mut().for_each(|any| *any |= matches!(test, Test::None(_))),
        }
    }
    Ok(BooleanArray::from(any))
}

fn leaves_of(field: &FieldRef) -> usize {
    match field.data_type() {
        arrow_schema::DataType::List(element) => leaves_of(element),
        arrow_schema::DataType::Struct(fields) => fields.iter().map(leaves_of).sum(),
        _ => 1,
    }
}

fn root_of(schema: &SchemaDescriptor, column: &str) -> Option<usize> {
    schema.root_schema().get_fields().iter().position(|field| field.name() == column)
}

/// The leaf of a column that is no list.
fn leaf_of(schema: &SchemaDescriptor, column: &str) -> Option<usize> {
    schema.columns().iter().position(|leaf| leaf.path().parts() == [column])
}

fn row_count(group: &RowGroupMetaData) -> usize {
    usize::try_from(group.num_rows()).unwrap_or(0)
}

/// Ranges in order, those that touch as one.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// What is in both of two lists of ranges in order.
fn both(one: &[Range<usize>], other: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut both = Vec::new();
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        let range = a.start.max(b.start)..a.end.min(b.end);
        if range.start < range.end {
            both.push(range);
        }
        if a.end < b.end {
            one.next();
        } else {
            other.next();
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::object::tests::row;
    use crate::{HeldRow, LakeError, Limits, ObjectReader, ObjectWriter, Row, Store};

    /// Rows with few values in each column, in their order.
    fn rows() -> impl Strategy<Value = Vec<HeldRow>> {
        let one = (0..400_i64, 0..3_i64, proptest::option::of(0..40_i64), any::<bool>(), 0..3_u8);
        let one = one.prop_map(|(mac, host, granted, first, named)| HeldRow {
            host: format!("h{host}").into(),
            guest: ["web", "f3607ac8f5174952b61cb19b40f99661", "db"][usize::from(named)].into(),
            opened: None,
            granted,
            first,
            rdev: first.then(|| "0A:C8".into()),
            ..row(mac)
        });
        proptest::collection::vec(one, 0..12).prop_map(|few| {
            // More than a page.
            let mut rows: Vec<HeldRow> =
                few.iter().enumerate().flat_map(|(at, row)| vec![row.clone(); 200 + 400 * at]).collect();
            rows.sort_by(HeldRow::order);
            rows
        })
    }

    fn test() -> impl Strategy<Value = Test> {
        prop_oneof![
            (0..400_i64).prop_map(|mac| Test::Is("mac", row(mac).mac.into())),
            (0..4_i64).prop_map(|host| Test::Is("host", format!("h{host}"))),
            (0..4_i64, 0..3_i64).prop_map(|(host, more)| {
                Test::Between("host", format!("h{host}"), format!("h{}", host + more))
            }),
            Just(Test::Is("guest", "db".into())),
            Just(Test::NamedAs("f3607ac8-f517-4952-b61c-b19b40f99661".parse().unwrap())),
            Just(Test::Is("uuid", "f3607ac8-f517-4952-b61c-b19b40f99661".into())),
            Just(Test::Is("uuid", "00000000-0000-0000-0000-000000000000".into())),
            Just(Test::None("rdev")),
            Just(Test::None("granted")),
            Just(Test::Some("rdev")),
            Just(Test::Some("of a later version")),
            Just(Test::None("of a later version")),
            Just(Test::Is("of a later version", "x".into())),
            Just(Test::Set("first")),
            Just(Test::Set("last")),
            (0..40_i64, 0..9_i64).prop_map(|(from, more)| Test::Within("granted", from, from + more)),
        ]
    }

    fn meets(row: &HeldRow, test: &Test) -> bool {
        match test {
            Test::Is("mac", value) => row.mac == *value,
            Test::Is("host", value) => row.host == *value,
            Test::Between(_, first, last) => **first <= *row.host && *row.host <= **last,
            Test::Is("guest", value) => row.guest == *value,
            Test::Is("uuid", value) => row.uuid == *value,
            Test::NamedAs(uuid) => row.guest.parse() == Ok(*uuid),
            Test::None("rdev") => row.rdev.is_none(),
            Test::None("granted") => row.granted.is_none(),
            Test::None(_) => true,
            Test::Some("rdev") => row.rdev.is_some(),
            Test::Some(_) => false,
            Test::Set("first") => row.first,
            Test::Set(_) => row.last,
            Test::Within(_, from, until) => {
                row.granted.is_some_and(|granted| *from <= granted && granted <= *until)
            }
            Test::Is(..) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn what_is_read_is_what_meets_the_conditions(
            rows in rows(),
            conditions in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(test(), 1..3), 0..4), 4),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(&format!("file://{}", directory.path().display())).unwrap());
            let mut writer = ObjectWriter::new().unwrap();
            rows.iter().for_each(|row| writer.push(row.clone()).unwrap());
            let object = writer.finish().unwrap();
            store.put_new("x.parquet", object.clone()).unwrap();
            for lists in conditions {
                let expected: Vec<&HeldRow> = rows
                    .iter()
                    .filter(|row| lists.iter().all(|tests| tests.iter().any(|test| meets(row, test))))
                    .collect();
                let bytes = object.len() as u64;
                let conditions = Conditions(lists);
                let reader =
                    ObjectReader::<HeldRow>::open_for(&store, "x.parquet", bytes, Limits::default(), conditions);
                let read: Result<Vec<HeldRow>, LakeError> = reader.unwrap().rows().unwrap().collect();
                prop_assert!(read.unwrap().iter().eq(expected));
            }
        }
    }
}
