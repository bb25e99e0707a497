"""The browser viewer: a small server of tiles and one page."""
