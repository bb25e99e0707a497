"""One answer to a missing library of the extra `dicom`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from wsi_seg.errors import ConversionError


@contextmanager
def extra_needed() -> Iterator[None]:
    """Turns the ImportError of highdicom or pydicom into ConversionError with the command that installs them."""
    try:
        yield
    except ImportError as error:
        raise ConversionError(
            f"{error.name or 'a library'} is not installed",
            rule="DICOM segmentations need highdicom and pydicom",
            remedy="pip install 'wsi-seg[dicom]'",
        ) from error
