"""`python -m wsi_seg.cli`: the program without its console script."""

from wsi_seg.cli.main import main

main()
