"""Every error wsi-seg raises on purpose; owns the tree, knows nothing else.

::

    WsiSegError                        exit code 1
    ├── UsageError        (ValueError)        2    an option or argument is wrong
    ├── SlideError
    │   ├── SlideOpenError    (OSError)            the file cannot be opened as a slide
    │   ├── RegionReadError   (OSError)            pixels of an opened slide cannot be read
    │   └── MissingMppError   (ValueError)         the resolution is not known
    ├── ModelError
    │   ├── ModelLoadError    (OSError)            the program cannot be loaded or its runtime is missing
    │   ├── CardError         (ValueError)         the model contract is incomplete or contradicts itself
    │   ├── PredictorError    (RuntimeError)       a prediction failed or has the wrong shape
    │   │   └── PredictorOutOfMemory (MemoryError) a batch does not fit the memory
    │   └── ParityError       (ValueError)         an export does not give the labels of its original
    ├── PlanError         (ValueError)
    │   ├── GridError                              tile, overlap or block do not fit each other
    │   ├── RoiError                               region of interest unreadable or off the slide
    │   └── MemoryBudgetError (MemoryError)        the projected peak exceeds the budget
    ├── OutputError
    │   ├── OutputExistsError (FileExistsError)    a finished result, or another job, is there
    │   ├── RunMismatchError  (ValueError)         a half-done result belongs to another run
    │   ├── CorruptOutputError(ValueError)         stored bytes differ from their recorded hash
    │   └── WriteError        (OSError)            the result cannot be written
    ├── TrainingError
    │   ├── ConfigError       (ValueError)    2    a key of the training configuration is wrong
    │   ├── AnnotationError   (ValueError)         reference labels are unreadable or do not fit
    │   ├── CheckpointError   (OSError)            saved weights or state are unreadable or belong to another run
    │   └── DivergedError     (ArithmeticError)    the loss stays NaN or infinite
    ├── EvaluationError       (ValueError)         masks cannot be compared
    ├── ConversionError       (ValueError)         a result cannot be written in the format asked for
    ├── ClusterError          (RuntimeError)       scheduler or workers are lost, refuse, or cannot do a step
    ├── BatchError            (ValueError)         the inputs or the folder of a batch are wrong
    └── RunStopped                     130 / 143   stopped by a signal; run again to resume

A message says what failed with the value, then the rule, then the remedy.
"""

from __future__ import annotations

from typing import Any, ClassVar


class WsiSegError(Exception):
    """Root of the tree.

    `what` names the failure and the offending value, `rule` the condition that was broken, `remedy`
    what the user can do. Pickles, so that it crosses process borders unchanged.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, rule: str = "", remedy: str = "") -> None:
        self.what, self.rule, self.remedy = what, rule, remedy
        super().__init__("; ".join(part for part in (what, rule, remedy) if part))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.rule, self.remedy)


def _rebuild(cls: type[WsiSegError], what: str, rule: str, remedy: str) -> WsiSegError:
    return cls(what, rule=rule, remedy=remedy)


class UsageError(WsiSegError, ValueError):
    """An option or argument is wrong."""

    exit_code = 2


class SlideError(WsiSegError):
    """Something about a slide."""


class SlideOpenError(SlideError, OSError):
    """The file cannot be opened as a slide."""


class RegionReadError(SlideError, OSError):
    """Pixels of an opened slide cannot be read."""


class MissingMppError(SlideError, ValueError):
    """The slide does not state its resolution and none was given."""


class ModelError(WsiSegError):
    """Something about a model."""


class ModelLoadError(ModelError, OSError):
    """The program cannot be loaded, or its runtime is missing or fell back silently."""


class CardError(ModelError, ValueError):
    """The model contract is incomplete or contradicts itself."""


class PredictorError(ModelError, RuntimeError):
    """A prediction failed or has the wrong shape or range."""


class ParityError(ModelError, ValueError):
    """A program does not give the labels of the one it was made from."""


class PredictorOutOfMemory(PredictorError, MemoryError):
    """A batch does not fit the memory of the device; a smaller one may."""


class PlanError(WsiSegError, ValueError):
    """The work cannot be planned as asked."""


class GridError(PlanError):
    """Tile size, overlap, output stride or block size do not fit each other."""


class RoiError(PlanError):
    """The region of interest cannot be read or lies off the slide."""


class MemoryBudgetError(PlanError, MemoryError):
    """The projected peak memory exceeds the budget."""


class OutputError(WsiSegError):
    """Something about a result on disk."""


class OutputExistsError(OutputError, FileExistsError):
    """A finished result, or a running job, is already there."""


class RunMismatchError(OutputError, ValueError):
    """A half-done result belongs to a run with other settings."""


class CorruptOutputError(OutputError, ValueError):
    """Stored bytes differ from their recorded hash, or the result's structure is broken."""


class WriteError(OutputError, OSError):
    """The result cannot be written."""


class TrainingError(WsiSegError):
    """Something about training."""


class ConfigError(TrainingError, ValueError):
    """A key of the training configuration is unknown, missing or out of range."""

    exit_code = 2


class AnnotationError(TrainingError, ValueError):
    """Reference labels cannot be read, or do not fit their image or the classes."""


class CheckpointError(TrainingError, OSError):
    """Saved weights or a saved state cannot be read, or belong to another configuration."""


class DivergedError(TrainingError, ArithmeticError):
    """Loss or gradients stay NaN or infinite."""


class EvaluationError(WsiSegError, ValueError):
    """Predicted and reference masks cannot be compared."""


class ConversionError(WsiSegError, ValueError):
    """A result cannot be written in the format asked for."""


class ClusterError(WsiSegError, RuntimeError):
    """Scheduler or workers are lost, refuse, or cannot do a step."""


class BatchError(WsiSegError, ValueError):
    """The inputs or the folder of a batch are wrong."""


class RunStopped(WsiSegError):
    """A signal stopped the run; what was finished is kept and the same command resumes it."""

    exit_code = 130
