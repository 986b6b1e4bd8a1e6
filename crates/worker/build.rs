//! Lets this crate's tests find libtorch at run time, and MKL find the function that unlocks its
//! fast path (see `crates/model/src/blas.rs`).

fn main() {
    // Searched before LD_LIBRARY_PATH, which may lead to another libtorch (DT_RPATH); without this
    // flag, after it (DT_RUNPATH).
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    if let Ok(libtorch) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}");
    }
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
}
