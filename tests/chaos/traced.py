"""`wsi-seg` with its tasks traced: `python -m tests.chaos.traced run SLIDE …`."""

from __future__ import annotations

from tests.chaos.tracing import install

if __name__ == "__main__":
    from wsi_seg.cli.main import main

    install()
    main()
