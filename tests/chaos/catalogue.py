"""All faults, in the order in which they are started: the long ones first."""

from __future__ import annotations

from tests.chaos import (
    bit_flips,
    bombs,
    calls,
    canaries,
    combinations,
    disks,
    frozen,
    hostile_models,
    interrupting,
    killing,
    mutated,
    network,
    objects,
    races,
    slide_flips,
    tile_faults,
    twice,
)

FAULTS = (
    *calls.FAULTS,
    *killing.FAULTS,
    *bit_flips.FAULTS,
    *mutated.FAULTS,
    *hostile_models.FAULTS,
    *canaries.FAULTS,
    *bombs.FAULTS,
    *tile_faults.FAULTS,
    *slide_flips.FAULTS,
    *combinations.FAULTS,
    *races.FAULTS,
    *interrupting.FAULTS,
    *disks.FAULTS,
    *objects.FAULTS,
    *twice.FAULTS,
    *frozen.FAULTS,
    *network.FAULTS,
)
