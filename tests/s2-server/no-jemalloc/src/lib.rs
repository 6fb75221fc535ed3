//! Empty, in place of the crate of this name: see the manifest one folder up.
