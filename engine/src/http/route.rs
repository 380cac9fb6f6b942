//! A path as an application writes it for one of its components, by Spin's rules.
//!
//! Its segments are literal or `:name` for any one; `...` at its end stands for all that follow, none included. Of the
//! routes that fit a path, literal segments come before named ones, and these before `...`, from the left on; slashes at
//! either end of a path say nothing. (spin, crates/http/src/routes.rs over the crate routefinder.)

use crate::protocol::{Error, bad_request};
use hyper::header::{HeaderName, HeaderValue};

/// All that follows.
const REST: &str = "...";

/// A route, ready to be compared with paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    raw: String,
    segments: Vec<Segment>,
    /// It ends in `...`.
    is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// By which header a guest is told what it stands for.
    Named(HeaderName),
}

/// How a path fits a route.
#[derive(Debug, PartialEq, Eq)]
pub struct Fit<'a> {
    /// What each `:name` stands for, by its header.
    pub named: Vec<(&'a HeaderName, &'a str)>,
    /// What `...` stands for, with the slashes around it.
    pub rest: String,
}

/// Checks what the schema cannot say of an application's routes.
pub fn check<'a>(routes: impl IntoIterator<Item = &'a String>) -> Result<(), Error> {
    let mut count = 0;
    for route in routes {
        Route::parse(route)?;
        count += 1;
    }
    if count == 0 {
        return Err(bad_request("no component of the application has a route"));
    }
    Ok(())
}

impl Route {
    /// Reads a route as an application writes it.
    pub fn parse(raw: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Err(bad_request(format!("the route {raw:?} {why}")));
        if HeaderValue::from_str(raw).is_err() || !raw.is_ascii() {
            return refuse("has other characters than a path");
        }
        let trimmed = raw.trim_matches('/');
        let mut texts: Vec<&str> = trimmed.split('/').filter(|_| !trimmed.is_empty()).collect();
        let is_open = texts.pop_if(|last| [REST, "*"].contains(last)).is_some();
        let mut segments = Vec::new();
        for text in texts {
            segments.push(match text.strip_prefix(':') {
                None if text == REST || text.starts_with('*') => {
                    return refuse("has ... or * before its end");
                }
                None => Segment::Literal(text.to_owned()),
                Some(name) => match header_of(name) {
                    Some(header) => Segment::Named(header),
                    None => {
                        return refuse(
                            "has a name of other characters than letters, digits, - and _",
                        );
                    }
                },
            });
        }
        Ok(Self {
            raw: raw.to_owned(),
            segments,
            is_open,
        })
    }

    /// As the application writes it.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// How good it is, segment by segment; less is better.
    pub fn ranks(&self) -> Vec<u8> {
        let rank = |segment: &Segment| u8::from(matches!(segment, Segment::Named(_)));
        let rest = self.is_open.then_some(2);
        self.segments.iter().map(rank).chain(rest).collect()
    }

    /// How a path fits it, if it does.
    pub fn fit<'a>(&'a self, path: &'a str) -> Option<Fit<'a>> {
        let trimmed = path.trim_matches('/');
        let mut texts = trimmed.split('/').filter(|_| !trimmed.is_empty());
        let mut named = Vec::new();
        for segment in &self.segments {
            match (segment, texts.next()?) {
                (Segment::Literal(literal), text) if literal == text => {}
                (Segment::Literal(_), _) => return None,
                (Segment::Named(name), text) => named.push((name, text)),
            }
        }
        let rest: Vec<&str> = texts.collect();
        if !rest.is_empty() && !self.is_open {
            return None;
        }
        let before = if rest.is_empty() { "" } else { "/" };
        let after = if path.ends_with('/') && self.is_open {
            "/"
        } else {
            ""
        };
        let rest = format!("{before}{}{after}", rest.join("/"));
        Some(Fit { named, rest })
    }

    /// With a slash before it, and none after it.
    pub fn whole(&self) -> String {
        let slash = if self.raw.starts_with('/') { "" } else { "/" };
        let raw = self.raw.strip_suffix('/').unwrap_or(&self.raw);
        if raw.is_empty() {
            return String::new();
        }
        format!("{slash}{raw}")
    }

    /// Without the `...` at its end.
    pub fn prefix(&self) -> &str {
        self.raw.strip_suffix("/...").unwrap_or(&self.raw)
    }
}

/// `spin-path-match-NAME`
fn header_of(name: &str) -> Option<HeaderName> {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
    if name.is_empty() || !name.chars().all(is_plain) {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('_', "-");
    HeaderName::try_from(format!("spin-path-match-{name}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(raw: &str) -> Route {
        Route::parse(raw).expect(raw)
    }

    fn best<'a>(routes: &[&'a str], path: &str) -> Option<&'a str> {
        let mut table: Vec<_> = routes.iter().map(|it| (route(it), *it)).collect();
        table.sort_by_cached_key(|(route, _)| route.ranks());
        let mut table = table.into_iter();
        table.find_map(|(route, raw)| route.fit(path).map(|_| raw))
    }

    fn rest(raw: &str, path: &str) -> Option<String> {
        route(raw).fit(path).map(|it| it.rest)
    }

    #[test]
    fn the_most_specific_route_is_found_whatever_the_order() {
        let routes = [
            "/...",
            "/one/...",
            "/one/two/...",
            "/one",
            "/one/:it",
            "/one/:it/three",
            "/:any/two",
        ];
        let wanted = [
            ("/", Some("/...")),
            ("/zero", Some("/...")),
            ("/one", Some("/one")),
            ("/one/", Some("/one")),
            ("/one/x", Some("/one/:it")),
            ("/one/two", Some("/one/two/...")),
            ("/one/two/x/y", Some("/one/two/...")),
            ("/one/x/three", Some("/one/:it/three")),
            ("/one/x/four", Some("/one/...")),
            ("/x/two", Some("/:any/two")),
        ];
        let backwards: Vec<_> = routes.iter().rev().copied().collect();
        for (path, wanted) in wanted {
            assert_eq!(best(&routes, path), wanted, "{path}");
            assert_eq!(best(&backwards, path), wanted, "{path}");
        }
        assert_eq!(best(&["/one", "/two/..."], "/three"), None);
        assert_eq!(best(&["/one"], "/one/more"), None);
        assert_eq!(best(&["/one/:it"], "/one"), None);
        assert_eq!(best(&["/:a", "/:b"], "/x"), Some("/:a"));
    }

    #[test]
    fn what_follows_keeps_its_slashes() {
        for (raw, path, wanted) in [
            ("/...", "/1/2/3", "/1/2/3"),
            ("/...", "/", "/"),
            ("/1/...", "/1/2/3", "/2/3"),
            ("/test/...", "/test", ""),
            ("/test/...", "/test/", "/"),
            ("/test/...", "/test/hello/", "/hello/"),
            ("/test/*", "/test/hello", "/hello"),
            ("/test", "/test/", ""),
        ] {
            assert_eq!(rest(raw, path).as_deref(), Some(wanted), "{raw} {path}");
        }
    }

    #[test]
    fn names_become_headers() {
        let route = route("/users/:user_ID/...");
        let fit = route.fit("/users/42/edit").expect("fit");
        let named: Vec<_> = fit
            .named
            .iter()
            .map(|(name, text)| (name.as_str(), *text))
            .collect();
        assert_eq!(named, [("spin-path-match-user-id", "42")]);
    }

    #[test]
    fn a_route_is_told_as_spin_tells_it() {
        for (raw, whole, prefix) in [
            ("/", "", "/"),
            ("/...", "/...", ""),
            ("/foo/", "/foo", "/foo/"),
            ("foo", "/foo", "foo"),
            ("/foo/:id/...", "/foo/:id/...", "/foo/:id"),
        ] {
            let route = route(raw);
            assert_eq!(
                (route.whole().as_str(), route.prefix()),
                (whole, prefix),
                "{raw}"
            );
        }
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for raw in ["/a/.../b", "/*/b", "/*all", "/:", "/:a.b", "/\n", "/ä"] {
            assert!(Route::parse(raw).is_err(), "{raw}");
        }
        assert!(check(&[]).is_err());
        assert!(check(&["/...".to_owned()]).is_ok());
    }

    proptest! {
        #[test]
        fn a_literal_route_fits_itself(segments in prop::collection::vec("[a-z.%]{1,5}", 0..5)) {
            prop_assume!(!segments.iter().any(|it| it == REST));
            let path = format!("/{}", segments.join("/"));
            prop_assert_eq!(best(&["/...", &path], &path), Some(path.as_str()));
        }

        #[test]
        fn any_text_is_answered(raw in "[/:.*a-z]{0,12}", path in "/[/.a-z]{0,12}") {
            if let Ok(route) = Route::parse(&raw) && let Some(fit) = route.fit(&path) {
                prop_assert!(path.contains(fit.rest.trim_end_matches('/')));
            }
        }
    }
}
