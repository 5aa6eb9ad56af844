"""Files that are written: names, overwriting, locks between processes, and what a killed writer leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asymvq.outputs import (
    ExistsError,
    Lock,
    LockedError,
    check_below,
    check_name,
    check_output,
    remove_leftovers,
    replacing,
)

needs_posix = pytest.mark.skipif(os.name == "nt", reason="kills and links as POSIX has them")


def python(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )


class TestNames:
    @pytest.mark.parametrize(
        "name", ["vae", "my vae (2).safetensors", "Bär", "絵", ".hidden", "com10", "nulls", "a" * 249]
    )
    def test_good_ones_pass(self, name, tmp_path):
        check_name(name)
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("x")
        lock = Lock(tmp_path / f".{name}.lock", name)
        lock.acquire()
        lock.release()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("", "a file name"),
            ("   ", "a file name"),
            (".", "a file name"),
            ("..", "a file name"),
            ("a" * 250, "at most 249 bytes"),
            ("絵" * 100, "at most 249 bytes"),
            ("a\ud800", "half of one"),
            ("a\0b", "null character"),
            ("a\nb", "Leave out"),
            ("a/b", "Leave out"),
            ("what?", "Leave out"),
            ("CON", "Windows reserves"),
            ("nul.safetensors", "Windows reserves"),
            ("Com1.x.y", "Windows reserves"),
            ("lpt² .txt", "Windows reserves"),
            ("dot.", "Windows reserves"),
            ("space ", "Windows reserves"),
        ],
    )
    def test_bad_ones_are_refused_in_words(self, name, message):
        with pytest.raises(ValueError, match=message) as error:
            check_name(name)
        str(error.value).encode()  # can be printed
        assert len(str(error.value)) < 300

    def test_what_only_windows_lacks_may_be_asked_for_elsewhere(self):
        check_name("photo: sea?.png", portable=False)
        with pytest.raises(ValueError, match="null character"):
            check_name("a\0", portable=False)

    @given(st.text(max_size=300))
    def test_what_passes_can_be_written(self, name):
        try:
            check_name(name)
        except ValueError:
            return
        assert len(name.encode()) < 250
        assert "/" not in name
        assert name.strip()

    @pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "\\x", "C:\\x", "c:x", ".."])
    def test_names_that_leave_their_folder_are_refused(self, name):
        with pytest.raises(ValueError, match="outside the output folder"):
            check_below(name)

    @pytest.mark.parametrize("name", ["", "vae/", "a//b", "vae/..x/con", "vae/x\ud800"])
    def test_every_part_of_a_path_is_checked(self, name):
        with pytest.raises(ValueError, match="Expected"):
            check_below(name)

    def test_folders_are_fine(self):
        check_below("vae/a b/..c/mine_%year%")


class TestOutput:
    def test_an_existing_file_is_not_overwritten_unless_asked(self, tmp_path):
        path = tmp_path / "new" / "out.png"
        check_output(path, overwrite=False)
        assert not path.parent.exists()
        path.parent.mkdir()
        path.write_text("mine")
        with pytest.raises(ExistsError, match=r"out\.png exists"):
            check_output(path, overwrite=False)
        check_output(path, overwrite=True)

    @pytest.mark.parametrize("how", ["itself", "relative", "symlink", "hard link", "folder", "case of a folder above"])
    def test_inputs_are_never_outputs(self, tmp_path, monkeypatch, how):
        folder = tmp_path / "in"
        folder.mkdir()
        source = folder / "base.safetensors"
        source.write_text("weights")
        out, given = source, source
        if how == "relative":
            monkeypatch.chdir(folder)
            out = Path("../in/base.safetensors")
        elif how == "symlink":
            out = tmp_path / "link.safetensors"
            out.symlink_to(source)
        elif how == "hard link":
            out = tmp_path / "link.safetensors"
            os.link(source, out)
        elif how != "itself":
            given = folder if how == "folder" else tmp_path
        with pytest.raises(ValueError, match="no input"):
            check_output(out, overwrite=True, inputs=(None, given))
        check_output(folder / "other.safetensors", overwrite=True, inputs=(given,))

    def test_a_folder_is_no_file(self, tmp_path):
        with pytest.raises(ValueError, match="is a folder"):
            check_output(tmp_path, overwrite=True)

    @needs_posix
    def test_a_file_that_comes_meanwhile_is_not_overwritten(self, tmp_path):
        path = tmp_path / "out"
        writing = replacing(path, overwrite=False)
        writing.__enter__().write_text("ours")
        path.write_text("theirs")
        with pytest.raises(FileExistsError):
            writing.__exit__(None, None, None)
        assert path.read_text() == "theirs"
        assert [file.name for file in tmp_path.iterdir()] == ["out"]
        with replacing(path) as temporary:
            temporary.write_text("ours")
        assert path.read_text() == "ours"


class TestLeftovers:
    @needs_posix
    def test_of_a_killed_writer_are_removed_and_of_a_living_one_are_not(self, tmp_path):
        code = (
            "import sys, time; from pathlib import Path; from asymvq.outputs import replacing\n"
            "with replacing(Path(sys.argv[1])) as file:\n"
            "    file.write_text('half'); print('writing', flush=True); time.sleep(60)"
        )
        process = python(code, tmp_path / "out")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            remove_leftovers(tmp_path)
            assert len(list(tmp_path.glob(".asymvq-*.tmp/file"))) == 1
            with replacing(tmp_path / "out") as file:  # another writer of the same name
                file.write_text("whole")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert len(list(tmp_path.iterdir())) == 2
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out").read_text() == "whole"

    def test_other_programs_files_stay(self, tmp_path):
        for name in (".x.tmp", ".asymvq-file.tmp", "x.tmp"):
            (tmp_path / name).write_text("theirs")
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 3

    def test_writers_and_removers_at_once(self, tmp_path):
        """A remover never takes what is being written, at whatever moment it looks."""
        end, done = time.monotonic() + 0.5, threading.Event()

        def sweep() -> None:
            while not done.is_set():
                remove_leftovers(tmp_path)

        sweepers = [threading.Thread(target=sweep) for _ in range(2)]
        for sweeper in sweepers:
            sweeper.start()
        count = 0
        try:
            while count < 6 or time.monotonic() < end:
                with replacing(tmp_path / "out") as file:
                    file.write_text(str(count))
                assert (tmp_path / "out").read_text() == str(count)
                count += 1
        finally:
            done.set()
        for sweeper in sweepers:
            sweeper.join()


class TestLock:
    def test_one_at_a_time_and_who_it_is(self, tmp_path):
        path = tmp_path / "sub" / ".x.lock"
        first, second = Lock(path, "the run x"), Lock(path, "the run x")
        first.acquire()
        first.acquire()
        with pytest.raises(LockedError, match="the run x to be free, but another run of this process, since 20"):
            second.acquire()
        first.release()
        assert not path.exists()
        second.acquire()
        second.release()
        second.release()

    @needs_posix
    def test_goes_with_the_process_that_was_killed(self, tmp_path):
        path = tmp_path / ".x.lock"
        code = (
            "import sys, time; from pathlib import Path; from asymvq.outputs import Lock\n"
            "lock = Lock(Path(sys.argv[1]), 'x'); lock.acquire(); print('locked', flush=True); time.sleep(60)"
        )
        process = python(code, path)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(LockedError, match=f"process {process.pid} on "):
                Lock(path, "x").acquire()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert path.exists()  # stale
        lock = Lock(path, "x")
        lock.acquire()
        lock.release()

    def test_goes_with_the_object(self, tmp_path):
        path = tmp_path / ".x.lock"
        lock = Lock(path, "x")
        lock.acquire()
        del lock
        Lock(path, "x").acquire()

    def test_only_one_of_many_has_it(self, tmp_path):
        path, inside, most = tmp_path / ".x.lock", [], []
        end = time.monotonic() + 0.5

        def work() -> None:
            while time.monotonic() < end:
                lock = Lock(path, "x")
                try:
                    lock.acquire()
                except LockedError:
                    continue
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                lock.release()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(most) == {1}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can mount a small disk")
class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path):
        folder = tmp_path / "disk"
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False).returncode:
            pytest.skip("no file system can be mounted here")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def test_says_so_and_leaves_what_was_there(self, small_disk):
        from numpy import zeros
        from safetensors.numpy import save_file

        path = small_disk / "out"
        path.write_text("before")
        with pytest.raises(OSError, match=r"disk is full.*/out") as error, replacing(path) as temporary:
            temporary.write_bytes(b"x" * 1_000_000)
        with pytest.raises(OSError, match="disk is full"), replacing(path) as temporary:
            save_file({"a": zeros(1_000_000)}, temporary)
        assert error.value.filename == str(path)
        assert path.read_text() == "before"
        assert [file.name for file in small_disk.iterdir()] == ["out"]
