"""Downloads from a server in a thread: what is continued, and what is refused without a file left."""

import hashlib
import io
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.request import Request

import pytest

from segtrans.cli import main
from segtrans.errors import DataError, UsageError
from segtrans.fetch import _Redirects, fetch

BODY = bytes(range(256)) * 20_000  # several of the pieces in which it is read
HASH = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers by path; ``asked`` tells what for, and from which byte on."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.files: dict[str, bytes] = {"/file": BODY}

    def handle_error(self, *_: object) -> None:
        """Nothing: a client that hangs up is what these tests are about."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path, wanted = self.path.partition("?")[0], self.headers["Range"]
        self.server.asked.append((path, wanted))
        if path in self.server.files:
            body = self.server.files[path]
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            if wanted is None:
                self.answer(200, body)
            elif first >= len(body):
                self.answer(416, Content_Range=f"bytes */{len(body)}")
            else:
                self.answer(206, body[first:], Content_Range=f"bytes {first}-{len(body) - 1}/{len(body)}")
        elif path == "/cut":
            self.answer(200, BODY[:3_000_001], Content_Length=str(len(BODY)))
        elif path == "/endless":
            self.answer(200, BODY, Content_Length="")
        elif path == "/whole":  # knows no ranges
            self.answer(200, BODY)
        elif path == "/typed":
            self.answer(200, BODY, Content_Type="text/html; charset=utf-8")
        elif path == "/login":
            self.answer(200, b"\n\n<!DOCTYPE html><title>Log in</title>", Content_Type="application/octet-stream")
        elif path.startswith("/to/"):
            self.answer(302, Location=self.path.removeprefix("/to/"))
        else:
            self.answer(404)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_comes_whole_and_tells_its_hash(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert fetch(f"{server.address}/file", tmp_path / "new" / "x", on_bytes=lambda *told: seen.append(told)) == HASH
    assert (tmp_path / "new" / "x").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert seen == sorted(seen)
    assert len(seen) == 5


@pytest.mark.parametrize("path", ["/file", "/whole"])
def test_a_cut_download_goes_on_where_it_ended(server: Server, tmp_path: Path, path: str) -> None:
    out = tmp_path / "x"
    with pytest.raises(DataError, match="the connection ended after 3000001 of 5120000 bytes"):
        fetch(f"{server.address}/cut", out, sha256=HASH)
    assert not out.exists()
    assert (tmp_path / "x.part").read_bytes() == BODY[:3_000_001]
    assert fetch(f"{server.address}{path}", out, sha256=HASH.upper()) == HASH
    assert server.asked == [("/cut", None), (path, "bytes=3000001-")]
    assert out.read_bytes() == BODY
    assert not (tmp_path / "x.part").exists()


def test_what_came_whole_but_has_no_name_yet_gets_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(BODY)
    assert fetch(f"{server.address}/file", tmp_path / "x", sha256=HASH) == HASH
    assert (tmp_path / "x").read_bytes() == BODY


def test_pieces_are_not_put_together_without_a_hash_to_tell(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"of another file")
    assert fetch(f"{server.address}/file", tmp_path / "x") == HASH
    assert server.asked == [("/file", None)]


def test_two_downloads_to_one_name_do_not_mix(server: Server, tmp_path: Path) -> None:
    """The second starts, and ends, in the midst of the first."""
    server.files["/other"] = BODY[::-1]
    out = tmp_path / "x"

    def meanwhile(done: int, _: int | None) -> None:
        if done < len(BODY) and not out.exists():
            fetch(f"{server.address}/other", out)
            assert out.read_bytes() == BODY[::-1]

    assert fetch(f"{server.address}/file", out, on_bytes=meanwhile) == HASH
    assert out.read_bytes() == BODY
    with pytest.raises(DataError, match="the connection ended"):
        fetch(f"{server.address}/cut", tmp_path / "y")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_another_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    wrong = "0" * 64
    for _ in range(2):
        (tmp_path / "x.part").write_bytes(b"of another file")
        with pytest.raises(DataError, match=rf"/file: its SHA-256 is [0-9a-f]{{64}} instead of {wrong}"):
            fetch(f"{server.address}/file", tmp_path / "x", sha256=wrong)
        assert list(tmp_path.iterdir()) == []
    assert fetch(f"{server.address}/file", tmp_path / "x", sha256=HASH) == HASH


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", r"/none: the server says 404 \(Not Found\)"),
        ("/typed", r"/typed: the server sends a web page, not a file"),
        ("/login", r"/login: the server sends a web page, not a file"),
        ("/to/file:///etc/hostname", "the server says 302 .*'file:///etc/hostname' is not allowed"),
        ("/to/ftp://127.0.0.1/x", r": leads to ftp://127\.0\.0\.1/x, refused"),
        ("/to//to//none", "the server says 404"),
        ("/to/to/round", "would lead to an infinite loop"),
    ],
)
@pytest.mark.parametrize("sha256", [None, HASH])
def test_refused_answers_leave_nothing(
    server: Server, tmp_path: Path, path: str, message: str, sha256: str | None
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        fetch(server.address + path, tmp_path / "x", sha256=sha256)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_redirects_to_the_web_are_followed(server: Server, tmp_path: Path) -> None:
    assert fetch(f"{server.address}/to//file", tmp_path / "x", sha256=HASH) == HASH


def test_redirects_do_not_give_up_encryption() -> None:
    with pytest.raises(DataError, match="https://a/x: leads to http://b/y, refused"):
        _Redirects().redirect_request(Request("https://a/x"), io.BytesIO(), 302, "Found", {}, "http://b/y")
    followed = _Redirects().redirect_request(Request("http://a/x"), io.BytesIO(), 302, "Found", {}, "https://b/y")
    assert followed.full_url == "https://b/y"


@pytest.mark.parametrize("path", ["/file", "/endless"])
def test_a_file_may_have_so_many_bytes(server: Server, tmp_path: Path, path: str) -> None:
    assert fetch(server.address + path, tmp_path / "x", most=len(BODY)) == HASH
    with pytest.raises(DataError, match=rf"{path}: more than 5119999 bytes, refused"):
        fetch(server.address + path, tmp_path / "y", most=len(BODY) - 1)
    assert [found.name for found in tmp_path.iterdir()] == ["x"]


def test_secrets_in_addresses_are_not_repeated(server: Server, tmp_path: Path) -> None:
    url = server.address.replace("//", "//me:secret@") + "/none?token=secret"
    with pytest.raises(DataError, match="/none: ") as caught:
        fetch(url, tmp_path / "x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "/etc/hostname", "x"])
def test_only_web_addresses_are_opened(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"address is {url!r}; allowed are http:// and https://")):
        fetch(url, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://", "http://127.0.0.1:1/a b", "http://[x/y"])
def test_servers_that_are_not_there(tmp_path: Path, url: str) -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        fetch(url, tmp_path / "x")
    assert url.partition("//")[0] in str(caught.value)


def test_a_file_that_is_there_is_never_replaced(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "x"
    out.write_bytes(BODY)
    assert fetch("http://127.0.0.1:1/x", out, sha256=HASH) == HASH, "nothing is asked for"
    with pytest.raises(UsageError, match="x exists already; give a new name"):
        fetch(f"{server.address}/file", out)
    out.write_bytes(b"mine")
    for taken in (out, tmp_path):
        with pytest.raises(UsageError, match="exists already and has another hash"):
            fetch(f"{server.address}/file", taken, sha256=HASH)
    assert out.read_bytes() == b"mine"
    with pytest.raises(UsageError, match="sha256 is 'abc'; allowed are 64 hexadecimal digits"):
        fetch(f"{server.address}/file", tmp_path / "y", sha256="abc")


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    def command(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["segtrans", "fetch", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return (done.value.code, *capsys.readouterr())

    return command


def test_the_command_fetches_checks_and_unpacks(
    server: Server, tmp_path: Path, command: Callable[..., tuple[object, str, str]]
) -> None:
    (tmp_path / "photo").write_bytes(b"pixels")
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        archive.add(tmp_path / "photo", "images/photo")
    server.files["/data.tgz"] = (tmp_path / "made.tgz").read_bytes()
    url, out = f"{server.address}/data.tgz", tmp_path / "data.tgz"
    code, said, noted = command(url, out, "--unpack", tmp_path / "data")
    found = hashlib.sha256(server.files["/data.tgz"]).hexdigest()
    assert (code, said) == (0, "")
    assert noted.startswith("not checked: ")
    assert f"--sha256 {found}" in noted
    assert (tmp_path / "data" / "images" / "photo").read_bytes() == b"pixels"
    assert command(url, out, "--sha256", found, "--unpack", tmp_path / "more") == (0, "", "")
    assert (tmp_path / "more" / "images" / "photo").is_file()
    before = len(server.asked)
    code, said, noted = command(url, tmp_path / "again.tgz", "--unpack", tmp_path / "more")
    assert (code, noted) == (2, f"error: {tmp_path / 'more'} exists already; give a new folder\n")
    for most in ("nan", "inf", "-1"):
        code, said, noted = command(url, tmp_path / "again.tgz", f"--most={most}")
        assert (code, noted) == (2, f"error: --most is {float(most)!r}; allowed are numbers from 0\n")
    assert len(server.asked) == before, "nothing is downloaded for it"
    code, said, noted = command(url, tmp_path / "small", "--most", "1e-9")
    assert (code, said, noted) == (4, "", f"error: {url}: more than 1 bytes, refused\n")
