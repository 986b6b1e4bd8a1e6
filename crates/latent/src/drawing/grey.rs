//! A grey picture of any size.

/// Levels from 0 (dark) to 1 (light), row by row.
#[derive(Clone, Debug)]
pub(super) struct Grey {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<f32>,
}

impl Grey {
    pub(super) fn at(&self, x: usize, y: usize) -> f32 {
        self.pixels[y * self.width + x]
    }

    /// The median of the outermost pixels.
    pub(super) fn border_median(&self) -> f32 {
        let (right, bottom) = (self.width - 1, self.height - 1);
        let rows = (0..self.height).flat_map(|y| [self.at(0, y), self.at(right, y)]);
        let columns = (0..self.width).flat_map(|x| [self.at(x, 0), self.at(x, bottom)]);
        quantile(rows.chain(columns).collect(), 0.5)
    }

    /// The picture, shrunk so that its longer side is at most `side` pixels.
    pub(super) fn shrunk(&self, side: usize) -> Self {
        let larger = self.width.max(self.height);
        if larger <= side {
            return self.clone();
        }
        let scale = larger as f64 / side as f64;
        let shrink = |len: usize| ((len as f64 / scale).round() as usize).max(1);
        let (width, height) = (shrink(self.width), shrink(self.height));
        let (x_step, y_step) =
            (self.width as f64 / width as f64, self.height as f64 / height as f64);
        let span = |step: f64, cell: usize| [step * cell as f64, step * (cell + 1) as f64];
        let cells = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = cells.map(|(x, y)| self.mean(span(x_step, x), span(y_step, y)) as f32);
        Self { width, height, pixels: pixels.collect() }
    }

    /// The mean over a rectangle with fractional bounds. Shrinking averages pixels, enlarging repeats them.
    pub(super) fn mean(&self, [left, right]: [f64; 2], [top, bottom]: [f64; 2]) -> f64 {
        let overlap = |from: f64, to: f64, cell: usize| {
            (to.min(cell as f64 + 1.0) - from.max(cell as f64)).max(0.0)
        };
        let cells = |from: f64, to: f64, len: usize| {
            (from.max(0.0) as usize).min(len)..(to.max(0.0).ceil() as usize).min(len)
        };
        let (mut sum, mut area) = (0.0, 0.0);
        for y in cells(top, bottom, self.height) {
            for x in cells(left, right, self.width) {
                let share = overlap(left, right, x) * overlap(top, bottom, y);
                sum += share * f64::from(self.at(x, y));
                area += share;
            }
        }
        if area > 0.0 { sum / area } else { 0.0 }
    }

    /// The bounds of the pixels lighter than `level`: left, right, top, bottom, the ends excluded. The whole picture
    /// if no pixel is lighter.
    pub(super) fn bounds(&self, level: f32) -> [usize; 4] {
        let inked = |x: usize, y: usize| self.at(x, y) > level;
        let column = |x: &usize| (0..self.height).any(|y| inked(*x, y));
        let row = |y: &usize| (0..self.width).any(|x| inked(x, *y));
        let ends = |len: usize, holds: &dyn Fn(&usize) -> bool| {
            let (first, last) = ((0..len).find(holds), (0..len).rev().find(holds));
            first.zip(last).map_or([0, len], |(first, last)| [first, last + 1])
        };
        let ([left, right], [top, bottom]) = (ends(self.width, &column), ends(self.height, &row));
        [left, right, top, bottom]
    }
}

/// The value below which this share of the values lies; 0 if there are no values.
pub(super) fn quantile(mut values: Vec<f32>, share: f64) -> f32 {
    let place = (share * values.len() as f64) as usize;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(place, f32::total_cmp).1 }
}
