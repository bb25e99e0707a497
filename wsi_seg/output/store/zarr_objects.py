"""An object store as zarr reads it; owns nothing but that its errors become clear ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError
from zarr.storage import ObjectStore

from wsi_seg.output.store.refusals import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class ReadableObjects(ObjectStore[Any]):
    """Read-only; what cannot be read is WriteError, which names the object."""

    def __init__(self, objects: Any, place: str) -> None:
        super().__init__(objects, read_only=True)
        self._place = place

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As zarr's; None where there is no such object."""
        try:
            return await super().get(key, prototype, byte_range)  # type: ignore[arg-type]  # as zarr declares it
        except BaseError as error:
            refusal = in_words("read", f"{self._place}/{key}", error)
        raise refusal

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As zarr's."""
        try:
            return await super().get_partial_values(prototype, key_ranges)
        except BaseError as error:
            refusal = in_words("read", self._place, error)
        raise refusal
