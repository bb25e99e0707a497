"""Networks of ours, for training and export. Only what is asked for here by name imports torch; nothing runs slides."""
