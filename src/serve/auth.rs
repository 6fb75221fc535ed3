//! Who is let in.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use subtle::ConstantTimeEq;

use super::{Shared, refusal};

/// What clients have to know to be let in. It is never shown, and compared in a time that only depends on how long it is.
///
/// ```
/// use lapwing::serve::Token;
///
/// let token: Token = "4Jx-not-this-one".parse()?;
/// assert_eq!(format!("{token:?}"), "Token(..)");
/// assert!("with a blank".parse::<Token>().is_err());
/// # Ok::<(), lapwing::serve::TokenError>(())
/// ```
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl FromStr for Token {
    type Err = TokenError;

    /// # Errors
    ///
    /// When `token` is empty, or has anything but visible ASCII characters, as a header needs.
    fn from_str(token: &str) -> Result<Self, TokenError> {
        match token.bytes().position(|byte| !byte.is_ascii_graphic()) {
            _ if token.is_empty() => Err(TokenError::Empty),
            Some(at) => Err(TokenError::Character { at }),
            None => Ok(Self(token.as_bytes().into())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let Some((scheme, given)) = given.split_at_checked(b"Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.trim_ascii().ct_eq(&self.0))
    }
}

/// This is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// It has no characters.
    Empty,
    /// One of its characters is none of visible ASCII.
    Character {
        /// The byte at which that one is.
        at: usize,
    },
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => {
                f.write_str("an empty token lets nobody in: one or more visible ASCII characters are allowed")
            }
            Self::Character { at } => {
                write!(
                    f,
                    "byte {at} of the token cannot be sent in a header: visible ASCII characters are allowed"
                )
            }
        }
    }
}

impl std::error::Error for TokenError {}

/// Lets in whoever has the token. Without one, whoever has not been led here by a name: a page of a stranger can have its own name resolved to
/// this machine, and would then be of the same origin.
pub(super) async fn guard(state: Shared, request: Request, next: Next) -> Response {
    match &state.token {
        Some(token) if !token.is_in(request.headers()) => {
            let mut response =
                refusal(StatusCode::UNAUTHORIZED, "the token is missing, or is not the right one");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        None if state.by_itself && !is_local(&request) => {
            let what =
                "the server has to be called by an address or as localhost, as long as it has no token";
            refusal(StatusCode::FORBIDDEN, what)
        }
        _ => next.run(request).await,
    }
}

fn is_local(request: &Request) -> bool {
    let named = match (request.uri().authority(), request.headers().get(header::HOST)) {
        (Some(authority), _) => Some(authority.clone()),
        (None, Some(host)) => Authority::try_from(host.as_bytes()).ok(),
        (None, None) => return true, // no browser
    };
    named.is_some_and(|authority| {
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_localhost = host.eq_ignore_ascii_case("localhost")
            || host.rsplit_once('.').is_some_and(|(_, top)| top.eq_ignore_ascii_case("localhost"));
        is_localhost || address.parse::<IpAddr>().is_ok()
    })
}
