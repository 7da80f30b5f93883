"""Files are written completely or not at all."""

import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from esv_jax import files
from esv_jax.files import (
    atomic_path,
    expect_writable,
    locked_folder,
    make_folder,
    remove_leftovers,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.txt"


def write(path, text="new", **options):
    with atomic_path(path, **options) as temporary:
        temporary.write_text(text)


def test_the_file_appears_complete_and_alone(path):
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.read_bytes() == b""
        assert temporary.name.startswith(".") and temporary.suffix == path.suffix
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_file_stays_until_the_new_one_is_complete(path):
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with atomic_path(path) as temporary, temporary.open("w") as file:
        file.write("newer")
    assert path.read_text() == "newer"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_the_existing_file_unchanged(path, old, error):
    if old is not None:
        path.write_text(old)
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [entry.read_text() for entry in path.parent.iterdir()] == ([] if old is None else [old])


def test_the_temporary_file_may_be_replaced_but_not_removed(path):
    with atomic_path(path) as temporary:  # as a library that replaces files itself would do
        other = temporary.with_name("other")
        other.write_text("new")
        os.replace(other, temporary)
    assert path.read_text() == "new"
    vanished = pytest.raises(FileNotFoundError, match="path: expected a path that can be written")
    with vanished, atomic_path(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "new"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(path, mask):
    before = os.umask(mask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_content_is_synced_before_the_rename(path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]
        )
    write(path)
    assert calls == ["fsync", "replace"]


def test_a_link_stays_and_its_file_is_replaced(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "real.txt")
    for text in ("made", "replaced"):
        write(path, text)
        assert path.is_symlink() and (tmp_path / "elsewhere" / "real.txt").read_text() == text
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["x" * 251 + ".txt", "é" * 127, ".hidden", "a b.nc", "no_suffix"])
def test_unusual_file_names(tmp_path, name):
    write(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_relative_paths(path, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(path.parent)
    with atomic_path(path.name) as temporary:
        temporary.write_text("here")
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert path.read_text() == "here"


def test_writers_at_the_same_time_leave_one_whole_file(path, monkeypatch):
    texts = [letter * 50_000 for letter in "abcdefgh"]
    threads = [threading.Thread(target=write, args=(path, text)) for text in texts]
    failures = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert path.read_text() in texts
    assert list(path.parent.iterdir()) == [path]


# A folder of ours


def ended_process():
    """The number of a process that ran and has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_names_of_temporary_files_hold_host_and_process(path, tmp_path):
    folder = tmp_path / "ours"
    with atomic_path(path, within=folder) as temporary:
        assert temporary.parent == folder and temporary.suffix == ".txt"
        assert temporary.name.startswith(f"{files._host()}.{os.getpid()}.")
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert not list(folder.iterdir())


def test_only_leftovers_of_ended_processes_are_removed(tmp_path):
    here, ended, day = files._host(), ended_process(), 86400
    old, recent = time.time() - 2 * day, time.time() - day / 2
    stay = [
        *(".gitlab-ci.yml", ".env.local", "a.b.c", "notes.txt", f"{here}.x.0123abcd.nc"),
        f"{here}.{os.getppid()}.0123abcd.nc",  # runs
        f"{here}.{ended}.0123ABCD.nc",  # no name of ours
        "elsewhere.7.0123abcd.nc",
    ]
    go = [
        f"{here}.{ended}.0123abcd.nc",
        f"{here}.{ended}.0123abcd",
        f"{here}.{os.getpid()}.1234abcd.nc",
    ]
    go += [f"{here}.{10**30}.0123abcd.json", "elsewhere.7.4567abcd.nc"]
    for name in stay + go:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    os.utime(tmp_path / "elsewhere.7.0123abcd.nc", (recent, recent))
    (tmp_path / f"{here}.{ended}.ffffabcd.nc").mkdir()
    (tmp_path / f"{here}.{ended}.eeeeabcd.nc").symlink_to(tmp_path / "notes.txt")
    remove_leftovers(tmp_path)
    kept = {entry.name for entry in tmp_path.iterdir()}
    assert kept == {*stay, f"{here}.{ended}.ffffabcd.nc", f"{here}.{ended}.eeeeabcd.nc"}
    remove_leftovers(tmp_path / "absent")


def test_one_process_at_a_time_locks_a_folder(tmp_path):
    folder = tmp_path / "ours"
    for _ in range(2):
        with locked_folder(folder, "out", "a free folder"):
            text = rf"^out: expected a free folder, got process {os.getpid()} on .*, which is wr"
            refused = pytest.raises(FileExistsError, match=text)
            with refused, locked_folder(folder, "out", "a free folder"):
                raise AssertionError
        assert not folder.exists()
    (folder / "deep").mkdir(parents=True)
    with locked_folder(folder, "out", "a free folder"):
        pass
    assert [entry.name for entry in folder.iterdir()] == ["deep"]


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from esv_jax.files import locked_folder\n"
        "with locked_folder(Path(sys.argv[1]), 'out', 'free'): print('held', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "ours")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        refused = pytest.raises(FileExistsError, match=f"got process {process.pid} on ")
        with refused, locked_folder(tmp_path / "ours", "out", "free"):
            raise AssertionError
        process.kill()
        process.wait()
    with locked_folder(tmp_path / "ours", "out", "free"):
        assert (tmp_path / "ours" / "lock").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "no locks"), ImportError("no fcntl")])
def test_a_disk_without_locks_has_one_writer(tmp_path, monkeypatch, error):
    def none(*_):
        raise error

    monkeypatch.setattr(fcntl, "flock", none)
    folder, lock = tmp_path / "ours", tmp_path / "ours" / "lock"

    def enter(holder):
        folder.mkdir(exist_ok=True)
        lock.write_text(holder)
        with locked_folder(folder, "out", "free"):
            assert json.loads(lock.read_text()) == {"host": files._host(), "process": os.getpid()}
        assert not folder.exists()

    here = {"host": files._host()}
    enter(json.dumps(here | {"process": ended_process()}))  # stale
    enter(json.dumps(here | {"process": os.getpid()}))  # a former process of this number
    runs, elsewhere = here | {"process": os.getppid()}, {"host": "elsewhere", "process": 7}
    for holder, got in (
        (json.dumps(runs), f"process {os.getppid()} on {files._host()}"),
        (json.dumps(elsewhere), "process 7 on elsewhere"),
        ("", "another process"),
        ("[]", "another process"),
    ):
        way_out = rf"if it has ended, remove {lock}\.$"
        with pytest.raises(FileExistsError, match=rf"got {got}, which is writing.*{way_out}"):
            enter(holder)
        assert lock.read_text() == holder


# Refusals


def test_an_existing_file_is_kept_unless_it_may_be_replaced(path):
    write(path, "first", overwrite=False)
    text = r"path: expected a new file, got the existing '.*file\.txt'\. Pass overwrite=True"
    with pytest.raises(FileExistsError, match=text):
        write(path, overwrite=False)
    assert path.read_text() == "first"


def test_a_file_created_meanwhile_is_kept(path):
    taken = pytest.raises(FileExistsError, match="path: expected a new file")
    with taken, atomic_path(path, overwrite=False) as temporary:
        temporary.write_text("mine")
        path.write_text("of another")
    assert path.read_text() == "of another"
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    text = r"path: expected an existing folder, got no '.*gone'\. Make it first\."
    with pytest.raises(FileNotFoundError, match=text):
        write(tmp_path / "gone" / "file.txt")
    assert not list(tmp_path.iterdir())


def test_folders_and_devices_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a file, got the folder '.*Add a file"):
        write(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", os.devnull):
        with pytest.raises(ValueError, match="path: expected a file, got the device or pipe"):
            write(name)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_missing_permission_is_an_error_before_the_work_begins(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    text = r"path: expected a path that .*, got '.*file\.txt' \(.*denied\)\. .*another path"
    with pytest.raises(PermissionError, match=text), atomic_path(path):
        pytest.fail("the block was entered")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="path: expected a path that can be written"):
            write(tmp_path / "file.txt")
    finally:
        tmp_path.chmod(0o700)


@contextmanager
def no_file_longer_than(n_bytes):
    """As on a disk that is full: writing further raises an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_that_leaves_the_existing_file(path):
    path.write_text("old")
    text = r"path: expected a path that can be written, got '.*file\.txt' \(.*File too large\)"
    with pytest.raises(OSError, match=text), no_file_longer_than(10_000):
        write(path, "x" * 100_000)
    assert [entry.read_text() for entry in path.parent.iterdir()] == ["old"]


def test_errors_about_other_files_are_not_changed(path):
    with pytest.raises(FileNotFoundError) as caught, atomic_path(path):
        (path.parent / "input.mp4").read_bytes()
    assert caught.value.filename == str(path.parent / "input.mp4")
    assert not list(path.parent.iterdir())


# Before long work


def test_expect_writable_leaves_no_files(path):
    expect_writable(path)
    assert not list(path.parent.iterdir())
    path.write_text("old")
    expect_writable(path)
    assert [entry.read_text() for entry in path.parent.iterdir()] == ["old"]
    with pytest.raises(FileNotFoundError, match="path: expected an existing folder"):
        expect_writable(path.parent / "gone" / "file.txt")
    with pytest.raises(ValueError, match="path: expected a file, got the folder"):
        expect_writable(path.parent)


def test_make_folder(path):
    for _ in range(2):
        make_folder(path.parent / "a" / "b")
    assert (path.parent / "a" / "b").is_dir()
    path.write_text("a file")
    for place in (path, path / "below"):
        with pytest.raises(OSError, match=r"file\.txt.*: expected a folder that can be made, got"):
            make_folder(place)
