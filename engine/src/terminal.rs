//! A terminal's line discipline, for guests that have one: what a kernel does between keys and a program that reads lines.
//!
//! WASI has no way to ask for single keys, so there is one mode, the canonical one: keys are echoed, a line goes to the
//! guest when it is ended, and can be edited before. Nothing here reads or writes.

/// What a guest reads at once at most (MAX_CANON on Linux); keys beyond it are answered with a bell.
const LINE_BYTES: usize = 4096;

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ERASE_LINE: u8 = 0x15;
const ERASE_WORD: u8 = 0x17;
const DELETE: u8 = 0x7f;
const BELL: u8 = 0x07;

/// A line that is being typed.
#[derive(Default)]
pub struct Terminal {
    line: Vec<u8>,
}

/// What keys came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// For the guest.
    pub input: Vec<u8>,
    /// For the screen.
    pub echo: Vec<u8>,
    /// What ended it; keys behind it are nobody's.
    pub key: Option<Key>,
}

/// A key that is no character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D at the begin of a line.
    End,
}

impl Terminal {
    /// Takes keys as a raw terminal sends them.
    pub fn take(&mut self, keys: &[u8]) -> Typed {
        let mut typed = Typed::default();
        for &key in keys {
            match key {
                b'\r' | b'\n' => {
                    self.line.push(b'\n');
                    typed.input.append(&mut self.line);
                    typed.echo.extend(b"\r\n");
                }
                BACKSPACE | DELETE => self.erase(&mut typed.echo),
                ERASE_LINE => {
                    while !self.line.is_empty() {
                        self.erase(&mut typed.echo);
                    }
                }
                ERASE_WORD => {
                    while self.line.last() == Some(&b' ') {
                        self.erase(&mut typed.echo);
                    }
                    while self.line.last().is_some_and(|&it| it != b' ') {
                        self.erase(&mut typed.echo);
                    }
                }
                END if self.line.is_empty() => {
                    typed.key = Some(Key::End);
                    return typed;
                }
                END => typed.input.append(&mut self.line),
                INTERRUPT => {
                    self.line.clear();
                    typed.echo.extend(b"^C\r\n");
                    typed.key = Some(Key::Interrupt);
                    return typed;
                }
                _ if self.line.len() >= LINE_BYTES - 1 => typed.echo.push(BELL),
                _ => {
                    self.line.push(key);
                    show(key, &mut typed.echo);
                }
            }
        }
        typed
    }

    /// Removes the last character from the line and from the screen.
    fn erase(&mut self, echo: &mut Vec<u8>) {
        while let Some(byte) = self.line.pop() {
            let is_inside = byte & 0xc0 == 0x80;
            if !is_inside {
                let cells = if is_shown_by_two(byte) { 2 } else { 1 };
                echo.extend(b"\x08 \x08".repeat(cells));
                return;
            }
        }
    }
}

/// Control characters have a sign, as on every terminal; a tab is itself.
fn show(key: u8, echo: &mut Vec<u8>) {
    if is_shown_by_two(key) {
        echo.extend([b'^', key ^ 0x40]);
    } else {
        echo.push(key);
    }
}

fn is_shown_by_two(key: u8) -> bool {
    key < 0x20 && key != b'\t'
}

/// Lines as a raw terminal needs them: each begins at the left.
pub fn shown(bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + 16);
    for &byte in bytes {
        if byte == b'\n' {
            lines.push(b'\r');
        }
        lines.push(byte);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(keys: &[u8]) -> (String, String) {
        let typed = Terminal::default().take(keys);
        (
            String::from_utf8(typed.input).expect("text"),
            String::from_utf8(typed.echo).expect("text"),
        )
    }

    #[test]
    fn lines_go_when_they_are_ended_and_can_be_edited_before() {
        assert_eq!(typed(b"ab"), (String::new(), "ab".into()));
        assert_eq!(typed(b"ab\rc"), ("ab\n".into(), "ab\r\nc".into()));
        assert_eq!(typed(b"ab\x7f\n"), ("a\n".into(), "ab\x08 \x08\r\n".into()));
        assert_eq!(typed("\u{e9}\u{fc}\x7f\r".as_bytes()).0, "\u{e9}\n");
        assert_eq!(typed(b"one two\x17x\r").0, "one x\n");
        assert_eq!(typed(b"one two\x15x\r").0, "x\n");
        assert_eq!(typed(b"\x1b[A\r"), ("\x1b[A\n".into(), "^[[A\r\n".into()));
        assert_eq!(typed(b"\x7f\x17\x15"), (String::new(), String::new()));
        assert_eq!(typed(b"ab\x04c\r").0, "abc\n", "Ctrl-D sends what there is");
    }

    #[test]
    fn keys_that_are_no_characters() {
        let mut terminal = Terminal::default();
        assert_eq!(terminal.take(b"ab\x03c").key, Some(Key::Interrupt));
        assert_eq!(
            terminal.take(b"\x04").key,
            Some(Key::End),
            "the line is gone"
        );
        assert_eq!(terminal.take(b"a\x04").key, None);
    }

    #[test]
    fn a_line_has_an_end() {
        let typed = Terminal::default().take(&[[b'x'; 10_000].as_slice(), b"\r"].concat());
        assert_eq!(typed.input.len(), LINE_BYTES);
        assert_eq!(typed.echo.last_chunk(), Some(b"\x07\r\n"));
    }

    #[test]
    fn lines_begin_at_the_left() {
        assert_eq!(shown(b"a\nb\n"), b"a\r\nb\r\n");
    }

    proptest! {
        #[test]
        fn any_keys_in_any_pieces_are_the_same_line(keys: Vec<u8>, cut in 0..100_usize) {
            let whole = Terminal::default().take(&keys);
            let mut terminal = Terminal::default();
            let (first, second) = keys.split_at(cut.min(keys.len()));
            let mut pieces = terminal.take(first);
            if pieces.key.is_none() {
                let rest = terminal.take(second);
                pieces.input.extend(rest.input);
                pieces.echo.extend(rest.echo);
                pieces.key = rest.key;
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
