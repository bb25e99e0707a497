"""From annotated slides and image pairs to patches: fields, where patches lie in them, and reading ahead."""
