"""What a disk may hold after a power cut: everything that was synced, and of the rest whatever it pleases.

A recorded run becomes a list of changes. Each is safe once its file, or for a name its folder, was synced (POSIX
promises no more; ext4 orders more than that). At a cut any of the others may be lost, each by itself, as if reordered,
and of a write any sectors of 512 bytes (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import comb
from pathlib import Path, PurePath
from random import Random

#: What strace has to write down.
CALLS = (
    "openat,close,lseek,write,pwrite64,writev,pwritev,ftruncate,fallocate,rename,renameat,renameat2,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,fsync,fdatasync,dup,dup2,dup3"
)
OPTIONS = ("-f", "-y", "-xx", "-s", "16777216", "-e", f"trace={CALLS}")
_SECTOR = 512
#: So many changes are lost at once, where it is not all of them.
_MOST_LOST = 3
#: SQLite's shared memory is made anew by whoever opens the database first.
_FORGOTTEN = "-shm"

_DONE = re.compile(r"(\d+) +(\w+)\((.*)\) += (\d+)")
_UNFINISHED = re.compile(r"(\d+) +(.*?) *<unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|(AT_FDCWD|-?\d+)<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?|([^,\s]+)')

_ROOT, _ACKS = 0, -1


@dataclass(frozen=True, slots=True)
class _Descriptor:
    number: int
    path: str


_Argument = bytes | str | _Descriptor


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes of a file."""

    node: int
    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resized:
    """A file has another size."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Named:
    """Names of folders lead elsewhere, all at once: (folder, name, node), the node None where the name is gone.

    Attributes:
        made: A folder that is new with it, or None.
    """

    entries: tuple[tuple[int, str, int | None], ...]
    made: int | None = None


Change = Written | Resized | Named


@dataclass(slots=True)
class Tree:
    """Files and folders by their inode."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {_ROOT: {}})

    @classmethod
    def read(cls, folder: Path) -> "Tree":
        """The tree below a folder."""
        tree = cls()
        numbers = {folder: _ROOT}
        for number, path in enumerate(sorted(folder.rglob("*")), start=1):
            numbers[path] = number
            tree.folders[numbers[path.parent]][path.name] = number
            if path.is_dir():
                tree.folders[number] = {}
            else:
                tree.files[number] = bytearray(path.read_bytes())
        return tree

    def copy(self) -> "Tree":
        """Another one like it."""
        files = {node: bytearray(content) for node, content in self.files.items()}
        return Tree(files, {node: dict(names) for node, names in self.folders.items()})

    def apply(self, change: Change, torn: frozenset[int] = frozenset()) -> None:
        """Make a change; `torn` are the sectors of a write that are lost."""
        match change:
            case Written(node, at, data):
                content = self.files.setdefault(node, bytearray())
                content.extend(bytes(max(0, at + len(data) - len(content))))
                for begin, end in _sectors(at, len(data)):
                    if begin // _SECTOR not in torn:
                        content[begin:end] = data[begin - at : end - at]
            case Resized(node, size):
                content = self.files.setdefault(node, bytearray())
                content.extend(bytes(max(0, size - len(content))))
                del content[size:]
            case Named(entries, made):
                if made is not None:
                    self.folders.setdefault(made, {})
                for folder, name, named in entries:
                    names = self.folders.setdefault(folder, {})
                    names.pop(name, None) if named is None else names.update({name: named})

    def write(self, folder: Path, node: int = _ROOT) -> None:
        """Lay it down at a path where nothing is."""
        folder.mkdir()
        for name, below in self.folders[node].items():
            if below in self.folders:
                self.write(folder / name, below)
            elif not name.endswith(_FORGOTTEN):
                (folder / name).write_bytes(self.files.get(below, b""))

    def find(self, path: PurePath) -> tuple[int, str, int | None]:
        """The folder that holds the name, the name, and what it leads to."""
        folder, node = _ROOT, _ROOT
        for part in path.parts:
            folder, node = node, self.folders[node].get(part, -2)
        return folder, path.name, None if node == -2 else node


@dataclass(slots=True)
class _Opened:
    node: int
    at: int = 0
    appends: bool = False


class RecordedRun:
    """What a run did to a folder, read from the log of strace.

    Args:
        before: A copy of the folder as the run found it: all of that was synced.
        folder: Where it ran.
        acks: The file in which it said what it had acknowledged.

    Attributes:
        changes: In their order.
        safe_from: By change, how many changes had been made when it was synced; none where it never was.
        acknowledged: Words, each with the number of changes before it.
    """

    def __init__(self, before: Path, folder: Path, acks: Path, log: str) -> None:
        self.before = Tree.read(before)
        self.changes: list[Change] = []
        self.safe_from: dict[int, int] = {}
        self.acknowledged: list[tuple[int, str]] = []
        self._folder, self._acks = folder, acks
        self._seen = self.before.copy()
        self._next_node = len(self._seen.files) + len(self._seen.folders)
        self._opened: dict[int, _Opened] = {}
        for call, arguments, result in _calls(log):
            self._take(call, arguments, result)

    def unsafe(self, made: int) -> list[int]:
        """The changes that a cut after the first `made` of them may take away."""
        return [number for number in range(made) if self.safe_from.get(number, made + 1) > made]

    def left(self, made: int, lost: Mapping[int, frozenset[int] | None]) -> Tree:
        """What is on disk after a cut: of a lost change nothing, or of a write all but the sectors that are named."""
        tree = self.before.copy()
        for number, change in enumerate(self.changes[:made]):
            if number not in lost:
                tree.apply(change)
            elif (torn := lost[number]) is not None:
                tree.apply(change, torn)
        return tree

    def cuts(self, rng: Random, most: int) -> Iterator[tuple[int, dict[int, frozenset[int] | None]]]:
        """Every cut with up to three lost changes, or `most` of them at random where those are too many."""
        sets = sum(comb(len(self.unsafe(made)), size) for made in range(len(self.changes) + 1) for size in range(4))
        if sets <= most:
            for made in range(len(self.changes) + 1):
                unsafe = self.unsafe(made)
                for size in range(_MOST_LOST + 1):
                    for some in combinations(unsafe, size):
                        yield made, dict.fromkeys(some)
                yield made, dict.fromkeys(unsafe)
            return
        for _ in range(most):
            made = rng.randint(0, len(self.changes))
            unsafe = self.unsafe(made)
            size = rng.choice([len(unsafe), *range(1, _MOST_LOST + 1)])
            chosen = sorted(rng.sample(unsafe, min(size, len(unsafe))))
            yield made, {number: self._torn(number, rng) for number in chosen}

    def _torn(self, number: int, rng: Random) -> frozenset[int] | None:
        change = self.changes[number]
        if not isinstance(change, Written) or rng.random() < 0.5:
            return None
        sectors = [begin // _SECTOR for begin, _ in _sectors(change.at, len(change.data))]
        return frozenset(rng.sample(sectors, rng.randint(1, len(sectors))))

    # --- reading the log ---

    def _take(self, call: str, arguments: list[_Argument], result: int) -> None:
        if call == "openat":
            self._open(_paths(arguments)[0], str(arguments[2]), result)
        elif not isinstance(arguments[0], _Descriptor) or call.endswith(("at", "at2")):
            self._name(call, _paths(arguments))
        elif (opened := self._opened.get(arguments[0].number)) is not None:
            if call == "close":
                del self._opened[arguments[0].number]
            else:
                self._on_opened(call, opened, arguments, result)

    def _on_opened(self, call: str, opened: _Opened, arguments: list[_Argument], result: int) -> None:
        match call:
            case "dup" | "dup2" | "dup3":
                self._opened[result] = opened
            case "lseek":
                opened.at = result
            case "write":
                self._write(opened, arguments[1], None)
            case "pwrite64":
                self._write(opened, arguments[1], int(str(arguments[3])))
            case "ftruncate":
                self._change(Resized(opened.node, int(str(arguments[1]))))
            case "fallocate":
                size = max(len(self._seen.files[opened.node]), int(str(arguments[2])) + int(str(arguments[3])))
                self._change(Resized(opened.node, size))
            case "fsync" | "fdatasync":
                self._sync(opened.node)
            case _:
                raise RuntimeError(f"{call} is not known here")

    def _open(self, path: PurePath, flags: str, descriptor: int) -> None:
        self._opened.pop(descriptor, None)
        if path == self._acks:
            self._opened[descriptor] = _Opened(_ACKS)
        if not path.is_relative_to(self._folder) or path.name.endswith(_FORGOTTEN):
            return
        folder, name, node = self._seen.find(path.relative_to(self._folder))
        if node is None:
            node = self._new_node()
            self._seen.files[node] = bytearray()
            self._change(Named(((folder, name, node),)))
        elif "O_TRUNC" in flags and self._seen.files.get(node):
            self._change(Resized(node, 0))
        self._opened[descriptor] = _Opened(node, appends="O_APPEND" in flags)

    def _write(self, opened: _Opened, data: _Argument, at: int | None) -> None:
        if not isinstance(data, bytes):
            raise TypeError("strace has cut off what was written")
        if opened.node == _ACKS:
            self.acknowledged += [(len(self.changes), word) for word in data.decode().splitlines()]
            return
        if at is None:
            at = len(self._seen.files[opened.node]) if opened.appends else opened.at
            opened.at = at + len(data)
        self._change(Written(opened.node, at, data))

    def _name(self, call: str, paths: list[PurePath]) -> None:
        inside = [path.is_relative_to(self._folder) for path in paths]
        if not any(inside) or paths[0].name.endswith(_FORGOTTEN):
            return
        if not all(inside) or call.startswith("symlink"):
            raise RuntimeError(f"{call} {paths}: not known here")
        places = [self._seen.find(path.relative_to(self._folder)) for path in paths]
        folder, name, node = places[0]
        match call:
            case "unlink" | "unlinkat" | "rmdir":
                self._change(Named(((folder, name, None),)))
            case "mkdir" | "mkdirat":
                made = self._new_node()
                self._change(Named(((folder, name, made),), made))
            case "link" | "linkat":
                self._change(Named(((places[1][0], places[1][1], node),)))
            case _:
                self._change(Named(((folder, name, None), (places[1][0], places[1][1], node))))

    def _change(self, change: Change) -> None:
        self.changes.append(change)
        self._seen.apply(change)

    def _sync(self, node: int) -> None:
        for number, change in enumerate(self.changes):
            match change:
                case Named(entries):
                    # A file that was moved is safe where it went.
                    is_reached = entries[-1][0] == node
                case _:
                    is_reached = change.node == node
            if is_reached:
                self.safe_from.setdefault(number, len(self.changes))

    def _new_node(self) -> int:
        self._next_node += 1
        return self._next_node


def _sectors(at: int, size: int) -> Iterator[tuple[int, int]]:
    begin = at
    while begin < at + size:
        end = min((begin // _SECTOR + 1) * _SECTOR, at + size)
        yield begin, end
        begin = end


def _calls(log: str) -> Iterator[tuple[str, list[_Argument], int]]:
    """Calls that succeeded, as they ended, each with its arguments and its result."""
    begun: dict[str, str] = {}
    for written in log.splitlines():
        line = written
        if (unfinished := _UNFINISHED.fullmatch(line)) is not None:
            begun[unfinished[1]] = unfinished[2]
            continue
        if (resumed := _RESUMED.fullmatch(line)) is not None:
            line = f"{resumed[1]} {begun.pop(resumed[1])}{resumed[2]}"
        if (done := _DONE.match(line)) is None:
            continue
        arguments: list[_Argument] = []
        for text, descriptor, path, word in _ARGUMENT.findall(done[3]):
            if descriptor:
                arguments.append(
                    _Descriptor(-1 if descriptor == "AT_FDCWD" else int(descriptor), _plain(path).decode())
                )
            else:
                arguments.append(word or _plain(text))
        yield done[2], arguments, int(done[4])


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _paths(arguments: list[_Argument]) -> list[PurePath]:
    """The paths among a call's arguments, each after the folder that it starts from, if one is given."""
    found: list[PurePath] = []
    base = ""
    for argument in arguments:
        if isinstance(argument, _Descriptor):
            base = argument.path
        elif isinstance(argument, bytes):
            found.append(PurePath(base, argument.decode()))
    return found
