//! What several parts need at their start.

use std::path::Path;
use std::thread;

/// Whether this stands for standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The token in a file, without the white space around it.
pub fn token(path: &Path) -> Result<String, String> {
    let token = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the token in {}: {error}", path.display()))?;
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{} holds no token: one line of ASCII letters, digits and marks",
            path.display()
        ));
    }
    Ok(token.to_owned())
}

/// Starts a thread, which nobody joins.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|error| format!("cannot start the thread {name}: {error}"))
}
