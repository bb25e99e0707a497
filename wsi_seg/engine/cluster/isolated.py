"""The child process of `isolation`: makes one call, and where that is a task tells each tile before it is tried.

Reads a pickle of (function, arguments), eight bytes of length before it, from its parent on standard input and answers
on standard output, a JSON object per line.
"""

from __future__ import annotations

import json
import os
import pickle
import threading

from wsi_seg.errors import ClusterError, WsiSegError

LENGTH_BYTES = 8
"""Bytes that say how long the request is, the most significant first."""


def main() -> None:
    """Do what the parent asks. Ends with 0 also where the task raised: that is told."""
    # Nothing else may write between the lines: what libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**said: object) -> None:
        answers.write(json.dumps(said) + "\n")

    try:
        length = int.from_bytes(_received(LENGTH_BYTES), "big")
        function, arguments = pickle.loads(_received(length))
        threading.Thread(target=_leave_with_parent, daemon=True).start()
        value = function(*arguments, lambda doing, tiles: tell(doing=doing, tiles=list(tiles)))
    except Exception as error:
        tell(error=pickle.dumps(error if isinstance(error, WsiSegError | OSError) else _in_words(error)).hex())
    else:
        tell(value=pickle.dumps(value).hex())
    os._exit(0)  # the thread that waits for the parent, and whatever a model's runtime left behind, are not waited for


def _received(length: int) -> bytes:
    """So many bytes from the parent, and none that come after them. Without a buffer, which another thread may hold."""
    parts = []
    while length:
        part = os.read(0, min(length, 1 << 20))
        if not part:
            os._exit(0)  # the parent is gone
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _leave_with_parent() -> None:
    """End when the parent does: its end of standard input closes."""
    while os.read(0, 1):
        pass
    os._exit(0)


def _in_words(error: Exception) -> ClusterError:
    """An error that the parent may not know how to unpickle."""
    return ClusterError(
        f"a step in a process of its own raised {type(error).__name__}: {error}",
        rule="a step raises errors of wsi-seg, or of the system",
        remedy="see the log of the worker, and report this",
    )


if __name__ == "__main__":
    main()
