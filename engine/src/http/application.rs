//! Applications of several components: which of them a request is for, by its route, and what it is told about that.
//! (The headers are those of spin, crates/trigger-http/src/headers.rs.)

use crate::guest::World;
use crate::http::body::Answer;
use crate::http::connection::Client;
use crate::http::route::{Fit, Route};
use crate::http::{Parts, Server, instance};
use crate::program::Program;
use crate::protocol::{Error, ErrorReason, bad_request};
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use std::net::SocketAddr;
use std::sync::Arc;

/// Below this Spin's runtime answers itself: `health` with 200, what is not there with 404.
const RESERVED: &str = "/.well-known/spin/";

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

/// Makes a server for each component, of which the first is in front of the others. They share the log, the threads, the
/// memory limit, which has room for as many instances of each, and what counts as one container: phase and health.
pub async fn start(parts: &Parts, components: Vec<Component>) -> Result<Server, Error> {
    let routes = table(&components)?;
    let mut instances_bytes = 0;
    let mut made = Vec::new();
    for component in &components {
        let its = of_component(parts, component)?;
        let bytes = instance::trial(&its).await;
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

/// Of one route that is written twice the last counts; of two that are as good, the first.
fn table(components: &[Component]) -> Result<Vec<(Route, usize)>, Error> {
    let mut table: Vec<(Route, usize)> = Vec::new();
    for (number, component) in components.iter().enumerate() {
        for raw in &component.routes {
            let route = Route::parse(raw)?;
            match table.iter_mut().find(|(it, _)| it.raw() == raw) {
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
            route.raw().as_bytes(),
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
