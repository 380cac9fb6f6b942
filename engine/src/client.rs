//! What a client sends on the connection of an exec or an attach: frames for a guest's stdin.

use crate::frame::{self, Frame};
use crate::protocol::TerminalSize;
use crate::stdin::Hold;
use crate::terminal::{Key, Terminal};
use bytes::{Buf as _, Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::OwnedReadHalf;

/// How often a client is looked for whose guest does not read what it sends.
const LOOK: Duration = Duration::from_millis(200);

/// Where what a client sends goes.
pub struct Intake<E> {
    /// The guest's stdin; `None` when the client sends none, or no more.
    hold: Option<Hold>,
    /// Its line and its screen, when there is a terminal.
    terminal: Option<(Terminal, E)>,
}

/// Why a client sends no more.
#[derive(Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nobody is there any more.
    Gone,
    /// It sent what it may not.
    Malformed(String),
    /// Ctrl-C was typed.
    Interrupted,
}

impl<E: Fn(&[u8])> Intake<E> {
    /// For the holder of a stdin, with an echo when a terminal is between them.
    pub fn new(hold: Option<Hold>, echo: Option<E>) -> Self {
        Self {
            hold,
            terminal: echo.map(|echo| (Terminal::default(), echo)),
        }
    }

    /// Takes the client's frames, for ever; ends with the client.
    pub async fn feed(mut self, receive: &mut OwnedReadHalf, early: BytesMut) -> Leave {
        let mut buffer = early;
        loop {
            match frame::decode(&mut buffer) {
                Err(error) => return Leave::Malformed(error.to_string()),
                Ok(Some(frame)) => {
                    if let Err(leave) = self.take(frame, receive).await {
                        return leave;
                    }
                }
                Ok(None) => {
                    buffer.reserve(16 * 1024);
                    match receive.read_buf(&mut buffer).await {
                        Ok(0) | Err(_) => return Leave::Gone,
                        Ok(_) => {}
                    }
                }
            }
        }
    }

    async fn take(&mut self, frame: Frame, receive: &OwnedReadHalf) -> Result<(), Leave> {
        match (frame.channel, &*frame.payload) {
            (frame::STDIN, keys) if self.terminal.is_some() => return self.type_in(keys),
            (frame::STDIN, _) => return self.send(frame.payload, receive).await,
            (frame::CLOSE, &[frame::STDIN]) => self.hold = None,
            // WASI has no terminals: the size is taken, and nobody asks for it.
            (frame::RESIZE, size) if serde_json::from_slice::<TerminalSize>(size).is_ok() => {}
            (channel, _) => {
                let text = format!("a frame of channel {channel} is none that an engine takes");
                return Err(Leave::Malformed(text));
            }
        }
        Ok(())
    }

    async fn send(&self, mut bytes: Bytes, receive: &OwnedReadHalf) -> Result<(), Leave> {
        let Some(hold) = &self.hold else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let room = tokio::select! {
                biased;
                room = hold.stdin().room() => room,
                () = gone(receive) => return Err(Leave::Gone),
            };
            // A guest that is over, or reads no more, takes nothing.
            let Some(room) = room else { return Ok(()) };
            hold.stdin().push(&bytes[..room.min(bytes.len())]);
            bytes.advance(room.min(bytes.len()));
        }
        Ok(())
    }

    /// Never waits, so that Ctrl-C is heard whatever the guest does: what it does not read is dropped, as a kernel does.
    fn type_in(&mut self, keys: &[u8]) -> Result<(), Leave> {
        let (Some((terminal, echo)), Some(hold)) = (&mut self.terminal, &self.hold) else {
            return Ok(());
        };
        let typed = terminal.take(keys);
        echo(&typed.echo);
        if !hold.stdin().try_push(&typed.input) {
            echo(b"\x07");
        }
        match typed.key {
            Some(Key::Interrupt) => return Err(Leave::Interrupted),
            Some(Key::End) => {
                hold.stdin().end();
                self.hold = None;
            }
            None => {}
        }
        Ok(())
    }
}

/// Reads on and forgets, until the client is gone: it never waits for us, and can read its end.
pub async fn drain(receive: &mut OwnedReadHalf) {
    let mut nothing = BytesMut::with_capacity(16 * 1024);
    while matches!(receive.read_buf(&mut nothing).await, Ok(1..)) {
        nothing.clear();
    }
}

/// Returns when the client has closed its connection, also while bytes of it wait here to be read.
async fn gone(receive: &OwnedReadHalf) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        tokio::time::sleep(LOOK).await;
        let mut descriptors = [PollFd::new(receive.as_ref(), PollFlags::empty())];
        let hung_up = PollFlags::HUP | PollFlags::ERR;
        if poll(&mut descriptors, Some(&now)).is_ok()
            && descriptors[0].revents().intersects(hung_up)
        {
            return;
        }
    }
}
