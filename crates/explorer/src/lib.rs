//! The page that shows the latent space of a VAE: a map to hover over, sliders, a path, a drawing.
//!
//! The networks are computed in the browser (`assets/network.js`). Two pages have the same scripts.
//! [`alone`] is one self-contained file, as `vae explore` writes it. [`served`] are the files
//! of a board, which answers the page's requests (`assets/served.js`). Neither knows where images
//! and parameters come from.

use std::io::{self, Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vae_options::{Architecture, VaeOptions, conv};

const PAGE: &str = include_str!("../assets/page.html");
const STYLE: &str = include_str!("../assets/style.css");
const NETWORK: &str = include_str!("../assets/network.js");
const ENGINE: &str = include_str!("../assets/engine.js");
const WORKER: &str = include_str!("../assets/worker.js");
const SURVEY: &str = include_str!("../assets/survey.js");
const MAP: &str = include_str!("../assets/map.js");
const DRAWING: &str = include_str!("../assets/drawing.js");
const EMBEDDED: &str = include_str!("../assets/embedded.js");
const SERVED: &str = include_str!("../assets/served.js");
const PAGE_JS: &str = include_str!("../assets/page.js");

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The path of the page on a board.
pub const PAGE_ROUTE: &str = "/latent";

/// A file of the page on a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedFile {
    /// The path at which a browser requests it.
    pub route: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// Its content.
    pub text: String,
}

/// The facts about a model's networks that the page needs. `tensors` has the names and lengths of the tensors, in the
/// order of the parameters.
#[must_use]
pub fn network(options: &VaeOptions, tensors: &[(&str, usize)]) -> Value {
    let [height, width, channels] = options.image;
    let levels = (options.architecture == Architecture::Conv).then(|| {
        let level = |level: &conv::Level| [level.channels, level.sides[0], level.sides[1]];
        conv::Levels::of(options.image).below().iter().map(level).collect::<Vec<_>>()
    });
    let colour = |[r, g, b]: [u8; 3]| format!("#{r:02x}{g:02x}{b:02x}");
    json!({
        "height": height, "width": width, "channels": channels,
        "latent": options.latent_dim,
        "tensors": tensors, "levels": levels,
        "colours": picture::CLASSES.map(colour),
    })
}

/// The page as one self-contained file. Its policy allows scripts and styles by their hashes, so that nothing
/// else runs on the page, and the page may load nothing. `assets/embedded.js` unpacks `arrays`.
///
/// # Errors
/// An array cannot be compressed.
pub fn alone(meta: &Value, arrays: &[(&str, Vec<u8>)]) -> io::Result<String> {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let running = [
        ("network", NETWORK),
        ("engine", ENGINE),
        ("map", MAP),
        ("drawing", DRAWING),
        ("embedded", EMBEDDED),
        ("page", PAGE_JS),
    ];
    let hashes = running.map(|(_, text)| hash(text)).join(" ");
    let head = format!(
        "<!-- Written by vae explore. -->\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src {hashes}; \
         worker-src blob:; style-src {}; img-src blob:; base-uri 'none'; form-action 'none'\">\n\
         <style>{STYLE}</style>",
        hash(STYLE)
    );
    // The name of a class must not close the script element.
    let meta = meta.to_string().replace('<', "\\u003c");
    let mut tail = format!("<script type=\"application/json\" id=\"meta\">{meta}</script>\n");
    for (name, bytes) in arrays {
        tail += &format!("<script type=\"text/plain\" id=\"{name}\">");
        BASE64_STANDARD.encode_string(gzip(bytes)?, &mut tail);
        tail += "</script>\n";
    }
    // The worker's script is stored as text and does not run on the page itself.
    tail += &format!("<script type=\"text/plain\" id=\"worker-js\">{WORKER}</script>\n");
    for (name, text) in running {
        tail += &format!("<script id=\"{name}-js\">{text}</script>\n");
    }
    Ok(page(&head, "", tail.trim_end()))
}

/// The files of the page for a board.
#[must_use]
pub fn served() -> Vec<ServedFile> {
    let head = "<link rel=\"icon\" href=\"icon.svg\" type=\"image/svg+xml\">\n\
                <link rel=\"stylesheet\" href=\"latent.css\">";
    let back = "<p><a id=\"back\" href=\"./\">Back to the run</a></p>";
    let script = "<script defer src=\"latent.js\"></script>";
    let file = |route, kind, text: String| ServedFile { route, kind, text };
    vec![
        file(PAGE_ROUTE, "text/html; charset=utf-8", page(head, back, script)),
        file("/latent.css", "text/css; charset=utf-8", STYLE.into()),
        file("/latent.js", SCRIPT, [NETWORK, ENGINE, MAP, DRAWING, SERVED, PAGE_JS].concat()),
        file("/latent-worker.js", SCRIPT, [NETWORK, ENGINE, WORKER].concat()),
        file("/latent-survey.js", SCRIPT, [NETWORK, SURVEY].concat()),
    ]
}

fn page(head: &str, back: &str, tail: &str) -> String {
    PAGE.replace("{{head}}", head).replace("{{back}}", back).replace("{{tail}}", tail)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pages_are_whole_and_name_no_other_place() {
        let meta = json!({ "names": ["</script>"] });
        let alone = alone(&meta, &[("labels", vec![0; 10])]).unwrap();
        assert!(!alone.contains("{{") && !alone.contains("</script>\"]"));
        assert!(alone.contains("id=\"labels\"") && alone.contains("sha256-"));
        let files = served();
        for file in &files {
            assert!(!file.text.contains("{{") && !file.text.contains("://"), "{}", file.route);
            assert!(!file.text.contains("innerHTML"), "{}", file.route);
            assert!(!file.text.contains("style="), "{} has styles that CSP refuses", file.route);
        }
        // All files that the page requests exist.
        let routes: Vec<&str> = files.iter().map(|file| &file.route[1..]).collect();
        let is_file = |word: &&str| word.ends_with(".js") || word.ends_with(".css");
        let asked: Vec<&str> = files[0].text.split('"').filter(is_file).collect();
        assert_eq!(asked, ["latent.css", "latent.js"]);
        assert!(asked.iter().all(|name| routes.contains(name)), "{routes:?}");
        for name in ["latent-worker.js", "latent-survey.js"] {
            assert!(SERVED.contains(name) && routes.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_network_is_described_by_its_options() {
        let mut options = VaeOptions { latent_dim: 3, ..VaeOptions::default() };
        let dense = network(&options, &[("encoder.0.weight", 6)]);
        assert_eq!((&dense["latent"], &dense["levels"]), (&json!(3), &Value::Null));
        assert_eq!(dense["tensors"], json!([["encoder.0.weight", 6]]));
        options.architecture = Architecture::Conv;
        options.image = [28, 28, 1];
        assert_eq!(network(&options, &[])["levels"][0], json!([32, 14, 14]));
    }
}
