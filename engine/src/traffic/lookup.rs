//! Names that a guest looks up by `wasi:sockets/ip-name-lookup`.

use crate::guest::Guest;
use crate::meter::Owned;
use crate::traffic::Network;
use crate::traffic::names::NameError;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::vec::IntoIter;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network as Capability};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketResult, subscribe};
use wasmtime_wasi::{WasiView as _, async_trait};

/// What a name stands for.
pub type Found = Result<Vec<IpAddr>, NameError>;

/// A name's addresses, which are there or will be.
pub enum Lookup {
    /// Asked for.
    Waiting(Owned<Found>),
    /// Those that are left.
    Done(Result<IntoIter<IpAddr>, ErrorCode>),
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        if let Self::Waiting(task) = self {
            let found = task.await.map_or(Err(ErrorCode::Unknown), |found| {
                found.map_err(|error| code(&error))
            });
            *self = Self::Done(found.map(Vec::into_iter));
        }
    }
}

/// Looks a name up, on the threads that wait for sockets; `None` if the container has too many sockets already.
pub fn start(network: &Arc<Network>, name: String) -> Option<Owned<Found>> {
    let place = network.room.try_take()?;
    let its = Arc::clone(network);
    let task = network.shared.threads.spawn(async move {
        let _place = place;
        let found = its.names.look_up(&name, &its.policy).await?;
        Ok(found.iter().map(IpAddr::to_canonical).collect())
    });
    Some(Owned::new(task))
}

impl Guest {
    pub fn resolve(
        &mut self,
        capability: Resource<Capability>,
        name: String,
    ) -> SocketResult<Resource<Lookup>> {
        let network = self.traffic().network.clone();
        let table = self.ctx().table;
        table.get(&capability)?;
        let network = network.ok_or(ErrorCode::PermanentResolverFailure)?;
        let task = start(&network, name).ok_or(ErrorCode::TemporaryResolverFailure)?;
        Ok(table.push(Lookup::Waiting(task))?)
    }

    pub fn next_address(&mut self, this: Resource<Lookup>) -> SocketResult<Option<IpAddress>> {
        let lookup = self.ctx().table.get_mut(&this)?;
        // Whoever waits subscribes.
        let mut nobody = Context::from_waker(Waker::noop());
        let _ = lookup.ready().as_mut().poll(&mut nobody);
        match lookup {
            Lookup::Waiting(_) => Err(ErrorCode::WouldBlock.into()),
            Lookup::Done(Ok(addresses)) => Ok(addresses.next().map(IpAddress::from)),
            Lookup::Done(Err(code)) => Err((*code).into()),
        }
    }

    pub fn subscribe_lookup(
        &mut self,
        this: Resource<Lookup>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.ctx().table, this)
    }

    pub fn drop_lookup(&mut self, this: Resource<Lookup>) -> wasmtime::Result<()> {
        self.ctx().table.delete(this)?;
        Ok(())
    }
}

fn code(error: &NameError) -> ErrorCode {
    match error {
        NameError::Invalid => ErrorCode::InvalidArgument,
        NameError::NotFound => ErrorCode::NameUnresolvable,
        error if error.is_temporary() => ErrorCode::TemporaryResolverFailure,
        _ => ErrorCode::PermanentResolverFailure,
    }
}
