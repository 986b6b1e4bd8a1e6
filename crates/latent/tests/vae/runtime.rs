//! ONNX Runtime, which `cargo xtask test` installs in `.onnxruntime/`: it computes what people's
//! programs will compute with the exported files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Set if the tests must not be left out.
const REQUIRED: &str = "LOCKSTEP_ONNX_REQUIRED";

/// Whether ONNX Runtime is there; if not, notes that the test is left out.
pub(crate) fn is_there() -> bool {
    let site = site();
    if site.exists() {
        return true;
    }
    let reason = format!("{} is not there: `cargo xtask test` fetches it", site.display());
    left_out::note_unless(REQUIRED, "ONNX files in ONNX Runtime", &reason);
    false
}

/// Runs an ONNX file on rows of one width; returns its outputs.
pub(crate) fn run(file: &Path, rows: &[f32], width: usize) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let given = folder.path().join("rows");
    let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(&given, bytes).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vae/run_onnx.py");
    let mut python = Command::new("python3");
    python.arg("-s").arg(script).arg(file).arg(&given).arg(width.to_string());
    python.arg(folder.path()).env("PYTHONPATH", site()).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let paths = (0..).map(|number| folder.path().join(format!("{number}.f32")));
    paths.map_while(|path| fs::read(path).ok()).map(|bytes| floats(&bytes)).collect()
}

fn site() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.onnxruntime/site")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}
