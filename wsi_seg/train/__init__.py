"""Training: from annotated slides or image pairs to a model with a card. May import any sibling room; owns the loop."""
