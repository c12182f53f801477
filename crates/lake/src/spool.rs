//! Rows on their way into objects: sorted in pieces, on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read as _, Write as _};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use itertools::Itertools as _;
use zstd::bulk::{Compressor, Decompressor};

use crate::object::ROW_GROUP;
use crate::{Day, LakeError, Row};

/// The rows of an object, or of several in one order.
pub type SortedRows<R> = Box<dyn Iterator<Item = Result<R, LakeError>>>;

/// Merges rows that are sorted. An error comes first.
pub(crate) fn merged<R: Row + 'static>(mut sorted: Vec<SortedRows<R>>) -> SortedRows<R> {
    if sorted.len() == 1
        && let Some(only) = sorted.pop()
    {
        return only;
    }
    let merged = sorted.into_iter().kmerge_by(|a, b| match (a, b) {
        (Ok(a), Ok(b)) => a.order(b).is_lt(),
        (Err(_), _) => true,
        (Ok(_), Err(_)) => false,
    });
    Box::new(merged)
}

/// How many pieces of a day are merged at once.
const PIECES_AT_ONCE: usize = 32;

/// Bytes of rows that are compressed at a time.
const BLOCK: usize = 64 << 10;

/// Rows of one table, of any days and in any order. Only a row group is in memory.
pub struct Spool<R: Row> {
    directory: PathBuf,
    /// Each by itself: sorting moves rows.
    rows: BTreeMap<Day, Vec<Box<R>>>,
    waiting: usize,
    /// The sorted pieces on disk.
    pieces: BTreeMap<Day, Vec<PathBuf>>,
    written: usize,
}

impl<R: Row + 'static> Spool<R> {
    /// An empty spool in a directory, which spools of other tables may share.
    pub fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        Self { directory, rows: BTreeMap::new(), waiting: 0, pieces: BTreeMap::new(), written: 0 }
    }

    /// Adds a row of a day.
    ///
    /// # Errors
    ///
    /// The disk is full, or the row can't be encoded.
    pub fn push(&mut self, day: Day, row: R) -> Result<(), LakeError> {
        self.rows.entry(day).or_default().push(Box::new(row));
        self.waiting += 1;
        if self.waiting < ROW_GROUP { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), LakeError> {
        self.waiting = 0;
        for (day, mut rows) in std::mem::take(&mut self.rows) {
            rows.sort_by(|a, b| a.order(b));
            self.write_piece(day, rows.into_iter().map(|row| Ok(*row)))?;
        }
        Ok(())
    }

    fn write_piece(
        &mut self,
        day: Day,
        rows: impl Iterator<Item = Result<R, LakeError>>,
    ) -> Result<(), LakeError> {
        let path = self.directory.join(format!("{}-{}", R::TABLE, self.written));
        self.written += 1;
        let mut piece = PieceWriter::create(&path).map_err(LakeError::Scratch)?;
        for row in rows {
            piece.push(&row?).map_err(LakeError::Scratch)?;
        }
        piece.finish().map_err(LakeError::Scratch)?;
        self.pieces.entry(day).or_default().push(path);
        Ok(())
    }

    /// Merges pieces of a day until few are left: each that is read has rows in memory.
    fn merge_pieces(&mut self, day: Day) -> Result<(), LakeError> {
        loop {
            let pieces = self.pieces.entry(day).or_default();
            if pieces.len() <= PIECES_AT_ONCE {
                return Ok(());
            }
            let first: Vec<PathBuf> = pieces.drain(..PIECES_AT_ONCE).collect();
            let rows = merged(first.iter().map(|path| PieceReader::open(path)).collect::<Result<_, _>>()?);
            self.write_piece(day, rows)?;
            first.iter().try_for_each(fs::remove_file).map_err(LakeError::Scratch)?;
        }
    }

    /// The days that have rows.
    pub fn days(&self) -> impl Iterator<Item = Day> {
        self.rows.keys().chain(self.pieces.keys()).copied()
    }

    /// Takes the rows of a day, in their order.
    ///
    /// # Errors
    ///
    /// What was written can't be read.
    pub fn take(&mut self, day: Day) -> Result<SortedRows<R>, LakeError> {
        let mut rows = self.rows.remove(&day).unwrap_or_default();
        self.waiting -= rows.len();
        rows.sort_by(|a, b| a.order(b));
        let mut sorted: Vec<SortedRows<R>> = vec![Box::new(rows.into_iter().map(|row| Ok(*row)))];
        self.merge_pieces(day)?;
        for path in self.pieces.remove(&day).unwrap_or_default() {
            sorted.push(PieceReader::open(&path)?);
        }
        Ok(merged(sorted))
    }
}

/// Writes rows to a file of this process, in blocks: the length of each, compressed and not, before
/// it. They are read once, and Parquet's columns would cost more than they save.
struct PieceWriter {
    file: BufWriter<File>,
    compressor: Compressor<'static>,
    block: Vec<u8>,
}

impl PieceWriter {
    fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create_new(path)?);
        // The fastest level but for those that barely compress.
        Ok(Self { file, compressor: Compressor::new(1)?, block: Vec::with_capacity(2 * BLOCK) })
    }

    fn push<R: Row>(&mut self, row: &R) -> io::Result<()> {
        postcard::to_io(row, &mut self.block).map_err(io::Error::other)?;
        if self.block.len() < BLOCK { Ok(()) } else { self.write_block() }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let compressed = self.compressor.compress(&self.block)?;
        for length in [compressed.len(), self.block.len()] {
            let length = u32::try_from(length).map_err(io::Error::other)?;
            self.file.write_all(&length.to_le_bytes())?;
        }
        self.block.clear();
        self.file.write_all(&compressed)
    }

    fn finish(mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        self.file.flush()
    }
}

/// Reads the rows of a piece.
struct PieceReader<R> {
    file: BufReader<File>,
    decompressor: Decompressor<'static>,
    compressed: Vec<u8>,
    block: Vec<u8>,
    /// Where the next row begins.
    at: usize,
    row: PhantomData<R>,
}

impl<R: Row + 'static> PieceReader<R> {
    fn open(path: &Path) -> Result<SortedRows<R>, LakeError> {
        let open = || -> io::Result<Self> {
            Ok(Self {
                file: BufReader::new(File::open(path)?),
                decompressor: Decompressor::new()?,
                compressed: Vec::new(),
                block: Vec::new(),
                at: 0,
                row: PhantomData,
            })
        };
        Ok(Box::new(open().map_err(LakeError::Scratch)?))
    }

    fn length(&mut self) -> io::Result<usize> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)
    }

    fn next_row(&mut self) -> io::Result<Option<R>> {
        if self.at == self.block.len() {
            let compressed = match self.length() {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                length => length?,
            };
            let length = self.length()?;
            self.compressed.resize(compressed, 0);
            self.file.read_exact(&mut self.compressed)?;
            self.block = self.decompressor.decompress(&self.compressed, length)?;
            self.at = 0;
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let (row, after) = postcard::take_from_bytes(rest).map_err(io::Error::other)?;
        self.at = self.block.len() - after.len();
        Ok(Some(row))
    }
}

impl<R: Row + 'static> Iterator for PieceReader<R> {
    type Item = Result<R, LakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().map_err(LakeError::Scratch).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeldRow;
    use crate::object::tests::row;

    #[test]
    fn rows_come_back_sorted_from_many_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::<HeldRow>::new(directory.path());
        let (one, two): (Day, Day) = ("2026-11-29".parse().unwrap(), "2026-11-30".parse().unwrap());
        // More pieces of one day than are merged at once, the last of which stays in memory.
        let all: Vec<HeldRow> = (0..40_000).map(row).collect();
        for (number, row) in all.iter().enumerate() {
            let number = number * 7919 % all.len();
            spool.push(one, all[number].clone()).unwrap();
            if number == 5 {
                spool.push(two, row.clone()).unwrap();
            }
            if spool.waiting == 1000 {
                spool.flush().unwrap();
            }
        }
        assert!(spool.pieces[&one].len() > PIECES_AT_ONCE);
        let mut expected = all.clone();
        expected.sort_by(Row::order);
        let taken: Vec<HeldRow> = spool.take(one).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(taken == expected, "sorted, and none is lost");
        assert_eq!(spool.take(two).unwrap().count(), 1);
        assert_eq!(spool.take(one).unwrap().count(), 0);
    }

    #[test]
    fn a_piece_that_is_cut_off_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("piece");
        let mut piece = PieceWriter::create(&path).unwrap();
        (0..1000).for_each(|number| piece.push(&row(number)).unwrap());
        piece.finish().unwrap();
        let content = fs::read(&path).unwrap();
        fs::write(&path, &content[..content.len() - 1]).unwrap();
        let read: Vec<Result<HeldRow, LakeError>> = PieceReader::open(&path).unwrap().take(1001).collect();
        assert!(matches!(read.last(), Some(Err(LakeError::Scratch(_)))));
    }
}
