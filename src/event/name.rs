//! The names that the schema knows, and all others.

use super::owned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::convert::Infallible;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Defines an enum of names, of which any may come: each known name with its index and its spelling, and `Other`.
macro_rules! names {
    (
        $(#[$about:meta])*
        pub enum $name:ident, $count:literal known {
            $($(#[$about_variant:meta])* $variant:ident = $index:literal $text:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub enum $name<'a> {
            $($(#[$about_variant])* $variant,)+
            /// Any other name; it is carried as it is. One of the known names in here is equal to its own variant,
            /// and `From` makes that one of it.
            Other(Cow<'a, str>),
        }

        impl<'a> $name<'a> {
            /// The names that are known.
            pub const KNOWN: [$name<'static>; $count] = [$($name::$variant),+];

            /// The spellings of the known names.
            pub(super) const NAMES: [&'static str; $count] = [$($text),+];

            fn known(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(name) => name,
                }
            }

            /// The place of the name among the known ones, or how many there are for any other name.
            #[allow(dead_code)] // only a category's is asked for
            #[inline]
            pub(crate) fn index(&self) -> u8 {
                match self {
                    $(Self::$variant => $index,)+
                    Self::Other(name) => Self::index_of(name),
                }
            }

            /// As `index`, of a name.
            #[allow(dead_code)]
            pub(crate) fn index_of(name: &str) -> u8 {
                match name {
                    $($text => $index,)+
                    _ => $count,
                }
            }

            /// The name with nothing borrowed.
            pub fn into_owned(self) -> $name<'static> {
                match self {
                    $(Self::$variant => $name::$variant,)+
                    Self::Other(name) => $name::Other(owned(name)),
                }
            }
        }

        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name<'_> {}

        impl PartialOrd for $name<'_> {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name<'_> {
            fn cmp(&self, other: &Self) -> Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        impl Hash for $name<'_> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl<'a> From<&'a str> for $name<'a> {
            fn from(name: &'a str) -> Self {
                Cow::Borrowed(name).into()
            }
        }

        impl From<String> for $name<'_> {
            fn from(name: String) -> Self {
                Cow::<str>::Owned(name).into()
            }
        }

        impl<'a> From<Cow<'a, str>> for $name<'a> {
            fn from(name: Cow<'a, str>) -> Self {
                Self::known(&name).unwrap_or(Self::Other(name))
            }
        }

        impl FromStr for $name<'static> {
            type Err = Infallible;

            fn from_str(name: &str) -> Result<Self, Infallible> {
                Ok($name::from(name).into_owned())
            }
        }

        impl Serialize for $name<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                super::serde_impls::text(deserializer).map(Self::from)
            }
        }
    };
}

names! {
    /// What part of the system an event is about. Equality, order and hash are those of the name.
    ///
    /// ```
    /// use lapwing::event::Category;
    ///
    /// assert_eq!(Category::from("network"), Category::Network);
    /// assert_eq!(Category::from("weather").as_str(), "weather");
    /// ```
    pub enum Category, 12 known {
        /// `console`: what pages log.
        Console = 0 "console",
        /// `network`: requests, responses, sockets.
        Network = 1 "network",
        /// `page`: navigation and life cycle.
        Page = 2 "page",
        /// `interaction`: what a user did.
        Interaction = 3 "interaction",
        /// `api`: calls of the server's own interface.
        Api = 4 "api",
        /// `system`: the machine and its processes. Always captured.
        System = 5 "system",
        /// `control`
        Control = 6 "control",
        /// `connection`
        Connection = 7 "connection",
        /// `screenshot`
        Screenshot = 8 "screenshot",
        /// `captcha`
        Captcha = 9 "captcha",
        /// `monitor`
        Monitor = 10 "monitor",
        /// `platform`
        Platform = 11 "platform",
    }
}

impl Category<'_> {
    /// The categories of the schema's first version: what is captured if all are.
    pub const ALL: [Category<'static>; 6] = [
        Category::Console,
        Category::Network,
        Category::Page,
        Category::Interaction,
        Category::Api,
        Category::System,
    ];
}

names! {
    /// What produced an event. Equality, order and hash are those of the name.
    pub enum SourceKind, 4 known {
        /// `cdp`: the DevTools protocol of a browser.
        Cdp = 0 "cdp",
        /// `kernel_api`: the server's own interface.
        KernelApi = 1 "kernel_api",
        /// `extension`: a browser extension.
        Extension = 2 "extension",
        /// `local_process`: a process of the same machine.
        LocalProcess = 3 "local_process",
    }
}
