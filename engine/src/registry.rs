// SPDX-License-Identifier: GPL-2.0-only
//! Names, handles and the order of devices.
//!
//! Every method is called with the registry's lock held. A device is [reserved](Registry::reserve) by name
//! before it is created, [numbered](Registry::number) when all checks have passed,
//! [published](Registry::publish) once it works, [sealed](Registry::seal) by the caller that destroys it,
//! [vacated](Registry::vacate) when its disk is deleted and its name is free again, and
//! [removed](Registry::remove) when its memory is freed. Look-ups and lists only see published devices.

use crate::errno::Errno;
use crate::name::Name;

/// State of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reserved,
    Published,
    Sealed,
    /// Its name is free, but its memory still exists.
    Vacated,
}

/// The registry's data about one device.
#[derive(Clone, Copy, Debug)]
struct Entry {
    stage: Stage,
    name: Name,
    version: u32,
    handle: u32,
    order: u64,
    device: u64,
}

/// Storage of one entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(Option<Entry>);

/// State of the registry besides its places.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegistryState {
    last_handle: u32,
    last_order: u64,
}

/// Identifies one place of the registry, from [`Registry::reserve`] to [`Registry::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceId(usize);

/// A published device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place.
    pub place: PlaceId,
    /// The value passed to [`Registry::publish`].
    pub device: u64,
    /// Its handle.
    pub handle: u32,
    /// Interface version.
    pub version: u32,
    /// Its name.
    pub name: Name,
    /// Increases with every reservation.
    pub order: u64,
}

/// The registry: its state and its places, borrowed while the caller holds the lock.
#[derive(Debug)]
pub struct Registry<'a> {
    state: &'a mut RegistryState,
    places: &'a mut [Place],
}

impl<'a> Registry<'a> {
    /// Combines the registry's parts. There can be as many devices as places.
    pub const fn new(state: &'a mut RegistryState, places: &'a mut [Place]) -> Self {
        Self { state, places }
    }

    /// Reserves a place and a name for a device. Both versions share the names, and the names of the disks: a device
    /// `zosbd2-a` of version 1 would have the node of the device `a` of version 2.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if all places are in use, `EEXIST` if the name of the device or of its disk is in use.
    pub fn reserve(&mut self, name: Name, version: u32) -> Result<PlaceId, Errno> {
        let free = self.places.iter().position(|place| place.0.is_none()).ok_or(Errno::ENOSPC)?;
        let disk = name.disk_name(version);
        let clashes = |entry: Entry| {
            entry.stage != Stage::Vacated
                && (entry.name == name || entry.name.disk_name(entry.version) == disk)
        };
        if self.places.iter().any(|place| place.0.is_some_and(clashes)) {
            return Err(Errno::EEXIST);
        }
        let place = self.places.get_mut(free).ok_or(Errno::ENOSPC)?;
        self.state.last_order = self.state.last_order.wrapping_add(1);
        let order = self.state.last_order;
        place.0 = Some(Entry { stage: Stage::Reserved, name, version, handle: 0, order, device: 0 });
        Ok(PlaceId(free))
    }

    /// Gives a reserved device its handle: the last handle plus one, never 0, never one in use.
    pub fn number(&mut self, id: PlaceId) -> u32 {
        let mut handle = self.state.last_handle.wrapping_add(1);
        // The loop ends, because there are fewer places than handles.
        while handle == 0
            || self.places.iter().any(|place| place.0.is_some_and(|entry| entry.handle == handle))
        {
            handle = handle.wrapping_add(1);
        }
        self.state.last_handle = handle;
        if let Some(entry) = self.entry(id) {
            entry.handle = handle;
        }
        handle
    }

    /// Makes a device visible. Look-ups return `device`.
    pub fn publish(&mut self, id: PlaceId, device: u64) {
        if let Some(entry) = self.entry(id) {
            entry.stage = Stage::Published;
            entry.device = device;
        }
    }

    /// Hides a device for its destruction; its name and place stay reserved. Returns whether the device was
    /// visible: only then does this caller destroy it.
    #[must_use]
    pub fn seal(&mut self, id: PlaceId) -> bool {
        match self.entry(id) {
            Some(entry) if entry.stage == Stage::Published => {
                entry.stage = Stage::Sealed;
                true
            }
            _ => false,
        }
    }

    /// Frees a device's name. Its place and its handle stay in use.
    pub fn vacate(&mut self, id: PlaceId) {
        if let Some(entry) = self.entry(id) {
            entry.stage = Stage::Vacated;
        }
    }

    /// Frees a device's place, and its name if that is not free yet.
    pub fn remove(&mut self, id: PlaceId) {
        if let Some(place) = self.places.get_mut(id.0) {
            place.0 = None;
        }
    }

    /// The published device with this handle.
    #[must_use]
    pub fn by_handle(&self, handle: u32) -> Option<Found> {
        self.find(|entry| entry.stage == Stage::Published && entry.handle == handle)
    }

    /// The published device with this name.
    #[must_use]
    pub fn by_name(&self, name: &Name) -> Option<Found> {
        self.find(|entry| entry.stage == Stage::Published && entry.name == *name)
    }

    /// The published device with this name, if it has this handle; 0: any. A name can be used again at once,
    /// a handle only after all others.
    ///
    /// # Errors
    ///
    /// `ENOENT` if no device has this name, `ESTALE` if the device has another handle.
    pub fn meant(&self, name: &Name, handle: u32) -> Result<Found, Errno> {
        let found = self.by_name(name).ok_or(Errno::ENOENT)?;
        if handle == 0 || found.handle == handle { Ok(found) } else { Err(Errno::ESTALE) }
    }

    /// The published device that follows `order` in the order of creation; 0 for the first one.
    #[must_use]
    pub fn after(&self, order: u64) -> Option<Found> {
        self.next(order, Stage::Published)
    }

    /// Like [`after`](Self::after), for devices that are being destroyed.
    #[must_use]
    pub fn sealed_after(&self, order: u64) -> Option<Found> {
        self.next(order, Stage::Sealed)
    }

    /// Number of published devices.
    #[must_use]
    pub fn count(&self) -> u32 {
        let published = |place: &&Place| place.0.is_some_and(|entry| entry.stage == Stage::Published);
        u32::try_from(self.places.iter().filter(published).count()).unwrap_or(u32::MAX)
    }

    fn next(&self, order: u64, stage: Stage) -> Option<Found> {
        let mut best: Option<Found> = None;
        for (index, place) in self.places.iter().enumerate() {
            let Some(entry) = place.0 else { continue };
            if entry.stage == stage
                && entry.order > order
                && best.is_none_or(|found| entry.order < found.order)
            {
                best = Some(entry.found(index));
            }
        }
        best
    }

    fn find(&self, wanted: impl Fn(&Entry) -> bool) -> Option<Found> {
        self.places.iter().enumerate().find_map(|(index, place)| {
            let entry = place.0?;
            wanted(&entry).then(|| entry.found(index))
        })
    }

    fn entry(&mut self, id: PlaceId) -> Option<&mut Entry> {
        self.places.get_mut(id.0)?.0.as_mut()
    }
}

impl Entry {
    const fn found(&self, index: usize) -> Found {
        Found {
            place: PlaceId(index),
            device: self.device,
            handle: self.handle,
            version: self.version,
            name: self.name,
            order: self.order,
        }
    }
}

impl PlaceId {
    /// The place as a number, for C code that stores it.
    #[must_use]
    pub const fn to_raw(self) -> usize {
        self.0
    }

    /// The inverse of [`to_raw`](Self::to_raw). An invalid number names no place.
    #[must_use]
    pub const fn from_raw(raw: usize) -> Self {
        Self(raw)
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn name(letter: u8) -> Name {
        let mut field = [0; zosbd2_abi::v1::NAME_BYTES];
        field[0] = letter;
        Name::from_field(&field).expect("a name")
    }

    #[test]
    fn handles_wrap_past_zero_and_those_in_use() {
        let mut state = RegistryState::default();
        let mut places = [Place::default(); 4];
        let mut registry = Registry::new(&mut state, &mut places);
        let [first, second, third] =
            [b'a', b'b', b'c'].map(|letter| registry.reserve(name(letter), 1).expect("room"));
        assert_eq!((registry.number(first), registry.number(second)), (1, 2));
        registry.state.last_handle = u32::MAX - 1;
        assert_eq!(registry.number(third), u32::MAX);
        let fourth = registry.reserve(name(b'd'), 2).expect("room");
        assert_eq!(registry.number(fourth), 3, "neither 0 nor 1 and 2, which are in use");
        // A handle in use is not given again, whatever the state of its device. A handle of a removed device
        // may be, after the wrap.
        registry.publish(first, 1);
        assert!(registry.seal(first) && !registry.seal(first), "by one caller");
        registry.remove(second);
        registry.vacate(fourth);
        registry.state.last_handle = u32::MAX;
        let again = registry.reserve(name(b'b'), 1).expect("room");
        assert_eq!(registry.number(again), 2);
        assert_eq!(registry.number(fourth), 4, "that of the vacated one is still in use");
    }
}
