"""What a run leaves to look at: events, tables, curves, pictures."""
