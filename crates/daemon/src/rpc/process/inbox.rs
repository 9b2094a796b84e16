//! What a client has said to a process and the machine has not been told yet.
//!
//! It takes all that a client may say while the line is cut, in bounded memory: of input, so many bytes are agreed on; of
//! sizes, the last counts; each signal is pending once, as in a kernel.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use wire::api::process::{STDIN_BYTES_IN_FLIGHT_MAX, Size};

/// How much input goes into one request: few requests, none of which keeps the line long.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// The client sends more input than was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood;

/// The next input of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Empty if there is only the end left.
    pub bytes: Vec<u8>,
    /// Nothing more comes.
    pub end: bool,
}

/// What a client does to a process besides its input. A process that takes no input still gets these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A signal.
    Signal(u8),
    /// Its terminal's new size.
    Resize(Size),
}

/// See the module's documentation. Input, orders and the wish to leave are each waited for by one task at most.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    input_came: Notify,
    order_came: Notify,
    wish_came: Notify,
}

#[derive(Debug, Default)]
struct State {
    input: Vec<u8>,
    /// The end of the input is to be told behind that.
    end: bool,
    /// The end has come: what comes behind it is nobody's.
    over: bool,
    /// Bytes of input that the process has not been given: those here, and those on their way.
    in_flight: u64,
    signals: Vec<u8>,
    size: Option<Size>,
    leaves: bool,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes input; its end, if there are no bytes.
    pub fn push_input(&self, bytes: &[u8]) -> Result<(), Flood> {
        let mut state = self.state();
        let in_flight = state.in_flight + bytes.len() as u64;
        if in_flight > STDIN_BYTES_IN_FLIGHT_MAX {
            return Err(Flood);
        }
        if state.over {
            return Ok(());
        }
        state.in_flight = in_flight;
        state.input.extend_from_slice(bytes);
        (state.end, state.over) = (bytes.is_empty(), bytes.is_empty());
        self.input_came.notify_one();
        Ok(())
    }

    /// All input that waits, up to what goes into one request.
    pub fn take_input(&self) -> Option<Input> {
        let mut state = self.state();
        let count = state.input.len().min(INPUT_BYTES_MAX);
        let rest = state.input.split_off(count);
        let bytes = std::mem::replace(&mut state.input, rest);
        let end = state.end && state.input.is_empty();
        state.end &= !end;
        (end || !bytes.is_empty()).then_some(Input { bytes, end })
    }

    /// As [`Inbox::take_input`], when there is some. Nothing is taken if this is dropped.
    pub async fn next_input(&self) -> Input {
        loop {
            let came = self.input_came.notified();
            if let Some(input) = self.take_input() {
                return input;
            }
            came.await;
        }
    }

    /// So much input is not on its way any more.
    pub fn input_taken(&self, bytes: u64) {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(bytes);
    }

    /// Takes a signal. One that no system has is nobody's.
    pub fn push_signal(&self, signal: i32) {
        let Ok(signal) = u8::try_from(signal) else { return };
        let mut state = self.state();
        if !state.signals.contains(&signal) {
            state.signals.push(signal);
            self.order_came.notify_one();
        }
    }

    /// Takes a new size.
    pub fn resize(&self, size: Size) {
        self.state().size = Some(size);
        self.order_came.notify_one();
    }

    /// The next signal, or else the size. Nothing is taken if this is dropped.
    pub async fn next_order(&self) -> Order {
        loop {
            let came = self.order_came.notified();
            if let Some(order) = self.state().take_order() {
                return order;
            }
            came.await;
        }
    }

    /// The client wants to leave the process to itself.
    pub fn leave(&self) {
        self.state().leaves = true;
        self.wish_came.notify_one();
    }

    /// Waits until it does.
    pub async fn leaving(&self) {
        loop {
            let came = self.wish_came.notified();
            if std::mem::take(&mut self.state().leaves) {
                return;
            }
            came.await;
        }
    }
}

impl State {
    fn take_order(&mut self) -> Option<Order> {
        match self.signals.is_empty() {
            true => self.size.take().map(Order::Resize),
            false => Some(Order::Signal(self.signals.remove(0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(rows: u16) -> Size {
        Size { rows, columns: 80 }
    }

    #[tokio::test]
    async fn what_is_typed_key_by_key_while_the_line_is_cut_goes_in_one_request() {
        let inbox = Inbox::default();
        for _ in 0..100_000 {
            inbox.push_input(b"k").unwrap();
        }
        let first = inbox.next_input().await;
        assert_eq!((first.bytes.len(), first.end), (INPUT_BYTES_MAX, false));
        inbox.push_input(b"").unwrap();
        let rest = inbox.next_input().await;
        assert_eq!((rest.bytes.len(), rest.end), (100_000 - INPUT_BYTES_MAX, true));
        assert_eq!(inbox.take_input(), None);
    }

    #[test]
    fn more_than_was_agreed_on_is_refused_until_some_is_taken() {
        let inbox = Inbox::default();
        inbox.push_input(&vec![0; STDIN_BYTES_IN_FLIGHT_MAX as usize]).unwrap();
        while inbox.take_input().is_some() {}
        assert_eq!(inbox.push_input(b"k"), Err(Flood));
        inbox.input_taken(1);
        assert_eq!(inbox.push_input(b"k"), Ok(()));
    }

    #[test]
    fn behind_its_end_there_is_no_input() {
        let inbox = Inbox::default();
        inbox.push_input(b"").unwrap();
        for _ in 0..10 {
            inbox.push_input(b"more").unwrap();
            inbox.push_input(b"").unwrap();
        }
        assert_eq!(inbox.take_input(), Some(Input { bytes: Vec::new(), end: true }));
        assert_eq!(inbox.take_input(), None);
    }

    #[tokio::test]
    async fn the_last_size_counts_and_a_signal_is_pending_once() {
        let inbox = Inbox::default();
        for rows in 1..=1000 {
            inbox.resize(size(rows));
            [15, 2, 15, 4711, -1].into_iter().for_each(|signal| inbox.push_signal(signal));
        }
        let expected = [Order::Signal(15), Order::Signal(2), Order::Resize(size(1000))];
        for order in expected {
            assert_eq!(inbox.next_order().await, order);
        }
        assert_eq!(inbox.state().take_order(), None);
    }
}
