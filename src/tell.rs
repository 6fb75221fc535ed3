//! What is told to whoever collects `tracing` events: nothing, and at no cost, without the feature of that name.

/// Tells a message with its fields, at a level of `tracing`.
macro_rules! tell {
    ($level:ident, $message:literal $(, $field:ident = $value:expr)* $(,)?) => {{
        #[cfg(feature = "tracing")]
        tracing::event!(target: "lapwing::storage", tracing::Level::$level, $($field = $value,)* $message);
        #[cfg(not(feature = "tracing"))]
        let _ = || { $(let _ = &$value;)* };
    }};
}
