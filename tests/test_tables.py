"""`tools/build_tables.py`: a documentation page's tables come from the commands that stand above them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGE = """# Page

Words with `python no.py`, not at their beginning:

| kept |
|---|

`python -c "print('before\\n| new |\\n|---|\\n| 1 |\\n\\nafter')"`, and words
on two lines:

| old |
|---|
| 2 |
| 3 |

After.

```bash
python -c "import sys; print('|', *sys.argv[1:], '|')" \\
    PHOTOS
```

| older |
"""


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_tables", ROOT / "tools" / "build_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_replaced_and_all_else_stays(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, "utf-8")
    monkeypatch.setattr(sys, "argv", ["build_tables.py", str(page), "--images", "a.png", "b.png"])
    builder.main()
    expected = PAGE.replace("| old |\n|---|\n| 2 |\n| 3 |", "| new |\n|---|\n| 1 |")
    assert page.read_text("utf-8") == expected.replace("| older |", "| a.png b.png |")


@pytest.mark.parametrize("command", ["python -c 'print(1)'", "python -c '1/0'", "python x.py --taef2 FOLDER"])
def test_what_gives_no_table_says_so(builder: ModuleType, command: str) -> None:
    with pytest.raises(ValueError, match="Expected"):
        builder.made(command, [], None)


@pytest.mark.parametrize(("page", "count"), [("harmonise.md", 8), ("evaluate.md", 2)])
def test_pages_name_their_commands(builder: ModuleType, page: str, count: int) -> None:
    commands = [command for command, _ in builder.tables((ROOT / "docs" / page).read_text("utf-8"))]
    assert len(commands) >= count
    for command in commands:
        script = command.split()[1]
        assert script == "-m" or (ROOT / script).is_file()
