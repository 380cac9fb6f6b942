//! Applications of several components: which of them a request is for, by Spin's rules, and what it is told about that.
//!
//! A route is a path whose segments are literal or `:name` for any one; `...` at its end stands for all that follow, none
//! included. Of the routes that fit, literal segments come before named ones, and these before `...`, from the left on;
//! slashes at either end of a path say nothing. (spin, crates/http/src/routes.rs over the crate routefinder; the headers
//! are those of crates/trigger-http/src/headers.rs.)

use crate::guest::World;
use crate::http::body::Answer;
use crate::http::connection::Client;
use crate::http::{Parts, Server, request};
use crate::program::Program;
use crate::protocol::{Error, ErrorReason};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use std::net::SocketAddr;
use std::sync::Arc;

/// Below this Spin's runtime answers itself: `health` with 200, what is not there with 404.
const RESERVED: &str = "/.well-known/spin/";

/// All that follows.
const REST: &str = "...";

/// A part of an application: a guest, and which paths are its.
pub struct Component {
    /// What the application calls it.
    pub name: String,
    /// As the application writes them.
    pub routes: Vec<String>,
    /// The guest.
    pub program: Arc<Program>,
    /// What its instances see.
    pub world: Arc<World>,
}

/// What the server in front of an application's others knows of them.
pub struct Application {
    /// Best first, with the component's number.
    routes: Vec<(Route, usize)>,
    /// Those of all components but the first, which is in front.
    others: Vec<Arc<Server>>,
    /// Mapped as long as this is there, so that others find them.
    _programs: Vec<Arc<Program>>,
}

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
struct Fit<'a> {
    named: Vec<(&'a HeaderName, &'a str)>,
    /// What `...` stands for, with the slashes around it.
    rest: String,
}

/// Makes a server for each component, of which the first is in front of the others. They share the log, the threads, the
/// memory limit, which has room for as many instances of each, and what counts as one container: phase and health.
pub async fn start(parts: &Parts, components: Vec<Component>) -> Result<Server, Error> {
    let routes = table(&components)?;
    let mut instances_bytes = 0;
    let mut made = Vec::new();
    for component in &components {
        let its = of_component(parts, component)?;
        let bytes = request::trial(&its).await;
        instances_bytes += bytes.map_err(|error| naming(component, error))?;
        made.push(its);
    }
    let mut servers = made
        .into_iter()
        .map(|its| Server::new(its, instances_bytes));
    let Some(mut front) = servers.next() else {
        return Err(bad_request("an application has no components"));
    };
    let others: Vec<_> = servers
        .map(|mut other| {
            front.most_open = front.most_open.saturating_add(other.most_open);
            other.phase = front.phase.clone();
            other.health = Arc::clone(&front.health);
            Arc::new(other)
        })
        .collect();
    front.application = Some(Application {
        routes,
        others,
        _programs: components.into_iter().map(|it| it.program).collect(),
    });
    Ok(front)
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

fn of_component(parts: &Parts, component: &Component) -> Result<Parts, Error> {
    let Program::Http(program) = &*component.program else {
        let error = Error::new(ErrorReason::NoEntryPoint, "it does not serve HTTP");
        return Err(naming(component, error));
    };
    Ok(Parts {
        program: program.clone(),
        world: Arc::clone(&component.world),
        ..parts.clone()
    })
}

fn naming(component: &Component, error: Error) -> Error {
    let Error { reason, message } = error;
    Error::new(reason, format!("component {}: {message}", component.name))
}

fn bad_request(message: impl Into<String>) -> Error {
    Error::new(ErrorReason::BadRequest, message)
}

/// Of one route that is written twice the last counts; of two that are as good, the first.
fn table(components: &[Component]) -> Result<Vec<(Route, usize)>, Error> {
    let mut table: Vec<(Route, usize)> = Vec::new();
    for (number, component) in components.iter().enumerate() {
        for raw in &component.routes {
            let route = Route::parse(raw)?;
            match table.iter_mut().find(|(it, _)| it.raw == *raw) {
                Some(same) => same.1 = number,
                None => table.push((route, number)),
            }
        }
    }
    table.sort_by_cached_key(|(route, _)| route.ranks());
    Ok(table)
}

impl Server {
    /// The servers behind this one.
    pub fn others(&self) -> &[Arc<Self>] {
        self.application.as_ref().map_or(&[], |it| &it.others)
    }

    /// Who answers a request, which is told by which route it comes; or an answer that no guest has to give.
    pub fn direct(
        self: &Arc<Self>,
        request: &mut Request<Incoming>,
        client: &Client,
    ) -> Result<Arc<Self>, Box<Response<Answer>>> {
        let Some(application) = &self.application else {
            return Ok(Arc::clone(self));
        };
        let uri = request.uri().clone();
        let path = uri.path();
        match path.strip_prefix(RESERVED) {
            Some("health") => return Err(Box::new(Answer::own(StatusCode::OK, "OK"))),
            Some(_) => return Err(Box::new(not_found())),
            None => {}
        }
        let mut routes = application.routes.iter();
        let found = routes.find_map(|(route, to)| Some((route, *to, route.fit(path)?)));
        let Some((route, to, fit)) = found else {
            return Err(Box::new(not_found()));
        };
        tell(request, &uri, route, fit, client.there);
        let other = to.checked_sub(1).and_then(|it| application.others.get(it));
        Ok(Arc::clone(other.unwrap_or(self)))
    }
}

fn not_found() -> Response<Answer> {
    Answer::own(
        StatusCode::NOT_FOUND,
        "no route of the application leads here",
    )
}

/// What a component that was built for Spin expects; a client's own headers of these names are replaced.
fn tell(
    request: &mut Request<Incoming>,
    uri: &Uri,
    route: &Route,
    fit: Fit<'_>,
    client: Option<SocketAddr>,
) {
    let authority = uri.authority().map(|it| it.as_str().as_bytes());
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    let host = host.or(authority).unwrap_or(b"localhost");
    let asked = uri.path_and_query().map_or("/", |it| it.as_str());
    let url = [b"http://", host, asked.as_bytes()].concat();
    let client = client.map(|it| it.to_string()).unwrap_or_default();
    let whole = route.whole();
    let texts: [(HeaderName, &[u8]); 7] = [
        (
            HeaderName::from_static("spin-path-info"),
            fit.rest.as_bytes(),
        ),
        (HeaderName::from_static("spin-full-url"), &url),
        (
            HeaderName::from_static("spin-matched-route"),
            whole.as_bytes(),
        ),
        (HeaderName::from_static("spin-base-path"), b"/"),
        (
            HeaderName::from_static("spin-raw-component-route"),
            route.raw.as_bytes(),
        ),
        (
            HeaderName::from_static("spin-component-route"),
            route.prefix().as_bytes(),
        ),
        (
            HeaderName::from_static("spin-client-addr"),
            client.as_bytes(),
        ),
    ];
    let named = fit
        .named
        .iter()
        .map(|(name, text)| ((*name).clone(), text.as_bytes()));
    for (name, text) in texts.into_iter().chain(named) {
        // All of it came in a request's head, or was looked at when the route was parsed.
        if let Ok(value) = HeaderValue::from_bytes(text) {
            request.headers_mut().insert(name, value);
        }
    }
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

    /// How good it is, segment by segment; less is better.
    fn ranks(&self) -> Vec<u8> {
        let rank = |segment: &Segment| u8::from(matches!(segment, Segment::Named(_)));
        let rest = self.is_open.then_some(2);
        self.segments.iter().map(rank).chain(rest).collect()
    }

    fn fit<'a>(&'a self, path: &'a str) -> Option<Fit<'a>> {
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
    fn whole(&self) -> String {
        let slash = if self.raw.starts_with('/') { "" } else { "/" };
        let raw = self.raw.strip_suffix('/').unwrap_or(&self.raw);
        if raw.is_empty() {
            return String::new();
        }
        format!("{slash}{raw}")
    }

    /// Without the `...` at its end.
    fn prefix(&self) -> &str {
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
