import pytest

from lpsphere.files import replace_file
from lpsphere.training.files import exclusive, prepare_folder, remove_folder, replace_folder


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        replace_file(path, fail)
    assert path.read_text() == "old"
    replace_file(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_could_not_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "step-1"
    replace_folder(path, lambda temporary: (temporary / "x").write_text("1"))

    def fail(temporary):
        (temporary / "x").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        replace_folder(path, fail)
    assert (path / "x").read_text() == "1"
    replace_folder(path, lambda temporary: (temporary / "x").write_text("2"))
    assert (path / "x").read_text() == "2"
    remove_folder(path)
    remove_folder(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to .*file/run: .*Choose another folder with --out"):
        prepare_folder(tmp_path / "file" / "run")


def test_what_one_has_another_does_not_get(tmp_path):
    with exclusive(tmp_path / "x.json", wait=False):
        with (
            pytest.raises(BlockingIOError, match=r"another process is at .*x\.json"),
            exclusive(tmp_path / "x.json", wait=False),
        ):
            pass
        with exclusive(tmp_path / "y.json", wait=False):
            pass
    with exclusive(tmp_path / "x.json", wait=False):
        pass
