"""Whom to ask whether it takes clients: a leader that is not known to be ready. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from watcher.decide.decision import Policy, ReadyBy, address, is_doubted, is_ready, needed_role
from watcher.decide.model import Endpoint, Leadership, Role, View
from watcher.decide.view import leadership


@dataclass(frozen=True, slots=True)
class Want:
    """A leader to ask until it is in `role`; `again` if it was, and has to say so once more.

    `api_urls` are its own, those that answered lately first. `endpoint` is where clients would connect,
    or why that is not known.
    """

    leadership: Leadership
    role: Role
    api_urls: tuple[str, ...]
    endpoint: Endpoint | str
    by: ReadyBy
    again: bool = False


def wanted(view: View, policy: Policy) -> Want | None:
    """None while nobody reigns whom clients may be sent to, and once the leader of this reign is ready and
    nobody has seen it refuse connections since.
    """
    reign = leadership(view)
    role = needed_role(view, policy)
    if not isinstance(reign, Leadership) or role is None:
        return None
    again = is_ready(view, policy, reign)
    if again and not is_doubted(view, policy, reign):
        return None
    member = view.members.get(reign.name)
    return Want(
        leadership=reign,
        role=role,
        api_urls=_api_urls(view, reign.name),
        endpoint=address(reign.name, member, policy),
        by=policy.ready_by,
        again=again,
    )


def _api_urls(view: View, name: str) -> tuple[str, ...]:
    reports = () if view.health is None else view.health.reports
    answered = [report.api_url for report in reports if report.name == name]
    member = view.members.get(name)
    told = [] if member is None or member.api_url is None else [member.api_url]
    return tuple(dict.fromkeys(answered + told))
