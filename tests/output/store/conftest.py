"""A bucket on this machine."""

from __future__ import annotations

from tests.object_server import bucket, the_object_server

__all__ = ["bucket", "the_object_server"]
