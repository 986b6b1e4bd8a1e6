//! Lets this crate's tests and examples find libtorch without LD_LIBRARY_PATH, and libtorch
//! find what the crate model exports for it.

fn main() {
    // Searched before LD_LIBRARY_PATH, which may lead to another libtorch (DT_RPATH); without this
    // flag, after it (DT_RUNPATH).
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags");
    println!("cargo:rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-link-arg=-Wl,--export-dynamic-symbol=mkl_serv_intel_cpu_true");
}
