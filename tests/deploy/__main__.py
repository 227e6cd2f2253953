"""`python -m tests.deploy` builds every image that the tests here need, minutes of work where there is none.

CI does that beside other tests, so that these need not wait for it.
"""

import sys

from tests.deploy.compose_system import ComposeSystem
from tests.deploy.images import build_pgbouncer, build_systemd_host
from tests.support.folders import bed_folder
from tests.support.hosts import build_image


def main() -> int:
    print(build_image(), build_systemd_host(), build_pgbouncer(), sep="\n", flush=True)
    with bed_folder() as folder:
        ComposeSystem(folder).build()
    return 0


if __name__ == "__main__":
    sys.exit(main())
