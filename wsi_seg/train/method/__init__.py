"""What training can do besides fitting labels, one file for each method; none knows the loop."""
