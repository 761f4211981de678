"""The documents: what they name exists, and what the code reads is written down."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from phi3kit.core.limits import VARIABLES
from phi3kit.core.settings import PROJECT_ROOT
from tests.test_architecture import FLOORS

DOCUMENTS = tuple(
    sorted([*PROJECT_ROOT.glob("*.md"), *PROJECT_ROOT.glob("docs/*.md"), *PROJECT_ROOT.glob("bench/*.md")])
)
NAMES = tuple(str(path.relative_to(PROJECT_ROOT)) for path in DOCUMENTS)
KIT = PROJECT_ROOT / "phi3kit"

_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# Of the first folder or the ending: a path that a document names. What follows :: is a test in that file.
_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?(?:::\w+)?")
_ENDINGS = (".py", ".md", ".toml", ".txt", ".yaml", ".json", ".png")
# Named, and not there: what a user makes, what Deploy writes, and files inside models or on another machine.
_ELSEWHERE = {
    ".streamlit/secrets.toml", "secrets.toml", "compose.yaml", "genai_config.json", "pages/NAME.py",
    "tests/pages/test_NAME.py", "phi3kit/ui/NAME/__init__.py", "worker.env",
}  # fmt: skip


def text_of(name: str) -> str:
    return (PROJECT_ROOT / name).read_text("utf-8")


def prose_of(name: str) -> str:
    return _FENCED.sub("", text_of(name))


def paths_in(name: str) -> Iterator[str]:
    """What stands in backticks and is meant as a path of this repository."""
    folders = {path.name for path in PROJECT_ROOT.iterdir() if path.is_dir()} | {"phi3kit", "pages", "tests", "bench"}
    folders |= {path.name for path in (PROJECT_ROOT / "tests").iterdir() if path.is_dir()}
    for quoted in _QUOTED.findall(prose_of(name)):
        path = quoted.partition("::")[0]
        named = ("/" in path and path.split("/")[0] in folders) or path.endswith(_ENDINGS)
        if _PATH.fullmatch(quoted) and named and path not in _ELSEWHERE and not quoted.startswith("-"):
            yield quoted


def found(path: str) -> Path | None:
    """The file that a document means: from the root, under tests/ or beside the document, or a module of some package."""
    for base in (PROJECT_ROOT, PROJECT_ROOT / "tests", PROJECT_ROOT / "docs", PROJECT_ROOT / "bench"):
        if (base / path).exists():
            return base / path
    return next(KIT.rglob(path), None)


@pytest.mark.parametrize("name", NAMES)
def test_every_path_that_is_named_exists(name: str) -> None:
    missing = []
    for quoted in paths_in(name):
        path, _, test = quoted.partition("::")
        file = found(path)
        if file is None or (test and not re.search(rf"(class|def) {test}\b", file.read_text("utf-8"))):
            missing.append(quoted)
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_module_that_is_named_exists(name: str) -> None:
    named = set(re.findall(r"\bphi3kit(?:\.[a-z_]\w*)+", text_of(name)))
    # What a run's tags begin with looks like a module too.
    tags = {f"phi3kit.{tag}" for tag in ("wrapper", "turn_id", "origin", "user", "interface", "finish_reason", "vote")}
    paths = {module: PROJECT_ROOT.joinpath(*module.split(".")) for module in named - tags}
    assert [
        module for module, path in paths.items() if not path.is_dir() and not path.with_suffix(".py").exists()
    ] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    broken = []
    for link in _LINK.findall(text_of(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        file = (PROJECT_ROOT / name).parent / path if path else PROJECT_ROOT / name
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(link)
    assert broken == []


def anchors_of(file: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", file.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_target_of_make_exists(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", text_of(name), re.MULTILINE)) <= targets


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def variables_of_the_code() -> set[str]:
    """Every PHI3KIT_ variable that the app, the command line and the workers know."""
    files = [*KIT.rglob("*.py"), *(PROJECT_ROOT / "pages").glob("*.py"), PROJECT_ROOT / "streamlit_app.py"]
    texts = {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {name for text in texts for name in re.findall(r"PHI3KIT_[A-Z_]*[A-Z]", text)}
    return {name for name in named if not name.startswith("PHI3KIT_KEY")} | set(VARIABLES.values())


def test_every_variable_that_the_code_reads_is_a_setting_that_is_described_and_no_other() -> None:
    rows = [line for line in text_of("docs/settings.md").splitlines() if line.startswith("| `")]
    described = {name for row in rows for name in re.findall(r"`(PHI3KIT_[A-Z_]*[A-Z])`", row.split(" | ")[0])}
    assert described == variables_of_the_code()


def test_every_variable_that_a_document_names_is_known() -> None:
    known = variables_of_the_code() | {"PHI3KIT_KEY"}
    of_tests = [*(PROJECT_ROOT / "tests").rglob("*.py"), PROJECT_ROOT / ".ci" / "run"]
    known |= {name for file in of_tests for name in re.findall(r"PHI3KIT_[A-Z_]*[A-Z]", file.read_text("utf-8"))}
    named = {name: set(re.findall(r"PHI3KIT_[A-Z_]*[A-Z]", text_of(name))) - known for name in NAMES}
    assert {name: unknown for name, unknown in named.items() if unknown} == {}


def test_every_pin_is_explained_and_nothing_else() -> None:
    pinned = {
        match[1]
        for file in PROJECT_ROOT.glob("requirements*.txt")
        for match in re.finditer(r"^([\w-]+)==", file.read_text("utf-8"), re.MULTILINE)
    }
    table = text_of("CONTRIBUTING.md").partition("## Dependencies")[2]
    explained = {
        name for row in table.splitlines() if row.startswith("| ") for name in row.split(" | ")[0][2:].split(", ")
    } - {"package", "---"}
    assert explained == pinned


def test_the_floors_are_those_that_are_tested() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text_of("docs/architecture.md"), re.MULTILINE)
    assert {package: int(floor) for floor, packages in rows for package in _QUOTED.findall(packages)} == FLOORS


def test_the_tree_names_every_module_and_no_other() -> None:
    sections = re.split(r"^### `(phi3kit/[\w/]*)/`$", text_of("docs/architecture.md"), flags=re.MULTILINE)[1:]
    named = [
        f"{folder}/{module}"
        for folder, section in zip(sections[::2], sections[1::2], strict=True)
        for first in re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
        for module in _QUOTED.findall(first)
    ]
    modules = {str(path.relative_to(PROJECT_ROOT)) for path in KIT.rglob("*.py") if path.stem != "__init__"}
    assert sorted(named) == sorted(modules - {"phi3kit/__main__.py"})
