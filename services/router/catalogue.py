"""The models that requests may name: groups and deployments, from the settings."""

from collections.abc import Sequence

from mesh.errors import NotFound, Reason
from plexus.router.v1 import router_service_pb2 as pb
from services.router.deployment import Deployment
from services.router.settings import DEFAULT_GROUP, RouterSettings


class Catalogue:
    """Resolves names; "provider/model" may be any model of a provider unless settings forbid it."""

    def __init__(self, settings: RouterSettings) -> None:
        self._providers = frozenset(settings.all_providers)
        self._windows = dict(settings.context_windows)
        self._allow_unlisted = settings.allow_unlisted_models
        self._groups = {
            group: tuple(self._deployment(name) for name in names)
            for group, names in settings.groups.items()
        }
        listed = {d.name: d for group in self._groups.values() for d in group}
        self._deployments = {name: listed[name] for name in sorted(listed)}

    def candidates(self, model: str) -> Sequence[Deployment]:
        """Return the deployments behind a name; an empty one is the default group."""
        name = model or DEFAULT_GROUP
        if name in self._groups:
            return self._groups[name]
        if name in self._deployments:
            return (self._deployments[name],)
        provider, _, rest = name.partition("/")
        if self._allow_unlisted and provider in self._providers and rest:
            return (self._deployment(name),)
        raise NotFound(
            f"the model {name[:100]!r} is not configured here; configured are "
            f"{', '.join([*sorted(self._groups), *self._deployments])}",
            reason=Reason.MODEL_NOT_FOUND,
        )

    def models(self) -> list[pb.Model]:
        """Return groups, then deployments, each sorted by name."""
        groups = [
            pb.Model(
                name=group,
                deployments=[d.name for d in deployments],
                operation="chat",
                context_window_tokens=_least_window(deployments),
            )
            for group, deployments in sorted(self._groups.items())
        ]
        return groups + [
            pb.Model(
                name=d.name,
                deployments=[d.name],
                operation="chat",
                context_window_tokens=d.context_window_tokens,
            )
            for d in self._deployments.values()
        ]

    def _deployment(self, name: str) -> Deployment:
        provider, _, model = name.partition("/")
        return Deployment(
            provider=provider, model=model, context_window_tokens=self._windows.get(name, 0)
        )


def _least_window(deployments: Sequence[Deployment]) -> int:
    """Return what fits everywhere; 0 when one of the windows is unknown."""
    windows = [d.context_window_tokens for d in deployments]
    return min(windows) if all(windows) else 0
