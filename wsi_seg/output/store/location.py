"""Names of places: a path of this machine's file system, or the URL of something in an object store.

Owns what a user may write for one. A URL says what a path says with the same words (`/`, `name`, `with_name`), so that
who only builds names need not know which it is. It holds no credentials, ever: those are the environment's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsi_seg.errors import UsageError

SCHEMES = ("s3", "gs", "az")
"""Amazon S3 and what speaks its language, Google Cloud Storage, Azure Blob Storage."""


@dataclass(frozen=True, slots=True)
class Url:
    """A place in an object store; pickles, and means the same in every process.

    >>> place = Url("s3", "bucket", "results/a.seg.zarr")
    >>> print(place / "zarr.json", place.parent, place.with_name("b.zarr"))
    s3://bucket/results/a.seg.zarr/zarr.json s3://bucket/results s3://bucket/results/b.zarr
    """

    scheme: str
    bucket: str
    """Bucket, or container."""
    path: str
    """Key or prefix of keys, without a slash at either end; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.path}".rstrip("/")

    def __truediv__(self, more: str) -> Url:
        return Url(self.scheme, self.bucket, f"{self.path}/{more}".strip("/"))

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        """What it lies in."""
        return Url(self.scheme, self.bucket, self.path.rpartition("/")[0])

    def with_name(self, name: str) -> Url:
        """A neighbour."""
        return self.parent / name

    def absolute(self) -> Url:
        """Itself: a URL is the same from everywhere."""
        return self


Location = Path | Url


def way_to(place: Location, folder: Location) -> PurePosixPath:
    """The way from a folder to a place in it. Raises ValueError where it does not lie in there.

    >>> way_to(Url("s3", "bucket", "results/a/b.zarr"), Url("s3", "bucket", "results"))
    PurePosixPath('a/b.zarr')
    """
    return PurePosixPath(str(place)).relative_to(PurePosixPath(str(folder)))


def location_of(place: str | Path | Url) -> Location:
    """What a user means by a text: a URL where it has a scheme, else a path. Raises UsageError.

    >>> location_of("results/a.zarr"), location_of("s3://bucket/a.zarr/")
    (PosixPath('results/a.zarr'), Url(scheme='s3', bucket='bucket', path='a.zarr'))
    """
    if isinstance(place, Url):
        return place
    scheme, mark, rest = str(place).partition(":/")
    if isinstance(place, Path) and mark and scheme in SCHEMES:
        raise UsageError(
            f"{place} as a Path", rule="a Path swallows one of a URL's slashes", remedy="give the URL as text"
        )
    if not mark or not rest.startswith("/"):
        return Path(place)
    return _url(scheme, rest[1:])


def _url(scheme: str, rest: str) -> Url:
    if scheme not in SCHEMES:
        raise UsageError(f"a URL that begins with {scheme}://", rule=f"one of {', '.join(f'{s}://' for s in SCHEMES)}")
    bucket, _, path = rest.rstrip("/").partition("/")
    if "@" in bucket or ":" in bucket or "?" in rest:
        # Not repeated: what stands there may be a secret.
        raise UsageError(
            f"a {scheme}:// URL with more than a bucket and a key",
            rule=f"{scheme}://BUCKET/KEY; credentials and endpoint come from the environment",
            remedy="see the guide on clusters for the variables",
        )
    if not bucket or any(part in ("", ".", "..") for part in path.split("/") if path):
        raise UsageError(f"{scheme}://{rest}", rule=f"{scheme}://BUCKET/KEY, no part empty, . or ..")
    return Url(scheme, bucket, path)
