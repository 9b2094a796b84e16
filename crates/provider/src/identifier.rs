//! What the system knows items, pages and versions by.
//!
//! | is | written |
//! |---|---|
//! | an item | `EPOCH-NUMBER`: 16 hexadecimal digits of the catalogue's epoch, and the item's number |
//! | a page | the number of the item after which it begins, 8 bytes, little endian; anything else begins at the beginning |
//! | a content version | the machine's, see [`machine`](crate::machine); of a directory `-`, since none may be empty |
//!
//! An identifier of another epoch is of a catalogue that was lost: there is no such item.

use vfs::replica::item::ItemId;

/// What stands for the content of what has none.
const NO_CONTENT: &[u8] = b"-";

/// An item's identifier.
pub fn of_item(epoch: i64, id: ItemId) -> String {
    format!("{epoch:016x}-{}", id.0)
}

/// The item, if this is an identifier of this epoch.
pub fn item(epoch: i64, text: &str) -> Option<ItemId> {
    let (given, number) = text.split_once('-')?;
    let number: i64 = number.parse().ok()?;
    (of_item(epoch, ItemId(number)) == text && given.len() == 16).then_some(ItemId(number))
}

/// Where a page begins.
pub fn of_page(after: ItemId) -> [u8; 8] {
    after.0.to_le_bytes()
}

/// After which item a page begins.
pub fn page(bytes: &[u8]) -> ItemId {
    ItemId(bytes.try_into().map_or(0, i64::from_le_bytes))
}

/// A version of content as the system keeps it.
pub fn of_content(content: &[u8]) -> &[u8] {
    if content.is_empty() { NO_CONTENT } else { content }
}

/// The machine's version.
pub fn content(bytes: &[u8]) -> &[u8] {
    if bytes == NO_CONTENT { &[] } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_come_back_within_their_epoch() {
        for number in [2, i64::MAX] {
            assert_eq!(item(-7, &of_item(-7, ItemId(number))), Some(ItemId(number)));
            assert_eq!(item(8, &of_item(-7, ItemId(number))), None);
            assert_eq!(page(&of_page(ItemId(number))), ItemId(number));
        }
        for text in ["", "-", "2", "0000000000000008-", "0000000000000008-02", "8-2", "0000000000000008-x"] {
            assert_eq!(item(8, text), None, "{text}");
        }
        assert_eq!(page(b"initial page sorted by name"), ItemId(0));
        for version in [&b""[..], b"x"] {
            assert_eq!(content(of_content(version)), version);
            assert!(!of_content(version).is_empty());
        }
    }
}
