"""Pages of a listing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.paging import page


@settings(max_examples=50, deadline=None)
@given(st.sets(st.text(max_size=3)), st.integers(1, 5), st.sets(st.text(max_size=3)))
def test_what_is_there_all_the_while_is_shown_once_and_in_order(
    names: set[str], limit: int, later: set[str]
) -> None:
    names -= {""}
    shown: list[str] = []
    mark: str | None = ""
    present = names
    while mark is not None:
        found, mark = page(present, str, after=mark, limit=limit)
        assert len(found) == limit or mark is None
        shown += found
        present = names | later - {""}
    assert shown == sorted(set(shown))
    assert names <= set(shown)
