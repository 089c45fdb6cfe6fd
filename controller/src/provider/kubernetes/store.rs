//! The objects of one kind as the API server has them. A listing that starts anew (the first one, or after a watch has expired) is gathered
//! beside what is there and takes its place as a whole: nothing disappears in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::runtime::watcher::Event;

/// Namespace and name.
pub(super) type Id = (String, String);

/// Which watch an event comes from: a kind is watched once a namespace, or once for all of them.
pub(super) type Scope = usize;

/// What became of one object.
#[derive(Debug)]
pub(super) struct Replaced<K> {
    pub id: Id,
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

/// Objects that can be compared. (A pod's metadata as it is read has no equality of its own.)
pub(super) trait Same {
    /// Whether they say the same.
    fn same(&self, other: &Self) -> bool;
}

/// All objects of one kind.
#[derive(Debug)]
pub(super) struct Store<K> {
    objects: BTreeMap<Id, (Scope, Arc<K>)>,
    /// What a listing has brought so far.
    listing: BTreeMap<Scope, BTreeMap<Id, Arc<K>>>,
    /// Watches that have not said anything yet.
    waiting: BTreeSet<Scope>,
    /// Why there is nothing to watch, by scope.
    missing: BTreeMap<Scope, String>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: BTreeMap::new(), waiting: BTreeSet::new(), missing: BTreeMap::new() }
    }
}

impl<K: Same> Store<K> {
    /// A watch of this kind begins.
    pub fn begin(&mut self, scope: Scope) {
        self.waiting.insert(scope);
    }

    /// A watch of this kind has ended for good, and takes its objects with it.
    pub fn end(&mut self, scope: Scope) -> Vec<Replaced<K>> {
        self.waiting.remove(&scope);
        self.missing.remove(&scope);
        self.listing.remove(&scope);
        self.keep(scope, |_| false)
    }

    /// Whether every watch has listed what there is, or was told that there is nothing to list.
    pub fn is_listed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Why some watches have nothing to watch.
    pub fn missing(&self) -> Option<&str> {
        self.missing.values().next().map(String::as_str)
    }

    /// The same watch by watch.
    pub fn all_missing(&self) -> impl Iterator<Item = (Scope, &str)> {
        self.missing.iter().map(|(scope, reason)| (*scope, reason.as_str()))
    }

    /// The kind is not there, or may not be read. What was there before stays. Tells whether that is news.
    pub fn miss(&mut self, scope: Scope, reason: String) -> bool {
        self.waiting.remove(&scope);
        self.missing.insert(scope, reason.clone()).as_ref() != Some(&reason)
    }

    /// Takes in an event, and says which objects are others now. `same` objects are left alone.
    pub fn take(&mut self, scope: Scope, event: Event<(Id, K)>) -> Vec<Replaced<K>> {
        match event {
            Event::Init => {
                self.listing.insert(scope, BTreeMap::new());
                Vec::new()
            }
            Event::InitApply((id, object)) => {
                self.listing.entry(scope).or_default().insert(id, Arc::new(object));
                Vec::new()
            }
            Event::InitDone => {
                self.waiting.remove(&scope);
                self.missing.remove(&scope);
                let listed = self.listing.remove(&scope).unwrap_or_default();
                let mut replaced = self.keep(scope, |id| listed.contains_key(id));
                replaced.extend(listed.into_iter().filter_map(|(id, object)| self.put(scope, id, object)));
                replaced
            }
            Event::Apply((id, object)) => self.put(scope, id, Arc::new(object)).into_iter().collect(),
            Event::Delete((id, _)) => {
                let old = self.objects.remove(&id).map(|(_, object)| object);
                old.map(|old| Replaced { id, old: Some(old), new: None }).into_iter().collect()
            }
        }
    }

    /// All of them, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values().map(|(_, object)| object)
    }

    /// The one with this namespace and name.
    pub fn get(&self, id: &Id) -> Option<&Arc<K>> {
        self.objects.get(id).map(|(_, object)| object)
    }

    fn put(&mut self, scope: Scope, id: Id, object: Arc<K>) -> Option<Replaced<K>> {
        if let Some((of, held)) = self.objects.get_mut(&id)
            && held.same(&object)
        {
            *of = scope;
            return None;
        }
        let old = self.objects.insert(id.clone(), (scope, object.clone())).map(|(_, old)| old);
        Some(Replaced { id, old, new: Some(object) })
    }

    fn keep(&mut self, scope: Scope, wanted: impl Fn(&Id) -> bool) -> Vec<Replaced<K>> {
        let gone = self.objects.extract_if(.., |id, (of, _)| *of == scope && !wanted(id));
        gone.map(|(id, (_, old))| Replaced { id, old: Some(old), new: None }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Same for u32 {
        fn same(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn id(name: &str) -> Id {
        ("a".to_owned(), name.to_owned())
    }

    fn list(store: &mut Store<u32>, scope: Scope, objects: &[(&str, u32)]) -> Vec<String> {
        store.take(scope, Event::Init);
        for (name, value) in objects {
            assert!(store.take(scope, Event::InitApply((id(name), *value))).is_empty(), "a listing is one change");
        }
        store.take(scope, Event::InitDone).into_iter().map(|replaced| replaced.id.1).collect()
    }

    fn held(store: &Store<u32>) -> Vec<u32> {
        store.iter().map(|value| **value).collect()
    }

    #[test]
    fn a_watch_that_expires_changes_only_what_is_really_different() {
        let mut store = Store::default();
        store.begin(0);
        assert!(!store.is_listed());
        list(&mut store, 0, &[("x", 1), ("y", 2)]);
        assert!(store.is_listed());
        // The same again: nobody is told of anything.
        assert!(list(&mut store, 0, &[("x", 1), ("y", 2)]).is_empty());
        // While a new listing is on its way, what was there stays.
        store.take(0, Event::Init);
        assert_eq!(held(&store), [1, 2]);
        assert_eq!(list(&mut store, 0, &[("y", 3), ("z", 4)]), ["x", "y", "z"]);
        assert_eq!(held(&store), [3, 4]);
    }

    #[test]
    fn a_listing_of_one_namespace_leaves_the_others_alone() {
        let mut store = Store::default();
        list(&mut store, 0, &[("x", 1)]);
        list(&mut store, 1, &[("y", 2)]);
        assert_eq!(list(&mut store, 1, &[]), ["y"]);
        assert_eq!(held(&store), [1]);
    }

    #[test]
    fn a_kind_that_is_not_there_keeps_nobody_waiting_and_is_told_of_once() {
        let mut store: Store<u32> = Store::default();
        store.begin(0);
        assert!(store.miss(0, "not installed".to_owned()));
        assert!(!store.miss(0, "not installed".to_owned()));
        assert!(store.is_listed());
        assert_eq!(store.missing(), Some("not installed"));
        list(&mut store, 0, &[("x", 1)]);
        assert_eq!(store.missing(), None);
    }
}
