"""Files from the web: whole, and of the hash that is expected."""

import re
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit
from uuid import uuid4

from segtrans.errors import DataError, UsageError
from segtrans.io import file_hash

MOST = 2**35
"""Bytes of a download, unless more are asked for."""
TIMEOUT = 60
_CHUNK = 2**20


def fetch(
    url: str,
    out: Path,
    *,
    sha256: str | None = None,
    most: int = MOST,
    on_bytes: Callable[[int, int | None], None] = lambda done, total: None,
) -> str:
    """Download ``url`` to the new file ``out``, which gets its name when all of it is there; returns its SHA-256.

    What a broken download left in ``OUT.part`` is continued if ``sha256`` is given, which tells whether the pieces are
    of one file. A file that is there and has that hash is left as it is.

    Args:
        url: http or https.
        out: folders on its way are made.
        sha256: the expected hash, in hexadecimal.
        most: bytes; larger files are refused.
        on_bytes: called with the number of bytes that are there, and that of all where the server tells it.

    Raises:
        UsageError: another kind of address or hash, or ``out`` is something else already.
        DataError: the server cannot be reached or refuses, sends a web page, leads to another kind of address or from
            https to http, sends too much or too little, or the hash is another.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower()):
        raise UsageError(f"sha256 is {sha256!r}; allowed are 64 hexadecimal digits")
    try:
        shown = _shown(url)
    except ValueError:
        shown = ""
    if not shown.startswith(("http://", "https://")):
        raise UsageError(f"address is {url!r}; allowed are http:// and https://")
    if out.exists():
        if sha256 is not None and out.is_file() and file_hash(out) == sha256:
            return sha256
        raise UsageError(f"{out} exists already{'' if sha256 is None else ' and has another hash'}; give a new name")
    # Without a hash nobody could tell another download's pieces from ours.
    part = out.with_name(f"{out.name}.part" if sha256 else f".{out.name}.{uuid4().hex}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _download(url, part, most, on_bytes)
        found = file_hash(part)
        if sha256 not in (None, found):
            part.unlink()
            raise DataError(f"{shown}: its SHA-256 is {found} instead of {sha256}; what came was deleted")
        part.replace(out)
    finally:
        if sha256 is None:
            part.unlink(missing_ok=True)
    return found


class _Redirects(request.HTTPRedirectHandler):
    def redirect_request(self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in {"https", urlsplit(req.full_url).scheme}:
            fp.close()
            raise DataError(f"{_shown(req.full_url)}: leads to {_shown(newurl)}, refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# None that opens files.
_HANDLERS = (
    *(request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler),
    *(request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler, _Redirects),
)


def _shown(url: str) -> str:
    """An address without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _download(url: str, part: Path, most: int, on_bytes: Callable[[int, int | None], None]) -> None:
    have, shown = part.stat().st_size if part.is_file() else 0, _shown(url)

    def network(do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except HTTPError as error:
            error.close()
            if error.code == 416 and have:
                return None  # nothing is left to be sent
            raise DataError(f"{shown}: the server says {error.code} ({' '.join(error.reason.split())})") from None
        except (OSError, HTTPException, ValueError) as error:
            raise DataError(f"{shown}: not to be had ({getattr(error, 'reason', error)!s})") from None

    opener = request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    headers = {"User-Agent": "segtrans", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    response = network(partial(opener.open, request.Request(url, headers=headers), timeout=TIMEOUT))
    if response is None:
        return
    with response:
        have = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        chunk = network(response.read, _CHUNK)
        if "html" in response.headers.get_content_type() or re.match(
            rb"(\xef\xbb\xbf)?\s*<(!doctype )?html", chunk, re.I
        ):
            raise DataError(f"{shown}: the server sends a web page, not a file")
        with part.open("ab" if have else "wb") as file:
            while chunk and max(have + len(chunk), total or 0) <= most:
                file.write(chunk)
                on_bytes(have := have + len(chunk), total)
                chunk = network(response.read, _CHUNK)
    if chunk:
        part.unlink()
        raise DataError(f"{shown}: more than {most} bytes, refused")
    if total is not None and have < total:
        raise DataError(f"{shown}: the connection ended after {have} of {total} bytes")
