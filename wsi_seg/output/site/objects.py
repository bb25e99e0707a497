"""A result in an object store: built in place, since nothing there can be renamed; the root metadata is the commit.

Whoever reads before that finds no group. What a stopped commit has left (companions, provenance) is removed before the
next one, and companions are put only where there are none: of two workers that do the last step at the same time, the
second takes what the first has written, and both name the same bytes in the provenance.
"""

from __future__ import annotations

from contextlib import suppress

from wsi_seg.errors import OutputExistsError, UsageError, WriteError
from wsi_seg.output.result_spec import LOCK, ROOT, STATE
from wsi_seg.output.store.location import Location, Url
from wsi_seg.output.store.objects import ObjectStore, walk
from wsi_seg.output.store.opening import store_at


class ObjectSite:
    """A prefix; see `Site`."""

    def __init__(self, out: Url) -> None:
        self.out = self.unfinished = out
        self.store = _objects_at(out)

    @classmethod
    def unfinished_below(cls, folder: Url) -> list[Location]:
        """Zarr prefixes that say which run they are of, and have no root metadata. Raises WriteError."""
        store = _objects_at(folder)
        places = [folder / prefix for prefix in walk(store, into=".zarr")]
        begun = (place for place in places if _objects_at(place).has(f"{STATE}/run.json"))
        return [place for place in begun if not _objects_at(place).has(ROOT)]

    def make_place(self) -> None:
        """A prefix is there as soon as a key begins with it."""

    def check_place(self) -> None:
        """Raises UsageError for a whole bucket, WriteError where the bucket is missing or access denied."""
        if not self.out.path:
            raise UsageError(f"--out {self.out}", rule=f"{self.out.scheme}://BUCKET/NAME.seg.zarr")
        self.store.children()

    def exists(self) -> bool:
        """Whether the root metadata are there."""
        return self.store.has(ROOT)

    def is_settled(self) -> bool:
        """As `exists`: the root metadata come last."""
        return self.exists()

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raises OutputExistsError; removes what a process that was killed right after its commit has left."""
        if not self.exists():
            return
        self._remove_state()
        with suppress(WriteError):
            if not self.store.holder(LOCK):
                self.store.remove(LOCK)
        rule = "in an object store old and new cannot be exchanged" if overwrite else "results are never replaced"
        raise OutputExistsError(f"{self.out} exists", rule=rule, remedy="another --out, or remove it yourself")

    def refuse_foreign(self) -> None:
        """Raises OutputExistsError where other objects lie below the name."""
        objects, prefixes = self.store.children()
        if (objects or prefixes) and STATE not in prefixes:
            raise OutputExistsError(
                f"{self.out} exists and is no unfinished result of wsi-seg",
                rule="the result is built there",
                remedy="choose another --out, or remove it yourself",
            )

    def empty(self) -> None:
        """Remove everything but the lease; the identity goes first, so that a stop half-way leaves no false claim."""
        self.store.remove(f"{STATE}/run.json")
        self.store.remove_all([key for key in self.store.keys("") if key != LOCK])

    def sweep(self) -> None:
        """Remove companions and provenance of a commit that was stopped."""
        self.store.remove_all([key for key in self.store.children()[0] if key != ROOT])

    def attach(self, name: str, content: bytes) -> None:
        """Put an object beside the arrays, where there is none. Raises WriteError."""
        with suppress(FileExistsError):
            self.store.write(name, content, exclusive=True)

    def publish(self, root: bytes, *, overwrite: bool) -> None:
        """Put the root metadata where there are none. Raises OutputExistsError, WriteError."""
        try:
            self.store.write(ROOT, root, exclusive=True)
        except FileExistsError:
            self.refuse_existing(overwrite=overwrite)
        self._remove_state()

    def _remove_state(self) -> None:
        """The result is there; what is left to remove harms nobody."""
        with suppress(WriteError):
            left = self.store.keys(STATE)
            self.store.remove_all([key for key in left if key.endswith("/run.json")])  # ends late workers
            self.store.remove_all([key for key in left if key != LOCK])


def _objects_at(place: Url) -> ObjectStore:
    store = store_at(place)
    assert isinstance(store, ObjectStore)
    return store
