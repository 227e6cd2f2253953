"""A marked block by two functions of texts: what a text says, and the text that leads elsewhere."""

from collections.abc import Collection

from watcher.decide.config_block import Block, MarkedFile
from watcher.decide.model import Route


def parse(text: str, cluster: str, file: str, replicas: Collection[str] = ()) -> Block:
    """What the block of `cluster` says; BlockError as `MarkedFile` raises it."""
    return MarkedFile(text, cluster, file, replicas).block


def rewrite(text: str, cluster: str, route: Route, file: str, replicas: Collection[str] = ()) -> str:
    """The text with that block led to `route`; BlockError as `MarkedFile` raises it."""
    return MarkedFile(text, cluster, file, replicas).led_to(route).text
