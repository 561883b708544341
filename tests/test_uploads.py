"""gateway/uploads.py and gateway/folders.py: files that may become versions."""

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Mapping

import pytest
from starlette.requests import ClientDisconnect

from gateway.failures import BadRequest, Forbidden, NoRoom
from gateway.folders import find_allowed
from gateway.multipart import Form
from gateway.uploads import MAX_FIELD_BYTES, OLD_S, SPARE_BYTES, Upload, Uploads, safe_name
from hotpool.errors import Conflict
from tests.test_multipart import TYPE, named

FILE = named("file", b"weights", '; filename="resnet18.pth"')
END = b"--xyz--\r\n"


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for one in data:
        yield one


def nothing(fields: Mapping[str, str]) -> None:
    """What comes before a file is checked elsewhere."""


def receive(folder, *data: bytes) -> Upload:
    return asyncio.run(Uploads(folder).receive(Form(TYPE), pieces(*data), check=nothing))


def test_a_file_is_kept_under_a_name_nobody_can_guess_for_its_owner_alone(tmp_path):
    upload = receive(tmp_path, named("name", b"v2"), FILE[:60], FILE[60:], named("labels", "ä\nb".encode()), END)
    assert upload.path.read_bytes() == b"weights"
    assert upload.path.name == "resnet18.pth"
    assert upload.fields == {"name": "v2", "labels": "ä\nb"}
    assert stat.S_IMODE(upload.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(upload.path.parent.stat().st_mode) == 0o700
    assert len(upload.path.parent.name) == 16
    asyncio.run(upload.remove())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        FILE, FILE[:50], END, named("name", b"v2") + END, FILE + FILE + END, named("file", b"1") + END,
        named("file", b"1", '; filename="run.sh"') + END, FILE + named("source", b"/etc/passwd") + END,
        FILE + named("name", b"1") + named("name", b"2") + END, FILE + named("name", b"\xff") + END,
        FILE + named("labels", bytes(MAX_FIELD_BYTES + 1)) + END,
    ],
)  # fmt: skip
def test_of_an_upload_that_is_refused_nothing_is_left(tmp_path, body):
    with pytest.raises(BadRequest):
        receive(tmp_path, body)
    assert list(tmp_path.iterdir()) == []


def test_of_an_upload_whose_client_hangs_up_nothing_is_left(tmp_path):
    async def hang_up() -> AsyncIterator[bytes]:
        yield FILE[:-5]
        raise ClientDisconnect

    with pytest.raises(ClientDisconnect):
        asyncio.run(Uploads(tmp_path).receive(Form(TYPE), hang_up(), check=nothing))
    assert list(tmp_path.iterdir()) == []


def test_what_came_before_the_file_is_checked_before_more_of_it_is_read(tmp_path):
    seen = []

    def refuse(fields) -> None:
        seen.append(dict(fields))
        raise Conflict("the name is taken")

    async def endless() -> AsyncIterator[bytes]:
        yield named("name", b"v1") + FILE[:-5]
        raise AssertionError("more was read")

    with pytest.raises(Conflict, match="taken"):
        asyncio.run(Uploads(tmp_path).receive(Form(TYPE), endless(), refuse))
    assert seen == [{"name": "v1"}]
    assert list(tmp_path.iterdir()) == []


def test_each_upload_first_makes_room_of_what_nobody_needs_any_more(tmp_path):
    old = receive(tmp_path, FILE, END).path.parent
    for path in (old / "resnet18.pth", old):
        os.utime(path, (0, 0))
    new = receive(tmp_path, FILE, END).path.parent
    assert list(tmp_path.iterdir()) == [new]


def test_while_the_disk_is_slow_others_are_served(tmp_path, monkeypatch):
    """No work on the disk is done in the event loop's thread."""
    in_loop: list[str] = []
    loop_thread = threading.get_ident()

    def noting(name, work):
        def note(*arguments, **options):
            if threading.get_ident() == loop_thread:
                in_loop.append(name)
            return work(*arguments, **options)

        return note

    for owner, name in ((shutil, "rmtree"), (os, "open"), (os, "mkdir"), (shutil, "disk_usage"), (os, "scandir")):
        monkeypatch.setattr(owner, name, noting(name, getattr(owner, name)))
    asyncio.run(Uploads(tmp_path).receive(Form(TYPE), pieces(FILE, END), check=nothing)).path.read_bytes()
    with pytest.raises(BadRequest):
        receive(tmp_path, FILE[:50])
    assert in_loop == []


def test_uploads_come_one_at_a_time(tmp_path):
    uploads = Uploads(tmp_path)

    async def two() -> Upload:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield FILE
            begun.set()
            await go_on.wait()
            yield END

        first = asyncio.create_task(uploads.receive(Form(TYPE), slow(), check=nothing))
        await begun.wait()
        with pytest.raises(Conflict, match="one at a time"):
            await uploads.receive(Form(TYPE), pieces(FILE, END), check=nothing)
        go_on.set()
        await first
        return await uploads.receive(Form(TYPE), pieces(FILE, END), check=nothing)

    assert asyncio.run(two()).path.read_bytes() == b"weights"


def test_a_disk_that_is_nearly_full_takes_no_upload(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": SPARE_BYTES - 1})
    monkeypatch.setattr("gateway.uploads.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(NoRoom, match="nearly full"):
        receive(tmp_path, FILE, END)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_told_as_no_room(tmp_path):
    (tmp_path / "uploads").write_text("not a folder")
    with pytest.raises(NoRoom, match="can't be stored"):
        receive(tmp_path / "uploads", FILE, END)


def test_at_the_start_old_uploads_are_removed_and_others_stay(tmp_path):
    old, young = receive(tmp_path, FILE, END).path, receive(tmp_path, FILE, END).path
    long_ago = young.stat().st_mtime - OLD_S - 1
    os.utime(old, (long_ago, long_ago))
    os.utime(old.parent, (long_ago, long_ago))
    Uploads(tmp_path).sweep()
    assert not old.parent.exists()
    assert young.exists()
    Uploads(tmp_path / "nowhere").sweep()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("resnet18.pth", "resnet18.pth"), ("../../etc/x.pt", "x.pt"), ("C:\\w\\a b.SafeTensors", "a_b.safetensors"),
        ("/x/.pth.pth", "pth.pth"), ("é\r\n\x00.pt", "____.pt"), ("-rf.pt", "rf.pt"), ("..pt", "weights.pt"),
        ("x" * 200 + ".pt", "x" * 64 + ".pt"),
    ],
)  # fmt: skip
def test_a_clients_name_becomes_one_without_a_path(given, kept):
    assert safe_name(given) == kept


@pytest.mark.parametrize("given", ["", ".", "x", "x.sh", ".pth", "x.pth/.."])
def test_a_name_that_is_no_weights_file_is_refused(given):
    with pytest.raises(BadRequest, match="ends in"):
        safe_name(given)


# ---- files on the server


@pytest.fixture
def site(tmp_path):
    """A folder that is allowed, and beside it one that is not."""
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed, allowed / "sub", other, tmp_path / "allowed-too"):
        folder.mkdir()
        (folder / "w.pth").write_text("weights")
    (allowed / "link.pth").symlink_to(allowed / "sub" / "w.pth")
    (allowed / "out.pth").symlink_to(other / "w.pth")
    (allowed / "away").symlink_to(other)
    (allowed / "loop.pth").symlink_to(allowed / "loop.pth")
    (tmp_path / "alias").symlink_to(allowed)
    return tmp_path


@pytest.mark.parametrize("path", ["allowed/w.pth", "allowed/sub/w.pth", "allowed/sub/../w.pth", "alias/w.pth"])
def test_a_file_in_an_allowed_folder_is_found(site, path):
    assert find_allowed(f"{site}/{path}", [f"{site}/allowed"]).read_text() == "weights"
    assert find_allowed(f"{site}/{path}", ["/nowhere", f"{site}/alias"]).read_text() == "weights"


def test_a_link_inside_is_followed_to_where_the_file_is(site):
    assert find_allowed(f"{site}/allowed/link.pth", [f"{site}/allowed"]) == site / "allowed" / "sub" / "w.pth"


@pytest.mark.parametrize(
    "path",
    [
        "other/w.pth", "other/nothing.pth", "allowed/../other/w.pth", "allowed/out.pth", "allowed/away/w.pth",
        "allowed-too/w.pth", "allowed/loop.pth", "allowed/\x00.pth", "allowed/" + "x" * 5000, "",
    ],
)  # fmt: skip
def test_of_a_file_elsewhere_nothing_is_told(site, path):
    with pytest.raises(Forbidden, match="none of the folders that are allowed"):
        find_allowed(f"{site}/{path}", [f"{site}/allowed"])


def test_a_path_is_not_taken_from_the_folder_that_the_gateway_runs_in(site, monkeypatch):
    monkeypatch.chdir(site / "allowed")
    with pytest.raises(Forbidden):
        find_allowed("w.pth", [f"{site}/allowed"])


@pytest.mark.parametrize("path", ["allowed/nothing.pth", "allowed/sub", "allowed"])
def test_what_is_no_file_in_an_allowed_folder_is_told_so(site, path):
    with pytest.raises(BadRequest, match="no such file"):
        find_allowed(f"{site}/{path}", [f"{site}/allowed"])


def test_without_folders_the_way_to_allow_one_is_told(site):
    with pytest.raises(Forbidden, match=r"set model_folders = \["):
        find_allowed(f"{site}/allowed/w.pth", [])
