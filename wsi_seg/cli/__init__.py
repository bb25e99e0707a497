"""The command line: arguments in, words and exit codes out. Imports heavy rooms only inside a command."""
