"""The walls of the house: imports go down only, rules are pure, nothing hides a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sentinel_sync"
NAME = PACKAGE.name

#: Folders by floor, from the ground up; a folder imports from the floors below it and from itself.
FEATURES = frozenset({"trips", "scenarios", "models", "profiles", "fleet"})
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"", "base"}),
    frozenset({"settings"}),
    frozenset({"cloud"}),
    frozenset({"store"}),
    frozenset({"network"}),
    FEATURES,
    frozenset({"composition"}),
    frozenset({"status"}),
    frozenset({"metrics"}),
    frozenset({"telemetry"}),
    frozenset({"status_reporter", "vehicle_report"}),
    frozenset({"agent"}),
    frozenset({"cli", "conformance", "console", "demo", "fleet_simulation", "pytest_plugin", "__main__"}),
)
#: The reference backend is a house of its own: it shares the wire contract with the agent, and no code.
BACKEND = "backend"
#: What a rule may not know: the loop, the network, the disk, the clock, the log.
FORBIDDEN_TO_RULES = frozenset({
    "aiofiles", "asyncio", "httpx", "io", "logging", "os", "requests", "shutil", "socket", "sqlite3", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib.request",
})  # fmt: skip
DRAWERS = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "manager", "handler"})


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first part of its name below the package; empty for the package itself."""
        return self.name.removeprefix(NAME).lstrip(".").partition(".")[0]

    @property
    def imports(self) -> set[str]:
        """Names of all modules that it imports, at its top or inside a function."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                # `from package import module` imports the module, `from module import name` does not.
                found |= {
                    full if (full := f"{node.module}.{alias.name}") in KNOWN else node.module for alias in node.names
                }
        return found

    @property
    def own_imports(self) -> set[str]:
        """Those of this package."""
        return {name for name in self.imports if name == NAME or name.startswith(f"{NAME}.")}


def named(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
KNOWN = frozenset(named(path) for path in FILES)
MODULES = {named(path): Module(named(path), path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}


def rules() -> list[Module]:
    return [module for module in MODULES.values() if ".rules." in module.name or module.name.endswith(".rules")]


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def is_door(*rooms: str) -> bool:
    """Doors lead into one another."""
    return all(room in FLOORS[-1] for room in rooms)


def calls(tree: ast.AST) -> Iterator[str]:
    """What is called, as it is written: `datetime.now`, `open`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_every_room_has_a_floor() -> None:
    rooms = {module.room for module in MODULES.values()}
    assert rooms >= FEATURES
    assert rooms - {BACKEND} <= frozenset().union(*FLOORS)


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_imports_go_down_only(module: Module) -> None:
    for imported in sorted(module.own_imports):
        room = imported.removeprefix(NAME).lstrip(".").partition(".")[0]
        if BACKEND in {module.room, room}:  # the next test's
            continue
        assert room == module.room or floor_of(room) < floor_of(module.room) or is_door(room, module.room), (
            f"{module.name} imports {imported}, which is not below it"
        )


def test_the_backend_imports_nothing_of_ours_and_only_doors_import_it() -> None:
    for module in MODULES.values():
        if module.room == BACKEND:
            theirs = {name for name in module.own_imports if not name.startswith(f"{NAME}.{BACKEND}")}
            assert theirs <= {NAME}, f"{module.name} imports {theirs}"
        elif any(name.startswith(f"{NAME}.{BACKEND}") for name in module.own_imports):
            assert module.room in FLOORS[-1], f"{module.name} imports the backend"


def test_only_doors_import_the_agent() -> None:
    for module in MODULES.values():
        if f"{NAME}.agent" in module.own_imports:
            assert module.room in FLOORS[-1], f"{module.name} imports the agent"


@pytest.mark.parametrize("module", rules(), ids=lambda module: module.name)
def test_rules_import_rules_and_the_base(module: Module) -> None:
    for imported in module.own_imports:
        assert ".rules" in imported or imported.startswith(f"{NAME}.base."), f"{module.name} imports {imported}"


@pytest.mark.parametrize("module", rules(), ids=lambda module: module.name)
def test_rules_are_pure(module: Module) -> None:
    outside = {name.partition(".")[0] for name in module.imports} | module.imports
    assert not outside & FORBIDDEN_TO_RULES
    for node in ast.walk(module.tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    for call in calls(module.tree):
        assert not call.endswith((".now", ".utcnow", ".today")), f"{module.name} asks a clock: {call}"
        assert call not in {"open", "print", "input"}
        assert call not in {"random.random", "random.uniform", "random.choice", "uuid4", "uuid.uuid4"}, (
            "chance is given"
        )


@pytest.mark.parametrize(
    "path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_no_type_is_imported_behind_the_interpreters_back(path: Path) -> None:
    """If a type needs a circle, the wall is in the wrong place."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        assert not (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")


def test_no_circle() -> None:
    """Imports inside functions count: they are where circles hide."""
    graph = {module.name: {name for name in module.own_imports if name in KNOWN} for module in MODULES.values()}
    for name, imported in graph.items():
        imported.discard(name)
    list(TopologicalSorter(graph).static_order())


def bound_at_the_top(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_no_name_is_given_twice(module: Module) -> None:
    """The second silently takes the place of the first, also in what was written for the first."""
    names = list(bound_at_the_top(module.tree))
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_relative_import() -> None:
    for module in MODULES.values():
        for node in ast.walk(module.tree):
            assert not (isinstance(node, ast.ImportFrom) and node.level), module.name


def test_no_drawer_modules() -> None:
    assert not [path for path in FILES if set(path.stem.split("_")) & (DRAWERS - {"manager"}) or path.stem in DRAWERS]


def test_time_is_asked_of_the_clock_only() -> None:
    """Below the doors, nobody reads a clock of the machine's."""
    asks = ("time.time", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.utcnow")
    for module in MODULES.values():
        if module.room != BACKEND and module.room not in FLOORS[-1] and module.name != f"{NAME}.base.clock":
            asked = [call for call in calls(module.tree) if call in asks]
            assert not asked, f"{module.name} asks {asked}: take a Clock"


def test_httpx_clients_are_built_in_one_place() -> None:
    builders = {module.name for module in MODULES.values() if "httpx.AsyncClient" in set(calls(module.tree))}
    assert {name for name in builders if MODULES[name].room not in FLOORS[-1]} == {f"{NAME}.cloud.http"}


def test_httpx_is_imported_in_one_place() -> None:
    importers = {
        module.name for module in MODULES.values() if "httpx" in {name.split(".")[0] for name in module.imports}
    }
    assert importers == {f"{NAME}.base.http_library"}


def test_the_agent_leaves_alone_what_only_command_lines_need() -> None:
    """Measured: rich, pygments and click are 5 of the 60 MB that the idle agent may take."""
    code = "import sentinel_sync.agent, sys; print({'rich', 'pygments', 'click', 'httpx._main'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_every_file_says_what_it_is_for() -> None:
    for module in MODULES.values():
        assert ast.get_docstring(module.tree), module.name
