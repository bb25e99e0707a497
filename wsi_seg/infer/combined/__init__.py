"""Several predictions as one: augmented copies of a tile, several models, and their weighted mean."""
