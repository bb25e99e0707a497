"""One file for each runtime that can run a program, and what they share; each library is imported in one of them."""
