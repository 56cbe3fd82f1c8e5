"""Generated parts of the documentation match the code."""

import importlib.util
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(generate: ModuleType) -> None:
    old = [str(page.relative_to(ROOT)) for page in generate.differing(generate.pages())]
    assert not old, f"run: .venv/bin/python docs/generate.py    (out of date: {', '.join(old)})"


def test_generated_replaces_a_part_that_differs(generate: ModuleType) -> None:
    page = "# Page\n\n<!-- generated: tensors emotion -->\nold\n<!-- end -->\n"
    new = generate.generated(page)
    assert "| `PROBABILITIES` | out | FP32 | [n, 5] |" in new
    assert generate.generated(new) == new


def test_unknown_part_is_an_error(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match="unknown part 'weather'; known are alerts, "):
        generate.generated("<!-- generated: weather -->\n<!-- end -->\n")


def test_line_over_the_width_is_an_error(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match="shorten it where it comes from"):
        generate.table(("a",), [("x" * 200,)])
