//! Pictures: a canvas with images, discs, lines and labels on it, encoded as PNG or GIF.
//!
//! Does not know where images come from, or where files go. Start at `canvas.rs`.

mod canvas;
mod encode;
mod palette;

pub use canvas::{Align, Canvas, Colour, Tile};
pub use encode::{MARK, gif};
pub use palette::{BLACK, CLASSES, GREY, LIGHT, WHITE};
