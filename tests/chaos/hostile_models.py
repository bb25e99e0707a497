"""R24: models that mean harm, and models broken in a million ways: one clear error, and nothing happens.

Attacks are loaded in this process under an audit hook: no file is opened outside the model's folder but by Python and
its packages, no program is started, and the canary never appears. Broken models go to a process of their own, which
must live on, answer in time, and not grow.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.attacks import ATTACKS, FACTORY, Lair
from tests.chaos.fault import Fault, Figures, Skipped
from tests.chaos.loading_child import outcome
from tests.chaos.malformed import Sound, malformed, sound_models
from tests.chaos.scene import ROOT, Scene, Wrong, environment_of_jobs
from tests.models_of_others import zoo

PATIENCE_S = 30.0
STARTING_S = 120.0
_IN_OPEN = 0x20
MOST_MB = 6000
"""Memory that the process may have held. A graph of a few bytes may ask for any amount: the process is given a limit of
address space (`loading_child.MOST_ADDRESSES`), at which the runtimes must say so instead of dying."""
DEFAULT_POINTS = 5000
_HARMLESS = tuple({str(ROOT), sys.prefix, sys.base_prefix, "/proc", "/sys", "/usr", "/etc/ld", "/dev/null", "/lib"})
_STARTING = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect")
_CHANGING = ("os.mkdir", "os.remove", "os.rename")

_EARS: list[list[tuple[str, str]]] = []
"""Who listens to the audit hook."""


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for heard in _EARS:
        if event == "open" and isinstance(arguments[0], str | bytes):
            heard.append((event, str(Path.cwd() / os.fsdecode(arguments[0]))))
        elif event in _STARTING or (event in _CHANGING and not _is_bytecode(arguments[0])):
            heard.append((event, repr(arguments)[:200]))


def _is_bytecode(path: object) -> bool:
    """Whether that is Python's own, of a module of ours that is imported for the first time."""
    return isinstance(path, str) and path.startswith(str(ROOT)) and "__pycache__" in path


@contextlib.contextmanager
def _listening() -> Iterator[list[tuple[str, str]]]:
    """What the audit hook hears."""
    heard: list[tuple[str, str]] = []
    _EARS.append(heard)
    try:
        yield heard
    finally:
        _EARS.clear()


def _hook(folder: Path) -> bool:
    """Once per process: audit hooks cannot be taken back. What is imported and looked up once is done by then."""
    for runtime in ("openvino", "onnxruntime"):
        lair = Lair(folder / runtime)
        path = lair.write("model.onnx", zoo.chain(("Softmax", {"axis": 1})).SerializeToString())
        if outcome({"model": str(path), "runtime": runtime}):
            raise RuntimeError(f"a sound model cannot be loaded with {runtime}")
    outcome({"model": FACTORY})
    shutil.rmtree(folder)
    sys.addaudithook(_hear)
    return True


def one_attack(scene: Scene, _: Random, number: int) -> Figures:
    """The attack of that number."""
    words = ATTACKS[number].name
    lair = Lair(scene.folder / f"lair{number}")
    try:
        asked = ATTACKS[number].make(lair)
        scene.kept("audit hook", lambda: _hook(scene.folder / "warm"))
        with _listening() as heard, opened_in(lair.outside) as opened:
            told = _in_time(lambda: outcome(asked), words)
            if opened():
                raise Wrong(f"{words}: what lies outside was opened")
        _judge_attack(told, list(heard), lair, words)
    finally:
        shutil.rmtree(lair.root, ignore_errors=True)
    return {"ended": told.get("raised", "loaded")}


@contextlib.contextmanager
def opened_in(folder: Path) -> Iterator[Callable[[], bool]]:
    """Whether anybody, a library in C++ too, has opened a file in a folder since (inotify)."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_NONBLOCK)
    try:
        if descriptor < 0 or library.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN) < 0:
            raise Skipped(f"inotify: {os.strerror(ctypes.get_errno())}")
        yield lambda: bool(select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)


def _in_time(call: Callable[[], dict[str, Any]], words: str) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if not answers:
        raise Wrong(f"{words}: no answer within {PATIENCE_S:.0f} s")
    return answers[0]


def _judge_attack(told: dict[str, Any], heard: Sequence[tuple[str, str]], lair: Lair, words: str) -> None:
    if lair.canary.exists():
        raise Wrong(f"{words}: the canary file is there")
    if lair.must_fail and "raised" not in told:
        raise Wrong(f"{words}: it was loaded")
    _judge_error(told, words)
    inside = (str(lair.model), *_HARMLESS)
    strange = [f"{event} {what}" for event, what in heard if event != "open" or not what.startswith(inside)]
    if strange:
        raise Wrong(f"{words}: {'; '.join(strange[:4])}")


def _judge_error(told: dict[str, Any], words: str) -> None:
    """What was raised is ours, and says what, rule and remedy."""
    if "raised" not in told:
        return
    if not told["raised"]:
        raise Wrong(f"{words}: {told['what'][-700:]}")
    if missing := [part for part in ("what", "rule", "remedy") if not told[part]]:
        raise Wrong(f"{words}: no {' and no '.join(missing)}: {told['raised']}: {told['what'][:200]}")


class LoadingChild:
    """A process that loads what it is told to, started anew where it died."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process = folder, None
        self.n_started = 0

    def __enter__(self) -> LoadingChild:
        self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def load(self, asked: dict[str, Any], words: str) -> dict[str, Any]:
        """What became of it. Raises Wrong where the process died or did not answer."""
        new = self._process is None
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        timer = threading.Timer(STARTING_S if new else PATIENCE_S, process.kill)
        timer.start()
        line = process.stdout.readline()
        in_time = timer.is_alive()
        timer.cancel()
        if not line:
            code = process.wait()
            self.end()
            raise Wrong(
                f"{words}: " + (f"the process ended with {code}" if in_time else f"hung for {PATIENCE_S:.0f} s")
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        self.n_started += 1
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.loading_child"], cwd=ROOT, env=environment_of_jobs(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def end(self) -> None:
        """Kill it; the next model starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def one_malformed(scene: Scene, chance: Random, number: int) -> Figures:
    """A model broken in the way of that number."""
    sound: Sound = scene.kept("sound models", sound_models)
    child: LoadingChild = scene.kept("loading child", lambda: LoadingChild(scene.folder / "malformed"))
    name, files = malformed(sound, chance, number)
    folder = scene.folder / "malformed"
    for path in folder.iterdir():
        path.unlink()
    for own, content in files.items():
        (folder / own).write_bytes(content)
    told = child.load(_asked(folder / name, chance), f"{number}, {name}")
    _judge_error(told, name)
    if told["peak_mb"] > MOST_MB:
        child.end()
        raise Wrong(f"{name}: the process held {told['peak_mb']} MB")
    return {"ended": told.get("raised", "loaded"), "peak": told["peak_mb"], "started": child.n_started}


def _asked(path: Path, chance: Random) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return {"model": "wsi_seg.model.he_stain:HeStain", "weights": str(path)}
    runtime = chance.choice(("openvino", "onnxruntime")) if path.suffix == ".onnx" else "auto"
    return {"model": str(path), "runtime": runtime}


def told_of_ends(figures: Sequence[Figures]) -> str:
    """How the models ended, and what it took."""
    ended = Counter(figure["ended"] for figure in figures)
    words = ", ".join(f"{n} {kind}" for kind, n in ended.most_common())
    peak = max((figure.get("peak", 0) for figure in figures), default=0)
    return f"{words}; {peak} MB, {figures[-1]['started']} process" if peak else words


def n_attacks(_: Scene) -> int:
    """All there are."""
    return len(ATTACKS)


FAULTS = (
    Fault("malformed", "R24", "malformed models", DEFAULT_POINTS, one_malformed, told_of_ends),
    Fault("attacks", "R24", "hostile models", 0, one_attack, told_of_ends, count=n_attacks),
)
