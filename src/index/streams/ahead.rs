//! What the mover does with pages of heads so that appends need not: one that will be full soon of removed heads is rewritten
//! without them, and two siblings of which little is left become one page.

use super::{Head, HeadPage, NO_PAGE, StreamDirectory, is_live};
use crate::index::region::RESERVE;
use crate::sync::Ordering;

impl HeadPage<'_> {
    /// Whether it will be full soon, and a fifth of its lines can be won back.
    fn is_sparse(self) -> bool {
        self.used() >= (self.heads.len() - 1) * 11 / 16 && self.gone() * 5 >= self.used()
    }

    /// Heads that are not removed, about.
    pub(super) fn left(self) -> usize {
        self.used().saturating_sub(self.gone())
    }
}

impl StreamDirectory {
    /// Sees to the page of a hash, of which a head was just removed. The mover is the only caller, and holds a pin.
    ///
    /// The heads are copied while appends go on. Then `lock` takes the partition's lock, and what has changed is copied again.
    pub(crate) fn rewrite_ahead<G>(&self, hash: u64, lock: impl FnOnce() -> G) {
        let number = self.directory.page_for(hash);
        if number == NO_PAGE {
            return;
        }
        let page = self.page(number);
        if let Some(sibling) = self.sibling(hash, page) {
            // A page is left for an append that must rewrite one: a full index gets room by this alone.
            self.renew(hash, &[number, sibling], RESERVE - 1, lock);
        } else if page.is_sparse() {
            self.renew(hash, &[number], RESERVE, lock);
        }
    }

    /// The other half of a page that was split, if both together leave half of a page free that may be in use: so it takes
    /// twice as many heads to split it again.
    fn sibling(&self, hash: u64, page: HeadPage<'_>) -> Option<u32> {
        let (depth, left) = (page.depth(), page.left());
        if depth == 0 || left * 4 > page.most() {
            return None;
        }
        let number = self.directory.page_for(hash ^ 1 << (depth - 1));
        let sibling = self.page(number);
        (sibling.depth() == depth && (left + sibling.left()) * 2 <= page.most()).then_some(number)
    }

    /// Puts a fresh page in the place of that of a hash, or of that and its sibling, if `keep` pages stay free.
    fn renew<G>(&self, hash: u64, olds: &[u32], keep: u32, lock: impl FnOnce() -> G) {
        let Some(fresh) = self.pages.claim_zeroed(keep) else { return };
        let old = self.page(olds[0]);
        let (bit, depth) = match olds.len() {
            1 => (0, old.depth()),
            _ => (1 << (old.depth() - 1), old.depth() - 1),
        };
        self.page(fresh).set_depth(depth);
        let copy_head = |head, word| self.copy_head(head, word, |_| fresh);
        let heads = || olds.iter().flat_map(|number| &self.page(*number).heads[1..]);
        let copies: Vec<(u64, Option<&Head>)> = heads()
            .map(|head| {
                let word = head.word.load(Ordering::Acquire);
                (word, is_live(word).then(|| copy_head(head, word)).flatten())
            })
            .collect();
        let writer = lock();
        let are_there = olds
            .iter()
            .zip([hash, hash ^ bit])
            .all(|(number, hash)| self.directory.page_for(hash) == *number);
        // Appends wait: one pass, which touches only the first words of heads that have not changed.
        let copied = are_there
            && heads().zip(copies).all(|(head, (before, copy))| {
                // A word counts what was pushed, and a line is never another head's: who has the same word is the same.
                let word = head.word.load(Ordering::Relaxed);
                match copy {
                    Some(copy) if word != before && !cfg!(canary = "stale-head") => {
                        copy.copy_from(head, word)
                    }
                    // One page has room for its own heads; so many may have come to two that they have none for each other's.
                    None if is_live(word) => {
                        return self.page(fresh).has_room() && copy_head(head, word).is_some();
                    }
                    _ => {}
                }
                true
            });
        if !copied {
            drop(writer);
            return self.pages.release(fresh);
        }
        self.moves.store(self.moves() + 1, Ordering::Relaxed);
        self.directory.redirect(hash, depth, fresh);
        drop(writer);
        olds.iter().for_each(|number| self.pages.retire_later(*number));
    }
}
