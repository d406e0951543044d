"""Every option is shown, by a real test, to change what the gateway does (F9).

Such a test carries `@pytest.mark.option("name", …)`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from app.settings import Settings, options

TESTS = Path(__file__).parent.parent


def marked() -> Iterator[str]:
    """The options that tests are marked with."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(
                    "mark.option"
                ):
                    yield from (ast.literal_eval(argument) for argument in decorator.args)


def test_every_option_has_a_test_and_every_mark_an_option() -> None:
    found, known = set(marked()), set(options(Settings()))
    assert found == known, (
        f"without a test marked pytest.mark.option: {sorted(known - found)}; "
        f"marked and no option: {sorted(found - known)}"
    )
