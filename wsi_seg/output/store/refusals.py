"""What an object store says when it refuses, in words of ours.

Owns the translation. A service repeats the access key in its answers, so of these only the status and the code are
passed on. The original error is dropped: it must not even be the context of ours, which Dask pickles with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from obstore.exceptions import BaseError

from wsi_seg.errors import WriteError

T = TypeVar("T")
_RESUME = "then run the same command again: finished parts are kept"
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]+)")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
_OF_THE_MACHINE = ("169.254.169.254", "metadata.google.internal")
"""Where a cloud's own machines get credentials: asked only when the environment holds none."""


def answered(doing: str, place: str, request: Callable[[], T]) -> T:
    """What a request answers; `doing` is a verb, `place` the object's whole name.

    Raises WriteError; FileNotFoundError for what is not there, unless its bucket is not.
    """
    try:
        return request()
    except (FileNotFoundError, BaseError) as error:
        refusal = in_words(doing, place, error)
    raise refusal  # outside the handler, where it would keep the original as its context


def in_words(doing: str, place: str, error: Exception) -> WriteError | FileNotFoundError:
    """The error of ours for one of obstore's; to be raised where that is not being handled."""
    said = str(error)
    if isinstance(error, FileNotFoundError) and not _names_no_bucket(said):
        return FileNotFoundError(place)
    return _refusal(doing, place, said)


def _refusal(doing: str, place: str, said: str) -> WriteError:
    """`said` is read, never passed on."""
    what, rule, remedy = _reason(said)
    return WriteError(f"cannot {doing} {place}: {what}", rule=rule, remedy=remedy)


def _reason(said: str) -> tuple[str, str, str]:
    """What failed, the rule, the remedy."""
    status = _first(_STATUS, said)
    answer = f"{status} ({code})" if (code := _first(_CODE, said)) else status
    if _names_no_bucket(said):
        rule = "results go into a bucket that exists"
        return "the bucket is not there", rule, "make it, or check its name and the endpoint"
    if any(host in said for host in _OF_THE_MACHINE):
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the service calls them"
        return "there are no credentials", "they come from the environment", remedy
    if status[:3] in ("401", "403"):
        rule = "credentials must allow to read, write, list and delete"
        return f"access is denied: {answer}", rule, f"check them and the rights of the bucket, {_RESUME}"
    if "redirect" in said and "region" in said:
        return "the bucket lies in another region", "AWS_REGION names the bucket's", "set it"
    rule = "a request is tried again for half a minute, and no longer"
    remedy = f"check the network, the endpoint and the service, {_RESUME}"
    return f"the store answered {answer}" if answer else "no answer", rule, remedy


def _names_no_bucket(said: str) -> bool:
    return any(word in said for word in _NO_BUCKET)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1).strip() if found else ""
