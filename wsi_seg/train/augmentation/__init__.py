"""Random changes of a training batch on its device: geometry, colour, stain."""
