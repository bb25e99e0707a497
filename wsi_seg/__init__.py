"""wsi-seg: whole-slide pathology images to pyramidal label maps."""

__version__ = "0.1.0"
