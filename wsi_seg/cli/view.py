"""`wsi-seg view`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.shared_options import CardFields, card_options, with_options


@with_options(card_options, "card")
def view(
    place: Annotated[
        list[str],
        typer.Argument(metavar="RESULT…", help="Results, folders of results, or slides.", show_default=False),
    ],
    slide: Annotated[
        list[Path] | None,
        typer.Option(help="The slide of a result, or a folder of slides; default: looked for beside the result."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Predict a slide where you look, with this model; nothing is written.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="um per px of the slide's finest level, over what it says.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="GeoJSON file that regions drawn in the page are kept in.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; away from this machine a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: 8765, or the next that is free.")] = None,
    token: Annotated[bool, typer.Option("--token", help="Ask for a token on this machine too.")] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = False,
    *,
    card: CardFields,
) -> None:
    """Look at results in a browser.

    Shows label maps over their slides, finished or while a run still makes them; a folder gives a gallery. With
    --model a slide is predicted where you look. Listens on this machine only, until Ctrl-C.
    """
    from wsi_seg.engine.options import RunOptions
    from wsi_seg.viewer.gallery import Gallery, Wishes
    from wsi_seg.viewer.serving import Address, serve

    live = None if model is None else RunOptions(model=model, card=card, slide_mpp=mpp)
    wishes = Wishes(place, tuple(slide or ()), annotations, live, mpp)

    def tell(where: str) -> None:
        print(f"{where}\nCtrl-C ends it.", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(where)

    gallery = Gallery.open(wishes)
    for note in dict.fromkeys(note for shown in gallery for note in shown.notes):
        print(f"note: {note}", file=sys.stderr)
    serve(gallery, Address(host, port, token), tell)
