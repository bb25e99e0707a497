"""A stand-in for an S3 service on this machine: what wsi-seg asks of one, no more, and faults on demand.

Honours If-None-Match and If-Match, as AWS does; answers reads, ranges, listings and bulk deletes; keeps everything in
memory. Signatures are not checked. Faults are switched by whoever holds the server: see `Faults`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

PAGE = 100
"""Keys in an answer to a listing: few, so that long listings come in pages."""
SECRET = "planted-secret-key"
ACCESS = "PLANTEDACCESSKEY"


@dataclass(slots=True)
class Stored:
    """An object."""

    content: bytes
    modified: float
    """Seconds since 1970, by the server's clock."""

    @property
    def etag(self) -> str:
        return f'"{md5(self.content).hexdigest()}"'


@dataclass(slots=True)
class Faults:
    """What goes wrong, until it is switched off."""

    unavailable: int = 0
    """So many of the next requests are answered with 503."""
    denied: tuple[str, ...] = ()
    """Methods that are answered with 403, with the access key in the answer, as AWS does."""
    hangs: float = 0.0
    """Seconds that every request waits."""
    lost_answers: int = 0
    """So many of the next writes are carried out, and the connection is cut instead of an answer."""
    ignores: str = ""
    """A header, If-Match or If-None-Match, that is not looked at."""
    skew_s: float = 0.0
    """How far the server's clock is ahead."""
    only: str = ""
    """Where given, faults befall only requests whose path contains it."""


@dataclass
class Held:
    """What the server holds, and which requests it had."""

    buckets: dict[str, dict[str, Stored]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def now(self) -> float:
        return time.time() + self.faults.skew_s


class Answers(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: ObjectServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_DELETE = do_POST = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        held, parts = self.server.held, urlsplit(self.path)
        path, asked = unquote(parts.path), parse_qs(parts.query, keep_blank_values=True)
        with held.lock:
            held.requests.append((self.command, path))
            fault = self._fault(path)
        if held.faults.hangs and held.faults.only in path:
            time.sleep(held.faults.hangs)
        if fault is not None:
            self._send(*fault)
            return
        name, _, key = path.lstrip("/").partition("/")
        with held.lock:
            bucket = held.buckets.get(name)
            answer = self._no("404 NoSuchBucket") if bucket is None else self._carry_out(bucket, key, asked, body)
            cut = self.command == "PUT" and held.faults.lost_answers > 0 and held.faults.only in path
            held.faults.lost_answers -= cut
        if cut:
            self.close_connection = True
            self.connection.close()
            return
        self._send(*answer)

    def _fault(self, path: str) -> tuple[int, Mapping[str, str], bytes] | None:
        faults = self.server.held.faults
        if faults.only not in path:
            return None
        if faults.unavailable > 0:
            faults.unavailable -= 1
            return self._no("503 SlowDown")
        if self.command in faults.denied:
            return self._no("403 InvalidAccessKeyId", f"<AWSAccessKeyId>{ACCESS}</AWSAccessKeyId>")
        return None

    def _carry_out(
        self, bucket: dict[str, Stored], key: str, asked: Mapping[str, list[str]], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self.command == "POST" and "delete" in asked:
            return self._delete_many(bucket, body)
        if self.command == "GET" and not key:
            return self._listing(bucket, {name: values[0] for name, values in asked.items()})
        if self.command == "PUT":
            return self._put(bucket, key, body)
        if self.command == "DELETE":
            bucket.pop(key, None)
            return 204, {}, b""
        if key not in bucket:
            return self._no("404 NoSuchKey")
        return self._get(bucket[key])

    def _put(self, bucket: dict[str, Stored], key: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        there = bucket.get(key)
        if self._condition("If-None-Match") == "*" and there is not None:
            return self._no("412 PreconditionFailed")
        if (wanted := self._condition("If-Match")) is not None:
            if there is None:
                return self._no("404 NoSuchKey")
            if wanted != there.etag:
                return self._no("412 PreconditionFailed")
        bucket[key] = Stored(body, self.server.held.now())
        return 200, {"ETag": bucket[key].etag}, b""

    def _condition(self, header: str) -> str | None:
        return None if self.server.held.faults.ignores == header else self.headers.get(header)

    def _get(self, stored: Stored) -> tuple[int, Mapping[str, str], bytes]:
        content, status, headers = stored.content, 200, {}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            size = len(content)
            start = int(first) if first else max(0, size - int(last))
            stop = min(int(last) + 1, size) if first and last else size
            content, status = content[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        headers |= {"ETag": stored.etag, "Last-Modified": formatdate(stored.modified, usegmt=True)}
        return status, headers, content

    def _listing(self, bucket: dict[str, Stored], asked: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = asked.get("continuation-token") or asked.get("start-after", "")
        page = min(PAGE, int(asked.get("max-keys", PAGE)))
        entries: dict[str, str] = {}
        for key in sorted(bucket):
            if not key.startswith(prefix):
                continue
            head, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if mark:
                whole = f"{prefix}{head}{mark}"
                entries[whole] = f"<CommonPrefixes><Prefix>{escape(whole)}</Prefix></CommonPrefixes>"
            else:
                entries[key] = _entry(key, bucket[key])
        names = [name for name in sorted(entries) if name > after]
        shown, more = names[:page], len(names) > page
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        xml = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"{''.join(entries[name] for name in shown)}</ListBucketResult>"
        )
        return 200, {"Content-Type": "application/xml"}, xml.encode()

    def _delete_many(self, bucket: dict[str, Stored], body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        keys = [entry.text or "" for entry in ElementTree.fromstring(body).iter() if entry.tag.endswith("Key")]
        for key in keys:
            bucket.pop(key, None)
        told = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return 200, {"Content-Type": "application/xml"}, f"<DeleteResult>{told}</DeleteResult>".encode()

    @staticmethod
    def _no(what: str, more: str = "") -> tuple[int, Mapping[str, str], bytes]:
        status, _, code = what.partition(" ")
        xml = f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>"
        return int(status), {"Content-Type": "application/xml"}, xml.encode()

    def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(key: str, stored: Stored) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(stored.modified))
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
        f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.content)}</Size></Contents>"
    )


class ObjectServer(ThreadingHTTPServer):
    """The server; listens on loopback, at a port that the system chooses."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.held = Held()

    def handle_error(self, *_: object) -> None:
        """A client that was killed, or a cut connection."""

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def contents(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Objects below a prefix, by what follows it."""
        with self.held.lock:
            held = self.held.buckets[bucket]
            return {key[len(prefix) :]: held[key].content for key in sorted(held) if key.startswith(prefix)}


@contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server with the bucket `slides`."""
    with ObjectServer() as server:
        server.held.buckets["slides"] = {}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Bucket:
    """A bucket of a test's own, for the stores of this process and of those that it starts."""

    def __init__(self, server: ObjectServer, name: str) -> None:
        self.server, self.name, self.held = server, name, server.held

    @property
    def faults(self) -> Faults:
        return self.held.faults

    def url(self, path: str = "") -> str:
        return f"s3://{self.name}/{path}".rstrip("/")

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Objects below a prefix, by what follows it and a slash."""
        return self.server.contents(self.name, f"{prefix}/" if prefix else "")

    @property
    def objects(self) -> dict[str, Stored]:
        """By key."""
        return self.held.buckets[self.name]

    def requests(self, method: str = "") -> list[str]:
        """Paths that were asked for in this bucket."""
        return [path for verb, path in self.held.requests if path.startswith(f"/{self.name}") and method in verb]


@pytest.fixture(scope="session")
def the_object_server() -> Iterator[ObjectServer]:
    """One for all tests."""
    with object_server() as server:
        yield server


@pytest.fixture
def bucket(the_object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, and an environment in which URLs lead to it; faults are off."""
    from wsi_seg.output.store.opening import forget_stores

    held = the_object_server.held
    name = f"bucket{len(held.buckets)}"
    held.buckets[name], held.faults = {}, Faults()
    for variable, value in the_object_server.environment.items():
        monkeypatch.setenv(variable, value)
    forget_stores()
    yield Bucket(the_object_server, name)
    held.faults, held.buckets[name] = Faults(), {}
    forget_stores()
