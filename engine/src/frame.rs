//! The frames of an exec's or attach's connection: a channel's byte, the payload's length (four bytes, big-endian), the payload.
//!
//! The channels are those of Kubernetes' WebSocket streams. Nothing here reads or writes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use std::fmt;

/// From the client: the guest's standard input.
pub const STDIN: u8 = 0;
/// To the client: the guest's standard output.
pub const STDOUT: u8 = 1;
/// To the client: the guest's standard error, and why a guest trapped.
pub const STDERR: u8 = 2;
/// To the client, last of all: how the guest ended (`ExecExit`).
pub const EXIT: u8 = 3;
/// From the client: its terminal has another size (`TerminalSize`).
pub const RESIZE: u8 = 4;
/// To the client of an attach, last of all: why it hears no more of a container that goes on (`Error`).
pub const DISMISSAL: u8 = 5;
/// From the client: the end of the channel that the payload's one byte names.
pub const CLOSE: u8 = 255;

/// The most that a frame may carry.
pub const PAYLOAD_BYTES: usize = 64 * 1024;

const HEAD_BYTES: usize = 5;

/// One message of one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which.
    pub channel: u8,
    /// What.
    pub payload: Bytes,
}

/// A payload is longer than any may be; what follows cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

impl fmt::Display for TooLong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "a frame has {} bytes, {PAYLOAD_BYTES} are the most",
            self.0
        )
    }
}

/// Appends a channel's bytes, in as many frames as they need.
pub fn encode(out: &mut BytesMut, channel: u8, bytes: &[u8]) {
    for payload in bytes.chunks(PAYLOAD_BYTES) {
        out.reserve(HEAD_BYTES + payload.len());
        out.put_u8(channel);
        out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        out.put_slice(payload);
    }
}

/// Takes the first frame; `None` when it is not whole yet.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, TooLong> {
    let Some((head, _)) = buffer.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let [channel, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if length > PAYLOAD_BYTES {
        return Err(TooLong(length));
    }
    if buffer.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEAD_BYTES);
    let payload = buffer.split_to(length).freeze();
    Ok(Some(Frame { channel, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_however_they_were_cut() {
        let mut whole = BytesMut::new();
        encode(&mut whole, STDIN, &vec![7; PAYLOAD_BYTES + 3]);
        encode(&mut whole, CLOSE, &[STDIN]);
        for size in [1, 2, 5, 6, 1000, whole.len()] {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for chunk in whole.chunks(size) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decode(&mut buffer).expect("short enough") {
                    found.push((frame.channel, frame.payload.len()));
                }
            }
            assert_eq!(found, [(STDIN, PAYLOAD_BYTES), (STDIN, 3), (CLOSE, 1)]);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_long_frame_is_refused_by_its_head() {
        let mut buffer = BytesMut::from(&[STDIN, 0, 1, 0, 1][..]);
        assert_eq!(decode(&mut buffer), Err(TooLong(PAYLOAD_BYTES + 1)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            messages in proptest::collection::vec((0..=255_u8, proptest::collection::vec(0..=255_u8, 1..300)), 0..8),
            size in 1..400_usize,
        ) {
            let mut whole = BytesMut::new();
            for (channel, payload) in &messages {
                encode(&mut whole, *channel, payload);
            }
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for chunk in whole.chunks(size) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decode(&mut buffer).expect("short enough") {
                    found.push((frame.channel, frame.payload.to_vec()));
                }
            }
            proptest::prop_assert_eq!(found, messages);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in proptest::collection::vec(0..=255_u8, 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut taken = 0;
            while let Ok(Some(frame)) = decode(&mut buffer) {
                taken += HEAD_BYTES + frame.payload.len();
            }
            proptest::prop_assert_eq!(&buffer[..], &bytes[taken..]);
        }
    }
}
