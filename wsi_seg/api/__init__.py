"""The Python interface: `wsi_seg.run`, `open_result`, `open_mask`, and the `Result` they answer.

Owns how runs and results look to who writes Python: options by name, errors in Python's words, a result as one object.
Knows the rooms that do the work, and nothing of the command line. Everything here is reached as `wsi_seg.NAME`.
"""
