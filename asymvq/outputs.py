"""Files that are written: names that every system can hold, nothing overwritten unasked, complete or not there, and
one writer at a time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from safetensors import SafetensorError

if os.name == "nt":
    import msvcrt
else:
    import fcntl

TEMPORARY_START, TEMPORARY = ".asymvq-", ".tmp"
LOCK = ".lock"
LONGEST_NAME = 255 - len(".") - len(LOCK)
"""Bytes: what common file systems hold, less what the name of the lock adds."""
_RESERVED_CHARACTERS = '<>:"|?*\\/'
_RESERVED_NAMES = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_TRIES = 10


class ExistsError(ValueError):
    """A file would be overwritten."""


class LockedError(ValueError):
    """Another process, or another run of this one, is writing here."""


def check_name(name: str, *, portable: bool = True) -> None:
    """Checks the name of a file, without folders.

    Args:
        portable: refuse what Windows cannot hold, on every system.

    Raises:
        ValueError: no file can have the name.
    """
    shown = _shown(name)
    if not name.strip() or name.strip(".") == "":
        raise ValueError(f"Expected a file name, but got {shown}. Choose a name with letters or digits.")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"Expected a file name of whole characters, but got half of one in {shown}.") from None
    if length > LONGEST_NAME:
        raise ValueError(
            f"Expected a name of at most {LONGEST_NAME} bytes, but got one of {length}. Choose a shorter one."
        )
    if "\0" in name:
        raise ValueError(f"Expected a file name, but got {shown}. Leave out the null character.")
    bad = sorted({c for c in name if ord(c) < 32 or (portable and c in _RESERVED_CHARACTERS)})
    if bad:
        raise ValueError(
            f"Expected a file name that every system can hold, but got {shown}. Leave out "
            f"{', '.join(ascii(c) for c in bad)}."
        )
    if portable and (name[-1] in ". " or _RESERVED_NAMES.fullmatch(name)):
        raise ValueError(
            f"Expected a file name that every system can hold, but Windows reserves {shown}. Choose another name."
        )


def check_below(name: str) -> None:
    """Checks a name that may have folders before it, as "vae/mine": that it stays below the folder it is meant for.

    Raises:
        ValueError: it leaves that folder, or a part of it is no name.
    """
    parts = name.replace(os.sep, "/").split("/")
    leaves = ".." in parts or PureWindowsPath(name).drive or PureWindowsPath(name).root
    if leaves:
        raise ValueError(
            f"Expected a name inside the output folder, but {_shown(name)} leads outside the output folder. Leave out "
            "'..', drives and a slash at the beginning."
        )
    for part in parts:
        check_name(part)


def check_output(path: Path, *, overwrite: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Checks a file that is to be written, before anything is computed. Leaves nothing behind.

    Args:
        overwrite: an existing file may be replaced.
        inputs: files that are read; they are never replaced, whatever the paths that lead to them.

    Raises:
        ExistsError: the file exists.
        ValueError: it is one of the inputs, or no file can have this name.
        OSError: nothing can be written there.
    """
    check_name(path.name, portable=os.name == "nt")
    for source in inputs if path.exists() else ():
        if source is not None and _same(path, source):
            raise ValueError(f"Expected an output that is no input, but {path} is one ({source}). Choose another name.")
    if path.is_dir():
        raise ValueError(f"Expected a file to write, but {path} is a folder. Choose another name.")
    if not overwrite and path.exists():
        raise ExistsError(f"Expected a new file, but {path} exists. Choose another name, or move that file away.")
    new = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _temporary_folder(path):  # a folder that is read-only, or on a full disk, says so now
            pass
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # somebody else put something there meanwhile
                folder.rmdir()


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A path to write to; on success it becomes `path` in one step, on failure it is gone.

    Raises:
        FileExistsError: `path` exists, and `overwrite` is not set. It is left as it is.
        OSError: it cannot be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _temporary_folder(path) as folder:
            temporary = folder / "file"  # no suffix: hosts list what they find below their folders of weights
            temporary.touch()
            permissions = temporary.stat().st_mode
            yield temporary
            # safetensors writes files for the owner alone, wherever the umask says otherwise
            temporary.chmod(permissions)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if overwrite:
                os.replace(temporary, path)
            else:
                _place_new(temporary, path)
            _sync_folder(path.parent)
    except SafetensorError as error:
        if not re.search(rf"(os error |code: ){errno.ENOSPC}\b", str(error)):
            raise
        raise _disk_full(path) from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise _disk_full(path) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes were writing in a folder; what living ones write, on any machine, stays."""
    for leftover in folder.glob(f"{TEMPORARY_START}*{TEMPORARY}"):
        try:
            handle = os.open(leftover / LOCK, os.O_RDWR)
        except OSError:
            with contextlib.suppress(OSError):  # killed before it had its lock, or just being made
                leftover.rmdir()
            continue
        try:
            with contextlib.suppress(OSError):  # without locks nobody can tell
                if _try_lock(handle):
                    # under the lock: whoever was about to take it sees that the folder is gone
                    shutil.rmtree(leftover, ignore_errors=True)
        finally:
            os.close(handle)
        if os.name == "nt":
            _remove_unlocked(leftover)


class Lock:
    """That one process at a time writes something. The system drops it with the process, however that ends.

    Args:
        path: of the lock's own file, which says who holds it. It is gone when nobody does.
        what: the locked thing, for the error.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what
        self._handle: int | None = None

    def acquire(self) -> None:
        """
        Raises:
            LockedError: somebody else has it; the message says who.
        """
        if self._handle is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                free = _try_lock(handle)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    raise
                free = not _owner_lives(_owner(handle))  # a file system without locks: by what the file says
            if not free:
                owner = _owner(handle)
                os.close(handle)
                raise LockedError(
                    f"Expected {self.what} to be free, but {_described(owner)} writes it. Wait until that has "
                    "ended, or choose another name."
                )
            if _is(handle, self.path):  # else its last owner has just removed it
                self._handle = handle
                self._finalizer = weakref.finalize(self, _let_go, handle, self.path)
                _write_owner(handle)
                return
            os.close(handle)
        raise LockedError(f"Expected {self.what} to be free, but others keep taking it. Try again.")

    def release(self) -> None:
        if self._handle is not None:
            self._handle = None
            self._finalizer()


def _place_new(temporary: Path, path: Path) -> None:
    """As `os.replace`, but it fails where `path` exists."""
    if os.name == "nt":
        os.rename(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


@contextlib.contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, locked so that `remove_leftovers` of others leaves it alone."""
    for _ in range(_TRIES):
        try:
            folder = Path(tempfile.mkdtemp(TEMPORARY, TEMPORARY_START, path.parent))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileNotFoundError:
            continue  # taken for a leftover
        try:
            mine = _try_lock(handle) and _is(handle, folder / LOCK)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            mine = True  # nobody can take it for a leftover without locks
        if not mine:
            os.close(handle)
            continue
        try:
            yield folder
        finally:
            os.close(handle)
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise OSError(errno.EAGAIN, "others keep removing what is written beside it", str(path))


def _remove_unlocked(leftover: Path) -> None:
    """What is left of it on Windows, where an open file cannot be removed."""
    if [path.name for path in leftover.glob("*")] == [LOCK]:
        shutil.rmtree(leftover, ignore_errors=True)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:60] + "…")


def _same(path: Path, other: Path) -> bool:
    """Whether the existing `path` is `other`, or lies in that folder."""
    try:
        return path.samefile(other) or (other.is_dir() and other.resolve() in path.resolve().parents)
    except OSError:
        return False


def _disk_full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, "the disk is full. Free some space, and run it again", str(path))


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only with its folder written; Windows has no call for it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have none either
            os.fsync(handle)
    finally:
        os.close(handle)


_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_LOCKED_BYTE = 1 << 30
"""On Windows, locked bytes cannot be read by others: one behind what the file says."""


def _try_lock(handle: int) -> bool:
    """Whether the file is now ours. The lock goes with the handle."""
    try:
        if os.name == "nt":
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _let_go(handle: int, path: Path) -> None:
    if os.name == "nt":  # an open file cannot be removed there; another owner's is open
        os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink()
        return
    with contextlib.suppress(OSError):
        if _is(handle, path):
            path.unlink()
    os.close(handle)


def _write_owner(handle: int) -> None:
    words = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(words).encode())


def _owner(handle: int) -> dict[str, Any]:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        data = json.loads(os.read(handle, 4096))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _described(owner: dict[str, Any]) -> str:
    if "process" not in owner:
        return "another run"
    here = owner.get("process") == os.getpid() and owner.get("machine") == socket.gethostname()
    who = "another run of this process" if here else f"process {owner['process']} on {owner.get('machine')}"
    return f"{who}, since {owner.get('since')},"


def _owner_lives(owner: dict[str, Any]) -> bool:
    process = owner.get("process")
    if not isinstance(process, int):
        return False
    if owner.get("machine") != socket.gethostname() or os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
