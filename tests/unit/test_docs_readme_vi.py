"""README.vi.md says what README.md says: the same sections, code, links and numbers, in Vietnamese."""

import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, VIETNAMESE = ((ROOT / name).read_text() for name in ("README.md", "README.vi.md"))
HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def sections(page: str) -> list[str]:
    """What is below each heading."""
    prose = CODE.sub("", page)
    return HEADING.split(prose)[1:]


def code(page: str) -> list[str]:
    """Every block, without its comments, which may be translated."""
    return [re.sub(r"(?m) +#.*$", "", block) for block in CODE.findall(page)]


def links(section: str) -> Counter[str]:
    """Targets of links and pictures. The two pages link to each other."""
    return Counter(
        re.sub(r"^README(\.vi)?\.md$", "README", to) for to in re.findall(r"\]\(([^)]+)\)", section)
    )


def words_of_the_machine(section: str) -> Counter[str]:
    """Names in code."""
    return Counter(re.findall(r"`([^`]+)`", section))


def numbers(section: str) -> Counter[str]:
    return Counter(re.findall(r"(?<![\w-])\d+(?:[.,]\d+)*", re.sub(r"\]\([^)]+\)", "]", section)))


PAIRS = list(zip_longest(sections(ENGLISH), sections(VIETNAMESE), fillvalue=""))
NAMES = [heading.strip("# ") for heading in HEADING.findall(CODE.sub("", ENGLISH))]


def test_the_headings_are_of_the_same_number_and_depth() -> None:
    english, vietnamese = (
        [len(heading) - len(heading.lstrip("#")) for heading in HEADING.findall(CODE.sub("", page))]
        for page in (ENGLISH, VIETNAMESE)
    )
    assert english == vietnamese


def test_the_code_is_the_same() -> None:
    assert code(ENGLISH) == code(VIETNAMESE)
    assert len(code(ENGLISH)) > 2


@pytest.mark.parametrize(("english", "vietnamese"), PAIRS, ids=NAMES)
def test_every_section_has_the_same_links_numbers_and_names(english: str, vietnamese: str) -> None:
    assert links(english) == links(vietnamese)
    assert numbers(english) == numbers(vietnamese)
    assert words_of_the_machine(english) == words_of_the_machine(vietnamese)


@pytest.mark.parametrize(("english", "vietnamese"), PAIRS, ids=NAMES)
def test_every_section_has_as_many_paragraphs_rows_and_points(english: str, vietnamese: str) -> None:
    for line in (r"^\|", r"^\* ", r"^!\["):
        assert len(re.findall(line, english, re.M)) == len(re.findall(line, vietnamese, re.M))


@pytest.mark.parametrize(("page", "other"), [(ENGLISH, "README.vi.md"), (VIETNAMESE, "README.md")])
def test_each_names_the_other_at_its_top(page: str, other: str) -> None:
    assert f"]({other})" in page.splitlines()[2]
