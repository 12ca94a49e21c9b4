"""Files and folders are there as a whole, or as they were."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from eager.atomic import is_replaced, made_once, replacing, replacing_bytes


def names(folder: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("opened", "data"), [(replacing, "é\n"), (replacing_bytes, b"\xc3\xa9\n")], ids=["text", "bytes"]
)
def test_a_file_is_replaced_at_the_end(tmp_path: Path, opened, data) -> None:
    """Readers see the old one until then; nothing is left beside it."""
    path = tmp_path / "file"
    path.write_text("old")
    with opened(path) as file:
        file.write(data)
        assert path.read_text() == "old"
    assert path.read_bytes() == b"\xc3\xa9\n"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("opened", "data"), [(replacing, "new"), (replacing_bytes, b"new")], ids=["text", "bytes"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, opened, data) -> None:
    """And nothing beside it."""
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with opened(path) as file:
            file.write(data)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    """Of four that want it at once one makes it, out of sight; the others wait."""
    path, calls = tmp_path / "cache" / "folder", []

    def make(place: Path) -> None:
        calls.append(place)
        place.mkdir()
        time.sleep(0.2)
        assert not path.exists()
        (place / "inside").write_text("whole")

    found: list[str] = []

    def want() -> None:
        found.append((made_once(path, make) / "inside").read_text())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["whole"] * 4
    assert len(calls) == 1
    assert {"folder"} <= set(names(path.parent)) <= {"folder", "folder.lock"}


def test_a_folder_that_cannot_be_made_is_not_there(tmp_path: Path) -> None:
    """What was begun is gone; the next one begins anew."""

    def fail(place: Path) -> None:
        place.mkdir()
        raise KeyError

    with pytest.raises(KeyError):
        made_once(tmp_path / "folder", fail)
    assert set(names(tmp_path)) <= {"folder.lock"}
    assert made_once(tmp_path / "folder", Path.mkdir).is_dir()


def test_what_is_not_whole_is_replaced_by_what_works(tmp_path: Path) -> None:
    """A folder that lost a file is kept until there is a better one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "half").touch()

    def is_whole(path: Path) -> bool:
        return (path / "whole").exists()

    def fail(place: Path) -> None:
        raise KeyError

    def make(place: Path) -> None:
        place.mkdir()
        (place / "whole").touch()

    with pytest.raises(KeyError):
        made_once(folder, fail, is_whole)
    assert names(folder) == ["half"]
    assert names(made_once(folder, make, is_whole)) == ["whole"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    """As the journal beside it has."""
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as file:
            file.write("x")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "file") == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    """From the first byte on: what nobody else could read is not shown while it is written."""
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with replacing(path) as file:
        file.write("secret")
        file.flush()
        assert [mode_of(other) for other in tmp_path.iterdir()] == [mode, mode]
    assert mode_of(path) == mode


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root writes others' files: run the tests as root")
def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    """Root grading another's folder does not take the files away from them."""
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 12345, 23456)
    with replacing(path) as file:
        file.write("x")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_leads_where_it_led(tmp_path: Path, is_there: bool) -> None:
    """Its target is written, and it stays a link."""
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    link.symlink_to(Path("elsewhere") / "target")
    if is_there:
        target.write_text("old")
    with replacing(link) as file:
        file.write("new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    assert (names(tmp_path), names(tmp_path / "elsewhere")) == (["elsewhere", "link"], ["target"])


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """What is no regular file is not replaced by one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    with replacing(path) as file:
        file.write("through")
    assert reader.communicate()[0] == b"through"
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert not is_replaced(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root could replace a device: run the tests as root")
def test_a_device_is_written_to(tmp_path: Path) -> None:
    """As root, too: a /dev/null of its own, as a mistake would take the real one away."""
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.read_bytes()
    except PermissionError:
        pytest.skip("devices cannot be made here: run the tests where mknod works")
    with replacing(path) as file:
        file.write("x")
    assert stat.S_ISCHR(path.stat().st_mode)


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1", "page"])
def test_standard_output_is_written_to_where_it_stands(tmp_path: Path, path: str) -> None:
    """A file that it goes to is held open: neither replaced under it, nor written from the start again."""
    code = (
        "from pathlib import Path; from eager.atomic import replacing; print('before', flush=True)\n"
        f"with replacing(Path({path!r})) as file: file.write('page\\n')\n"
        "print('after')"
    )
    with (tmp_path / "page").open("wb") as page:
        subprocess.run([sys.executable, "-c", code], stdout=page, check=True, cwd=tmp_path)
    assert (tmp_path / "page").read_text() == "before\npage\nafter\n"


def test_a_folder_is_not_written_over(tmp_path: Path) -> None:
    """The error comes before the work, and nothing is left."""
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pytest.fail("there is nothing to write into")
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    """By the next one in that folder; what a living one is writing, and what is another's, stays."""
    code = (
        "import os; from pathlib import Path; from eager.atomic import replacing\n"
        "with replacing(Path('first')) as file: file.write('x'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == -9
    (left,) = names(tmp_path)
    (tmp_path / ".eager-mine.tmp").touch()
    with replacing(tmp_path / "second") as slow:
        slow.write("slow")
        assert left not in names(tmp_path)
        with replacing(tmp_path / "third") as file:
            file.write("quick")
    assert names(tmp_path) == [".eager-mine.tmp", "second", "third"]
    assert (tmp_path / "second").read_text() == "slow"


def test_what_a_killed_maker_left_is_cleared_away(tmp_path: Path) -> None:
    """Half an environment is 100 MB: the next one to make the folder removes it."""
    code = (
        "import os; from pathlib import Path; from eager.atomic import made_once\n"
        "made_once(Path('folder'), lambda place: os.kill(os.getpid(), 9))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == -9
    assert any(name.startswith(".folder.") for name in names(tmp_path))
    (tmp_path / ".folder.of__mine").touch()
    made_once(tmp_path / "folder", Path.mkdir)
    assert set(names(tmp_path)) <= {".folder.of__mine", "folder", "folder.lock"}


def test_a_name_as_long_as_can_be_is_written(tmp_path: Path) -> None:
    """The temporary file does not need a longer one."""
    path = tmp_path / ("ü" * 127)
    with replacing(path) as file:
        file.write("x")
    assert names(tmp_path) == [path.name]
