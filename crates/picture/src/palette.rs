//! Colours with fixed meanings, chosen so that a colour-blind person can tell them apart.

use crate::Colour;

/// Background.
pub const WHITE: Colour = [255, 255, 255];
/// Text.
pub const BLACK: Colour = [20, 20, 20];
/// Explanations, which are less important than the content.
pub const GREY: Colour = [110, 110, 110];
/// Guide lines.
pub const LIGHT: Colour = [225, 225, 225];

/// The colours of classes; more classes use them again from the start. They are the nine colours of the scheme
/// "muted" of Paul Tol's technical note "Colour schemes" (2021), and a dark grey.
pub const CLASSES: [Colour; 10] = [
    [204, 102, 119],
    [51, 34, 136],
    [221, 204, 119],
    [17, 119, 51],
    [136, 204, 238],
    [136, 34, 85],
    [68, 170, 153],
    [153, 153, 51],
    [170, 68, 153],
    [85, 85, 85],
];
