"""The documentation says what the code says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clipdrift.config import PretrainConfig, RunConfig, load_config, parse_config, read_toml
from clipdrift.listing import MEASURES, METHODS, PENALTIES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_copied_parts_are_up_to_date() -> None:
    """The reference page and the README's tree are what `make docs` would write."""
    done = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_names_every_command() -> None:
    """A command that the README does not mention is not found by its users."""
    from clipdrift.cli import app

    readme = (ROOT / "README.md").read_text()
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        assert f"clipdrift {name}" in readme, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists."""
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_measure_and_method_is_described() -> None:
    """Definitions stand in docs/measures.md, methods and penalties in the reference, with their keys."""
    measures, reference = ((ROOT / "docs" / n).read_text() for n in ("measures.md", "reference.md"))
    assert not [name for name in MEASURES if f"`{name.removesuffix('_projection')}`" not in measures]
    assert not [name for name in [*METHODS, *PENALTIES] if f"`{name}`" not in reference]
    assert not [name for name in METHODS if f"### method = {name}\n" not in reference]
    assert not [name for name in PENALTIES if f"### penalty = {name}\n" not in reference]


PRETRAININGS = ("mini-photo.toml",)


@pytest.mark.parametrize("example", PRETRAININGS)
def test_examples_are_legal_pretrainings(example: str) -> None:
    """A file that the documentation names must be taken as it is."""
    config = parse_config(read_toml(ROOT / "examples" / example, []), PretrainConfig)
    assert config.data.name == "cifar100"


@pytest.mark.parametrize(
    "example",
    sorted(p for p in ROOT.glob("examples/*.toml") if p.name not in PRETRAININGS),
    ids=lambda p: p.name,
)
def test_examples_are_legal_runs(example: Path) -> None:
    """An example that does not parse teaches the wrong thing."""
    assert isinstance(load_config(example), RunConfig)


def test_readme_overrides_are_legal() -> None:
    """Every `--set` of the README is accepted."""
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^clipdrift train((?:.*\\\n)*.*)$", readme, flags=re.MULTILINE)
    found = [re.findall(r"--set ('[^']+'|\S+)", command) for command in commands]
    assert sum(map(len, found)) >= 5
    for overrides in found:
        load_config(None, [text.strip("'") for text in overrides])


def test_readme_python_config_is_legal() -> None:
    """The dictionary of the Python example is a legal run."""
    from clipdrift.config import parse_config

    readme = (ROOT / "README.md").read_text()
    literal = re.search(r"clipdrift\.train\(\n(.*?)\n\)", readme, flags=re.DOTALL)
    assert literal is not None
    parse_config(ast.literal_eval(literal[1].strip()), RunConfig)


def test_stable_names_exist() -> None:
    """Everything in ``__all__`` can be had, and the README's version is the package's."""
    import clipdrift

    for name in clipdrift.__all__:
        assert getattr(clipdrift, name) is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == clipdrift.__version__


def test_no_file_breaks_the_size_rule(tmp_path: Path) -> None:
    """The rule is kept, and the tool that holds it does notice a file that is too long."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from sizes import too_long
    finally:
        sys.path.pop(0)
    assert too_long() == []
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "long.py").write_text("x = 1\n" * 401)
    assert len(too_long(tmp_path)) == 1
