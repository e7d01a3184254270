//! The one piece of arithmetic on WAL positions that freshness needs.
//!
//! It knows the layout of WAL pages. It does not know who reported a position, nor when (`history`).

/// The sizes that a cluster's WAL was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalShape {
    page: u64,
    segment: u64,
}

impl WalShape {
    /// `None` for sizes that no server has, so that a strange answer cannot become a division by zero.
    pub(crate) fn new(page: u64, segment: u64) -> Option<WalShape> {
        (page.is_power_of_two() && segment.is_power_of_two() && page > LONG_HEADER && segment >= page)
            .then_some(WalShape { page, segment })
    }

    /// Where the last record that was inserted ends, given `pg_current_wal_insert_lsn()`.
    ///
    /// The server reports where the *next* record will start. If the last one ended exactly at the end of a page, the
    /// next one starts behind the header of the new page (`XLogBytePosToRecPtr`), while replay reports the plain end
    /// of the record (`XLogBytePosToEndRecPtr`): the page's first byte. On an idle primary the two stay apart by the
    /// header for as long as nothing is written, and a replica that has everything would look stale for ever.
    ///
    /// The correction is exact, not a tolerance. A record that reaches into a page has at least one byte of its own
    /// behind the header, so no record can end directly behind a header: an insert position there always means that
    /// everything inserted ended at the page's start or before. (Builds for 32-bit machines have shorter headers.
    /// There the correction never applies, and a replica at a page's start looks stale until the next record: reads
    /// then go to the primary, which is the safe side.)
    pub(crate) fn end_of_inserted(self, insert_lsn: u64) -> u64 {
        let header = if insert_lsn % self.segment < self.page { LONG_HEADER } else { SHORT_HEADER };
        let in_page = insert_lsn % self.page;
        if in_page == header { insert_lsn - in_page } else { insert_lsn }
    }
}

/// `SizeOfXLogShortPHD`: the header of a WAL page.
const SHORT_HEADER: u64 = 24;

/// `SizeOfXLogLongPHD`: the header of the first page of a segment.
const LONG_HEADER: u64 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn check(segment: u64, insert_lsn: u64, expected: u64) {
        let shape = WalShape::new(8192, segment).unwrap();
        assert_eq!(shape.end_of_inserted(insert_lsn), expected, "{insert_lsn:X} in segments of {segment}");
    }

    #[test]
    fn segment_start() {
        check(16 * MB, 0xD00_0028, 0xD00_0000);
        check(16 * MB, 0x1_0100_0028, 0x1_0100_0000);
        check(MB, 0xD10_0028, 0xD10_0000);
        // 24 bytes into a segment's first page lie within its long header; no server reports that.
        check(16 * MB, 0xD00_0018, 0xD00_0018);
        check(16 * MB, 0xD00_0030, 0xD00_0030);
        check(16 * MB, 0xD00_0000, 0xD00_0000);
    }

    #[test]
    fn page_start() {
        check(16 * MB, 0xD00_2018, 0xD00_2000);
        check(16 * MB, 0xDFF_E018, 0xDFF_E000);
        // Behind a short header 40 bytes are a record's bytes.
        check(16 * MB, 0xD00_2028, 0xD00_2028);
        // What starts a segment of 1 MB is a page like others in segments of 16 MB.
        check(16 * MB, 0xD10_0028, 0xD10_0028);
        check(16 * MB, 0xD10_0018, 0xD10_0000);
        check(16 * MB, 0xD00_2020, 0xD00_2020);
    }

    #[test]
    fn strange_sizes() {
        assert_eq!(WalShape::new(0, 0), None);
        assert_eq!(WalShape::new(8192, 0), None);
        assert_eq!(WalShape::new(8000, 16 * MB), None);
        assert_eq!(WalShape::new(8192, 4096), None);
        assert_eq!(WalShape::new(16, 4096), None);
    }
}
