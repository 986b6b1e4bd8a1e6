//! The working memory of a thread that multiplies matrices.

use std::cell::RefCell;

/// Numbers of a cache line.
pub(super) const LINE: usize = 16;

/// Links of a chunk whose panels fit.
pub(super) const LINKS: usize = 128;

/// Columns of a block: a chunk of them takes 128 KiB, which fits the second-level cache.
pub(super) const COLUMNS_MAX: usize = 256;

/// Rows of a block.
pub(super) const ROWS_MAX: usize = 512;

/// Memory for one block.
pub(super) struct Space {
    /// The right factor: [`LINKS`] x [`COLUMNS_MAX`] numbers.
    pub(super) panels: Vec<Line>,
    /// [`ROWS_MAX`] x [`COLUMNS_MAX`] numbers.
    pub(super) results: Vec<Line>,
    /// The links of each panel that are not skipped.
    pub(super) lists: Vec<[u16; LINKS]>,
    /// Their number.
    pub(super) kept: Vec<usize>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Line(#[allow(dead_code, reason = "used by address")] [f32; LINE]);

impl Space {
    fn new() -> Self {
        let lines = |floats: usize| vec![Line([0.0; LINE]); floats / LINE];
        // A panel has at least one vector of eight.
        let panels_max = COLUMNS_MAX / 8;
        Self {
            panels: lines(LINKS * COLUMNS_MAX),
            results: lines(ROWS_MAX * COLUMNS_MAX),
            lists: vec![[0; LINKS]; panels_max],
            kept: vec![0; panels_max],
        }
    }

    /// Calls `with` with the memory of this thread.
    pub(super) fn of_thread<R>(with: impl FnOnce(&mut Self) -> R) -> R {
        thread_local! {
            static SPACE: RefCell<Space> = RefCell::new(Space::new());
        }
        SPACE.with_borrow_mut(with)
    }
}

/// Allocates the working memory of this thread, unless it exists already.
pub(crate) fn prepare_thread() {
    Space::of_thread(|_| ());
}

/// `0..len` in ranges of length `most`; the last range may be shorter.
pub(super) fn ranges(len: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(most).map(move |start| (start, (start + most).min(len)))
}
