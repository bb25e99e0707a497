"""How much memory a network's values take while it runs, reckoned from its graph: nothing is run for it.

Owns the reckoning. Knows an OpenVINO graph by the few methods that it asks of it, and imports no runtime.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Any

BYTES_PER_VALUE = 4
"""fp32, whatever the precision: so that it does not decide about tiles."""
SCRATCH = 1.5
"""What kernels take beyond the values themselves: 1.12 to 1.46 times was measured for U-Nets in fp32."""


def live_bytes(model: Any) -> int:
    """Bytes that one prediction takes at its worst moment, `SCRATCH` included; `model` has static shapes.

    Operations run in the graph's order; a value lives from its operation to its last reader. Weights do not count.
    """
    operations = model.get_ordered_ops()
    last_read: dict[tuple[str, int], int] = {}
    for moment, operation in enumerate(operations):
        for port in operation.inputs():
            source = port.get_source_output()
            last_read[source.get_node().get_name(), source.get_index()] = moment
    ending: defaultdict[int, int] = defaultdict(int)
    live = worst = 0
    for moment, operation in enumerate(operations):
        if operation.get_type_name() not in ("Constant", "Result"):
            for output in operation.outputs():
                n_bytes = BYTES_PER_VALUE * prod(int(side) for side in output.get_shape())
                ending[last_read.get((operation.get_name(), output.get_index()), moment)] += n_bytes
                live += n_bytes
        worst = max(worst, live)
        live -= ending.pop(moment, 0)
    return int(SCRATCH * worst)
