//! Builds the library's files for the model checker, with the features that have a model.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cfg=shuttle");
    println!("cargo:rustc-cfg=feature=\"postgres\"");
}
