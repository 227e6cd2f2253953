"""Pages of docs/ whose tables are made from the code, between two marks."""

from __future__ import annotations


def between(page: str, begin: str, end: str, text: str) -> str:
    """The page with `text` between its marks.

    >>> between("a <b> old <e> z", "<b>", "<e>", "new")
    'a <b>\\n\\nnew\\n\\n<e> z'
    """
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page needs {begin} and {end} once each")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
