"""Every door, by name."""

from tests.hostile.door import Door
from tests.hostile.doors import agent, console, etcd_keys, file, http, settings

ALL: dict[str, Door] = {
    door.name: door for module in (file, etcd_keys, http, console, agent, settings) for door in module.DOORS
}
