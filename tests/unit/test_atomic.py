"""Files and folders are there as a whole, or as they were."""

import threading
import time
from pathlib import Path

import pytest

from eager.atomic import made_once, replacing, replacing_bytes


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
