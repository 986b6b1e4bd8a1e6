//! The files of the page. They are part of the program; the page loads nothing from other places.

use std::{borrow::Cow, io::Write as _, sync::OnceLock};

use axum::{
    http::{
        HeaderMap,
        header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use crate::explore::PageFile;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page.
#[derive(Debug)]
pub(crate) struct Asset {
    /// The path in the file's URL.
    pub(crate) route: &'static str,
    kind: &'static str,
    pub(crate) text: Cow<'static, str>,
    compressed: OnceLock<Bytes>,
}

const fn asset(route: &'static str, kind: &'static str, text: &'static str) -> Asset {
    Asset { route, kind, text: Cow::Borrowed(text), compressed: OnceLock::new() }
}

/// All files of the page.
pub(crate) static ASSETS: [Asset; 12] = [
    asset("/", HTML, include_str!("../assets/index.html")),
    asset("/board.css", CSS, include_str!("../assets/board.css")),
    asset("/board.js", SCRIPT, include_str!("../assets/board.js")),
    asset("/charts.js", SCRIPT, include_str!("../assets/charts.js")),
    asset("/compare.js", SCRIPT, include_str!("../assets/compare.js")),
    asset("/enter.js", SCRIPT, include_str!("../assets/enter.js")),
    asset("/format.js", SCRIPT, include_str!("../assets/format.js")),
    asset("/icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
    asset("/live.js", SCRIPT, include_str!("../assets/live.js")),
    asset("/panels.js", SCRIPT, include_str!("../assets/panels.js")),
    asset("/uplot.css", CSS, include_str!("../assets/uplot.css")),
    asset("/uplot.js", SCRIPT, include_str!("../assets/uplot.js")),
];

impl From<PageFile> for Asset {
    fn from(PageFile { route, kind, text }: PageFile) -> Self {
        Self { route, kind, text: Cow::Owned(text), compressed: OnceLock::new() }
    }
}

impl Asset {
    fn compressed(&self) -> Bytes {
        let compress = || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            // Writing to memory cannot fail.
            let _infallible = encoder.write_all(self.text.as_bytes());
            encoder.finish().unwrap_or_default().into()
        };
        self.compressed.get_or_init(compress).clone()
    }

    pub(crate) fn answer(&self, headers: &HeaderMap) -> Response {
        let kind = [(CONTENT_TYPE, self.kind), (VARY, "accept-encoding")];
        let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
        if accepted.is_some_and(|accepted| accepted.contains("gzip")) {
            return (kind, [(CONTENT_ENCODING, "gzip")], self.compressed()).into_response();
        }
        (kind, self.text.clone()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_names_no_other_place() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.compressed().len()).sum();
        assert!(bytes <= 64 * 1024, "{bytes} bytes");
        for asset in &ASSETS {
            let foreign = asset.text.matches("://").count();
            let namespace = asset.text.matches("http://www.w3.org/").count();
            let about = asset.text.matches("https://github.com/leeoniya/uPlot").count();
            assert_eq!(foreign, namespace + about, "{} names another place", asset.route);
            assert!(!asset.text.contains("innerHTML"), "{}", asset.route);
            assert!(!asset.text.contains("style="), "{} has styles that CSP refuses", asset.route);
        }
    }

    #[test]
    fn all_that_the_page_asks_for_is_there() {
        let html = &ASSETS[0].text;
        for word in html.split('"').filter(|word| word.ends_with(".js") || word.ends_with(".css")) {
            assert!(
                ASSETS.iter().any(|asset| asset.route.trim_start_matches('/') == word),
                "{word}"
            );
        }
        for asset in &ASSETS {
            let imports = asset.text.split("from \"./").skip(1);
            for name in imports.filter_map(|rest| rest.split('"').next()) {
                assert!(ASSETS.iter().any(|asset| &asset.route[1..] == name), "{name}");
            }
        }
    }
}
