"""The browser viewer: a small server of tiles and one page.

    sources ─► sampling ─► colouring ─► server ─► static/page.js (OpenSeadragon)

Everything is shown on one grid, that of the slide's level 0 halved again and again, so that a layer cannot be shifted
against another. Knows results, slides and lazy masks; writes nothing but regions that were drawn in the page.
"""
