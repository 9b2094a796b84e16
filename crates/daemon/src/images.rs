//! Whose turn it is with an image: each by itself, so that nobody waits for the images of others.
//!
//! ```text
//!            make, remove: alone                  use: as many as there are
//!   free ────────────────────────► taken     free ─────────────────────────► used ─┐
//!    ▲                               │         ▲                              ▲     │ one more
//!    └───────────────────────────────┘         └── the last one is done ──────┴─────┘
//! ```
//!
//! A name that somebody else has is refused and not waited for: whoever makes an image has it for minutes. What only reads, as a list
//! does, asks for no turn: an image is there whole or not at all. So many are made at once at most; who comes then waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::api::{ErrorKind, ErrorObject};

use crate::order::{Held, Rank};

/// How many images are made at once: what is in an archive is kept in memory, with up to some hundred MiB for each.
const MADE_AT_ONCE_MAX: usize = 4;

/// What is done with an image by those who have a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Made,
    Removed,
    /// By so many.
    Used(usize),
}

/// Who does what with which image.
#[derive(Debug, Clone)]
pub struct Images {
    turns: Arc<Mutex<HashMap<String, Turn>>>,
    places: Arc<Semaphore>,
}

/// A turn with an image, which ends when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    images: Images,
    name: String,
}

/// A place among those who make images.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    _held: Held,
}

impl Default for Images {
    fn default() -> Images {
        Images { turns: Arc::default(), places: Arc::new(Semaphore::new(MADE_AT_ONCE_MAX)) }
    }
}

impl Images {
    /// The name of an image that is to be made. Refused while anybody has it.
    pub fn to_make(&self, name: &str) -> Result<Reservation, ErrorObject> {
        self.take(name, Turn::Made)
    }

    /// An image that is to be removed. Refused while anybody has it.
    pub fn to_remove(&self, name: &str) -> Result<Reservation, ErrorObject> {
        self.take(name, Turn::Removed)
    }

    /// An image that is to stay. Refused while it is made or removed.
    pub fn to_use(&self, name: &str) -> Result<Reservation, ErrorObject> {
        self.take(name, Turn::Used(1))
    }

    /// A place to make an image, if one is free now.
    pub fn free_place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _permit: Some(permit), _held: Held::note(Rank::Place) })
    }

    /// A place to make an image, once one is free.
    pub async fn place(&self) -> Place {
        let held = Held::enter(Rank::Place);
        // It is never closed.
        Place { _permit: Arc::clone(&self.places).acquire_owned().await.ok(), _held: held }
    }

    fn take(&self, name: &str, wanted: Turn) -> Result<Reservation, ErrorObject> {
        let mut turns = self.turns();
        let turn = match (turns.get(name), wanted) {
            (None, wanted) => wanted,
            (Some(Turn::Used(others)), Turn::Used(more)) => Turn::Used(others + more),
            (Some(other), _) => return Err(taken(name, *other)),
        };
        turns.insert(name.to_owned(), turn);
        Ok(Reservation { images: self.clone(), name: name.to_owned() })
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<String, Turn>> {
        // It is changed in single steps.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut turns = self.images.turns();
        match turns.get_mut(&self.name) {
            Some(Turn::Used(users)) if *users > 1 => *users -= 1,
            _ => drop(turns.remove(&self.name)),
        }
    }
}

fn taken(name: &str, turn: Turn) -> ErrorObject {
    let what = match turn {
        Turn::Made => "is being made",
        Turn::Removed => "is being removed",
        Turn::Used(_) => "is in use by a vm that is being made",
    };
    let message = format!("the image `{name}` {what}");
    ErrorObject::new(ErrorKind::Conflict, message).with_hint("wait until that is done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_or_removed_by_one_and_used_by_many() {
        let images = Images::default();
        let (made, other) = (images.to_make("a").unwrap(), images.to_make("b").unwrap());
        for again in [images.to_make("a"), images.to_remove("a"), images.to_use("a")] {
            assert!(again.unwrap_err().message.contains("being made"));
        }
        drop((made, other));
        let (one, two) = (images.to_use("a").unwrap(), images.to_use("a").unwrap());
        drop(one);
        assert_eq!(images.to_remove("a").unwrap_err().kind(), ErrorKind::Conflict);
        drop(two);
        let removed = images.to_remove("a").unwrap();
        assert!(images.to_use("a").unwrap_err().message.contains("being removed"));
        drop(removed);
        assert!(images.turns().is_empty());
    }

    #[test]
    fn so_many_are_made_at_once() {
        let images = Images::default();
        let places: Vec<Place> = std::iter::from_fn(|| images.free_place()).collect();
        assert_eq!(places.len(), MADE_AT_ONCE_MAX);
        drop(places);
        assert!(images.free_place().is_some());
    }
}
