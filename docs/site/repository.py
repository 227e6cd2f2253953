"""Gives the site what lies outside docs/: the README, the changelog, and every file that a page links to.

A hook of MkDocs. Links stay as they are written, so that they work in the repository too; on the site they
lead to the page that was made of the file. A link to nothing is left alone, and fails the strict build.
"""

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NAMED = {"README.md": "index.md", "README.vi.md": "vi.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()[^)#:\s]+")
"""The path of a link within the repository: no scheme, no anchor."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that is named here or linked, by those pages too."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    waiting = {*NAMED, *_outside(texts.items())}
    while waiting:
        new = {path: (ROOT / path).read_text(encoding="utf-8") for path in waiting}
        for path, text in new.items():
            content = _led(text, path) if path.endswith(".md") else _shown(path, text)
            files.append(File.generated(config, _place(path), content=content))
        texts |= new
        waiting = _outside(new.items()) - texts.keys()
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Lead the links of the pages in docs/."""
    return markdown if page.file.generated_by else _led(markdown, f"docs/{page.file.src_uri}")


def _outside(texts: Iterable[tuple[str, str]]) -> set[str]:
    """Files outside docs/ that these texts, by their paths, link to."""
    linked = {_target(link, path) for path, text in texts for link in LINK.findall(text)}
    return {path for path in linked if not path.startswith("docs/") and (ROOT / path).is_file()}


def _target(link: str, path: str) -> str:
    """
    >>> _target("../../deploy/a.yaml", "docs/runbooks/README.md")
    'deploy/a.yaml'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _place(path: str) -> str:
    """Where the site has a file of the repository.

    >>> _place("README.md"), _place("docs/adr/README.md"), _place("deploy/watcher.example.yaml")
    ('index.md', 'adr/README.md', 'deploy/watcher.example.yaml.md')
    """
    if path in NAMED or path.startswith("docs/"):
        return NAMED.get(path, path.removeprefix("docs/"))
    return path if path.endswith(".md") else f"{path}.md"


def _led(text: str, path: str) -> str:
    """The text with its links as they are on the site.

    >>> _led("[holds](docs/holds.md#x)", "README.md")
    '[holds](holds.md#x)'
    """
    here = posixpath.dirname(_place(path))

    def led(link: re.Match[str]) -> str:
        target = _target(link[0], path)
        return posixpath.relpath(_place(target), here or ".") if (ROOT / target).is_file() else link[0]

    return LINK.sub(led, text)


def _shown(path: str, text: str) -> str:
    """A page that shows a file.

    >>> _shown("deploy/a.yaml", "a: 1")
    '# a.yaml\\n\\n`deploy/a.yaml` of the repository.\\n\\n```yaml\\na: 1\\n```\\n'
    """
    name, kind = posixpath.basename(path), posixpath.splitext(path)[1].removeprefix(".")
    return f"# {name}\n\n`{path}` of the repository.\n\n```{kind}\n{text.rstrip()}\n```\n"
