//! The models are in `tests/models.rs`.

#[cfg(not(loom))]
compile_error!("loom is not on: run `cargo test --release` in the folder loom-tests, without RUSTFLAGS");
