"""Training: from annotated slides or image pairs to a model with a card. May import any sibling room; owns the loop.

    source/ ─► material ─► augmentation/ ─► objective (method/) ─► learner ─► finishing ─► exporting       (loop.py)

What a run leaves to look at is in `record/`.
"""
