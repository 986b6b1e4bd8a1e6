//! Pictures of digits: a canvas with digits, discs, lines and labels on it, and its bytes as
//! PNG or GIF.
//!
//! It does not know where digits come from, or where files go. Start at `canvas.rs`.

mod canvas;
mod encode;
mod palette;

pub use canvas::{Align, Canvas, Colour, SIDE};
pub use encode::{MARK, gif};
pub use palette::{BLACK, CLASSES, GREY, LIGHT, WHITE};
