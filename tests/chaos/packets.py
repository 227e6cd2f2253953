"""What a network does to packets, by rules of nftables in a network of our own.

Debian's small kernels have no `netem`, so loss is a rule that drops at random; what is late goes through
`Proxy.late`.
"""

from itertools import count
from typing import Literal

from tests.support.processes import run

_numbers = count(1)


class Packets:
    """Packets that match are dropped, all of them or some percent, until `pass_again`; where they arrive
    (`input`), or where they leave (`output`), where it is known who sent them.
    """

    def __init__(self, match: str, percent: int = 100, hook: Literal["input", "output"] = "input") -> None:
        self._table = f"chaos{next(_numbers)}"
        chance = "" if percent == 100 else f"numgen random mod 100 < {percent} "
        self._rules = (
            f"table inet {self._table} {{\n"
            f"  chain one {{ type filter hook {hook} priority 0; {match} {chance}counter drop; }}\n}}\n"
        )

    def drop(self) -> None:
        """From now on; connections stay."""
        run(["nft", "-f", "-"], stdin=self._rules)

    def pass_again(self) -> None:
        """They pass again. Idempotent."""
        table = f"table inet {self._table}\n"
        run(["nft", "-f", "-"], stdin=f"{table}delete {table}")
